"""What a model folder says about its model; every field is written to `config.json` and read back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from vpd.errors import UsageError

Task = str
"""Word by which a task is known: `segment`, `refer`, `depth`, or that of a task of one's own."""
Recipe = Literal["reference", "default"]
HeadNorm = Literal["batch", "group"]
HeadPadding = Literal["zeros", "replicate"]
DepthScale = Literal["linear", "log"]
"""`linear`: a sigmoid times the largest depth, as published; `log`: evenly in logarithms, from a hundredth of it on."""
MapScale = Literal["probability", "log_ratio"]
"""How attention enters a head. `probability`: as it is, as published; values are near one over the number of tokens, so
a head learns to heed it late. `log_ratio`: logarithm of its ratio to that, times a constant; 0 = as much as to any
other token, and about as large as the features."""

Checkpointing = bool | Literal["cheap"]
"""What of the UNet's blocks is made again in the backward pass: nothing, all, or only what is cheap."""

FORMAT_VERSION: Literal[1] = 1
MOST_NAMES = 65_535
"""Classes or scenes of a model: their numbers, and one for ignored pixels, fit into 16 bits."""
_MOST_LAYERS, _MOST_CHANNELS = 16, 2**16


class Frozen(BaseModel, extra="forbid", frozen=True, use_attribute_docstrings=True):
    """Base of all configuration: immutable, and unknown keys are errors."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_none(cls, given: Any) -> Any:
        """Where `none` is one of the words that a field takes, null means it: to a user they are the same."""
        if not isinstance(given, dict):
            return given
        words = {name for name, known in cls.model_fields.items() if "none" in get_args(known.annotation)}
        return {key: "none" if value is None and key in words else value for key, value in given.items()}


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes or scenes, stripped.

    Raises:
        UsageError: If it is no list of texts, there is no name or more than `MOST_NAMES`, or one is empty or stands
            twice.
    """
    if isinstance(names, str):
        raise UsageError(f"Names must be a list, not one string: [{names!r}] instead of {names!r}.")
    given = list(names) if isinstance(names, Iterable) and not isinstance(names, (bytes, Mapping, Set)) else None
    if given is None or not all(isinstance(name, str) for name in given):
        raise UsageError(f"Names must be a list of texts, in the order of their numbers: got {str(names)[:300]}.")
    if len(given) > MOST_NAMES:
        raise UsageError(f"There are {len(given)} names; 16-bit labels hold {MOST_NAMES} classes at most.")
    stripped = tuple(name.strip() for name in given)
    doubled = sorted(name for name, count in Counter(stripped).items() if count > 1)
    if not stripped or not all(stripped) or doubled:
        raise UsageError(f"Names must be given, non-empty and different: got {str(given)[:300]}, twice: {doubled[:9]}.")
    return stripped


def listed_names(text: str) -> list[str]:
    """Names that a user typed with `;` between them, or with commas where there is no `;`."""
    return [name.strip() for name in text.split(";" if ";" in text else ",")]


def first_names(names: Sequence[str], most: int = 5) -> str:
    """The names, or the first of them and how many more there are."""
    return ", ".join([*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])])


Names = Annotated[tuple[str, ...], AfterValidator(unique_names)]
"""Names of classes or scenes: at least one, none empty, none twice."""


class Resize(Frozen):
    """How an image is brought to the scale a model was trained at, and cut into windows."""

    mode: Literal["resize_short", "squash", "native"] = "resize_short"
    """`resize_short`: keep the aspect ratio, short side to `size_px`, long side at most `max_long_px`;
    `squash`: to a square of `size_px`, as the reference does for referring; `native`: leave as it is."""
    size_px: PositiveInt = 512
    """Short side, or side of the square, pixels."""
    max_long_px: PositiveInt = 2048
    """`resize_short` shrinks further where the long side would exceed this, pixels."""
    window_px: PositiveInt | None = None
    """Side of sliding windows, pixels; none = the whole image in one pass."""
    stride_px: PositiveInt | None = None
    """Distance of two windows, pixels; the last one is moved back to the border. With `blend` the most that it is."""
    blend: bool = False
    """Spread windows evenly and blend them where they overlap, without seams; false = averaged, as published."""
    antialias: bool = True
    """Smooth when shrinking; false = as OpenCV, with which the published segmentation models were trained."""
    flip: bool = False
    """Average the outputs for the image and for its mirror image."""
    scales: Annotated[tuple[Annotated[float, Field(gt=0, le=8)], ...], Field(min_length=1)] = (1.0,)
    """Segmentation averages the probabilities at these multiples of the fitted size; windows keep their side."""

    @model_validator(mode="after")
    def _check_windows(self) -> Resize:
        if (self.window_px is None) != (self.stride_px is None):
            raise ValueError("window_px and stride_px go together: give both or neither")
        if self.window_px and self.stride_px and self.stride_px > self.window_px:
            raise ValueError(f"stride_px={self.stride_px} leaves gaps between windows of {self.window_px} px")
        if self.blend and self.window_px == self.stride_px:
            raise ValueError("blend is of windows that overlap: give window_px, and a stride_px that is less")
        return self

    @model_serializer(mode="wrap")
    def _leave_out(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Models of older releases, which knew no `blend`, are written as they were."""
        return {key: value for key, value in write(self).items() if key != "blend" or value}

    def describe(self) -> str:
        """In words."""
        words = {
            "resize_short": f"short side to {self.size_px} px, long side at most {self.max_long_px} px",
            "squash": f"squashed to {self.size_px}x{self.size_px} px",
            "native": "at their own size",
        }[self.mode]
        if self.scales != (1.0,):
            words += f", times {', '.join(f'{scale:g}' for scale in self.scales)}"
        if self.window_px:
            words += f", in {'blended ' if self.blend else ''}windows of {self.window_px} px every {self.stride_px} px"
        return words + (", averaged with the mirror image" if self.flip else "")


class LoraSettings(Frozen):
    """Low-rank additions to the projections of the UNet's attention (LoRA, https://arxiv.org/abs/2106.09685)."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of each addition."""
    alpha: PositiveFloat = 16.0
    """An addition counts `alpha` / `rank` times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before each addition while training."""


class BackboneConfig(Frozen):
    """Architecture of the diffusion model's parts and how they are run."""

    unet: dict[str, Any]
    """Configuration of diffusers' `UNet2DConditionModel`."""
    vae: dict[str, Any]
    """Configuration of diffusers' `AutoencoderKL`."""
    timestep: Annotated[int, Field(ge=0, le=999)] = 1
    """Constant diffusion timestep; 1 = almost no noise, as the reference uses."""
    latent_scaling: Literal["none", "scaled"] = "scaled"
    """`scaled`: latents times the VAE's scaling factor, as the UNet was pre-trained (TADP: NYU 0.248 -> 0.235);
    `none`: as the published VPD checkpoints were trained."""
    detach_maps: bool = False
    """Let no gradient flow through the attention maps that the head gets, as in the reference's training."""
    map_scale: MapScale = "probability"
    """How attention enters the head. `probability`: as it is, as published; `log_ratio`: logarithm of its ratio to an
    even distribution, which heads learn to use much sooner (docs/claims.md)."""
    source: str = ""
    """Where the diffusion weights came from."""
    lora: LoraSettings | None = None
    """Low-rank additions that stand beside the UNet's weights, in checkpoints of such a training; none = no such, or
    merged into the weights, as in the finished model."""

    @field_validator("unet", "vae")
    @classmethod
    def _check_sizes(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        """A configuration is somebody's file: it must not make this program build something enormous."""
        for name, value in architecture.items():
            numbers = value if isinstance(value, (list, tuple)) else [value]
            most = _MOST_LAYERS if "layers_per_block" in name else _MOST_CHANNELS
            if len(numbers) > _MOST_LAYERS or any(isinstance(number, int) and number > most for number in numbers):
                raise ValueError(f"{name}={str(value)[:80]} is not the size of a diffusion model")
        return architecture


class TaskConfig(Frozen):
    """What the tasks have in common; each adds `task: Literal[...]`, by which a saved model is told, and its own."""

    if TYPE_CHECKING:
        task: str
        """Each task has its own, in its place among the fields."""
    title: ClassVar[str]
    """The field's name for the task."""
    head_name: ClassVar[str] = ""
    """What its head is called, where there is one kind."""
    hub_task: ClassVar[str] = "image-segmentation"
    """What the hub calls the task."""
    example: ClassVar[Mapping[str, str]] = {}
    """Words that a call needs, for examples of it."""
    later: ClassVar[Set[str]] = frozenset()
    """Fields that older releases did not have; where they are as those were, they are not written."""

    format_version: Literal[1] = FORMAT_VERSION
    """Layout of the model folder."""
    recipe: Recipe = "default"
    """`reference` = as published, quirks included; `default` = what we recommend."""
    backbone: BackboneConfig
    """The diffusion model."""
    fit: Resize
    """How `predict` fits an image of any size."""
    head_norm: HeadNorm = "batch"
    """Normalisation in the head. `batch`: BatchNorm, as published; `group`: GroupNorm, with which training does not
    depend on how a step is cut into batches."""
    licence: str = "unknown"
    """Licence of the weights."""
    notes: dict[str, Any] = {}
    """Where the weights came from: training run, converted file."""

    @model_serializer(mode="wrap")
    def _leave_out(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Models of older releases are written as they were, and predictions of theirs are known by that."""
        before = {key: type(self).model_fields[key].default for key in self.later}
        return {key: value for key, value in write(self).items() if key not in before or value != before[key]}

    def told(self) -> dict[str, str]:
        """What a model knows by name: word -> sentence."""
        return {}

    def in_short(self) -> str:
        """What a model knows, in a few words."""
        return ""


class SegmentConfig(TaskConfig):
    """A semantic segmentation model."""

    title: ClassVar[str] = "semantic segmentation"
    later: ClassVar[Set[str]] = {"overlap"}

    task: Literal["segment"] = "segment"
    classes: Names
    """Class names, in the order of the labels. Of up to 255 the label of ignored pixels is 255."""
    templates: tuple[str, ...] = ()
    """Sentences with `{}` that class names are put into; none = CLIP's 80."""
    head: Literal["fpn", "open"] = "fpn"
    """`fpn`: the published head, made for exactly these classes; `open`: matches pixels with class texts, so
    that classes can be changed without new weights."""
    head_channels: PositiveInt = 256
    """Width of the head."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout before the last layer of the head."""
    count_ignored: bool = False
    """Count ignored pixels in the mean of the loss, as the reference does."""
    overlap: bool | None = None
    """Ask for each class by itself, so that classes may overlap (`red things; cubes; floor`): a pixel may fit several,
    of which its label is the first in the list, or none of them, and then it has no class. None = no: each pixel
    has the one class that is most probable."""

    def told(self) -> dict[str, str]:
        """See `TaskConfig`."""
        return {"classes": f"{len(self.classes)}: {', '.join(self.classes)}"}

    def in_short(self) -> str:
        """See `TaskConfig`."""
        return f"{len(self.classes)} class{'es' * (len(self.classes) > 1)}: {first_names(self.classes)}"


DOUBTFUL = 0.2
"""Calibrated presence below which a text is told to fit probably nothing.

At 0.5 every fifth right text of `world-refer` would be doubted, at this every twentieth."""


def is_doubtful(presence: float | None, *, is_calibrated: bool) -> bool:
    """Whether a text is told to fit probably nothing; a raw score is no probability and tells none."""
    return is_calibrated and presence is not None and presence < DOUBTFUL


class PresenceCalibration(Frozen):
    """How the probabilities of a mask tell whether the text fits anything (Platt 1999); fitted on validation data."""

    slope: NonNegativeFloat
    """Factor of the log-odds of the raw score."""
    offset: float
    """What is added to them."""
    auc: Annotated[float, Field(ge=0, le=1)]
    """Share of the pairs of a right and an exchanged text in which the right one scored higher; 0.5 = by chance."""
    pairs: PositiveInt
    """Pictures that it was fitted on, each with its own text and with that of another."""


class ReferConfig(TaskConfig):
    """A referring segmentation model."""

    title: ClassVar[str] = "referring segmentation"
    example: ClassVar[Mapping[str, str]] = {"text": "the cup on the left"}
    later: ClassVar[Set[str]] = {"head", "adapter", "presence", "threshold"}

    task: Literal["refer"] = "refer"
    token_length: Annotated[int, Field(ge=3, le=77)] = 40
    """Tokens an expression is padded or cut to: 40 for RefCOCO and RefCOCO+, 77 for RefCOCOg."""
    head: Literal["cascade", "grounded"] = "cascade"
    """`cascade`: the published head, which hears of the text by the features; `grounded`: reads the text itself and
    knows positions."""
    adapter: Literal["mlp", "transformer"] = "mlp"
    """What refines the text: `mlp`, word by word, as published; `transformer`, all words together."""
    head_channels: PositiveInt = 640
    """Width of the head; a multiple of 8 where it is `grounded`."""
    class_weights: tuple[float, float] = (0.9, 1.1)
    """Weights of background and object in the cross-entropy."""
    presence: PresenceCalibration | None = None
    """How it is told whether a text fits anything; none = not calibrated."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability above which a pixel belongs to the object, chosen on validation data; none = 0.5, as published."""

    def told(self) -> dict[str, str]:
        """See `TaskConfig`."""
        words = {"tokens": f"{self.token_length} for an expression", "presence": "not calibrated"}
        if known := self.presence:
            words["presence"] = f"calibrated on {known.pairs} pairs, AUC {known.auc:.2f} (0.5 = by chance)"
        return words

    def in_short(self) -> str:
        """See `TaskConfig`."""
        return f"expressions of up to {self.token_length} tokens"

    @model_validator(mode="after")
    def _check_width(self) -> ReferConfig:
        if self.head == "grounded" and self.head_channels % 8:
            raise ValueError(f"head_channels={self.head_channels}: a grounded head needs a multiple of 8")
        return self

    @field_validator("fit")
    @classmethod
    def _check_fit(cls, fit: Resize) -> Resize:
        if fit.flip or fit.scales != (1.0,):
            raise ValueError("referring averages neither scales nor mirror images, which swap left and right")
        return fit


class DepthConfig(TaskConfig):
    """A metric depth model."""

    title: ClassVar[str] = "metric depth"
    hub_task: ClassVar[str] = "depth-estimation"
    later: ClassVar[Set[str]] = {
        "count_beyond",
        "head_padding",
        "head_skips",
        "depth_scale",
        "pixel_loss",
        "gradient_loss",
    }
    head_name: ClassVar[str] = "deconvolution"

    task: Literal["depth"] = "depth"
    scenes: Names
    """Scene names, in the order of their embeddings."""
    max_depth_m: PositiveFloat = 10.0
    """Largest depth the model can output, metres."""
    head_channels: PositiveInt = 192
    """Width of the head's last layers (192 in the reference)."""
    feature_channels: Annotated[PositiveInt, Field(multiple_of=16)] = 1536
    """Width of the fused features at stride 32 (8 times `head_channels` in the reference)."""
    deconv_channels: tuple[PositiveInt, ...] = (32, 32, 32)
    """Filters of the deconvolutions."""
    loss_over: Literal["batch", "image"] = "image"
    """Whose pixels one scale-invariant error is taken over: `image`, and the mean of these, so that the loss does not
    depend on how a step is cut into batches; or `batch`, as the reference does."""

    count_beyond: bool | None = None
    """Count truth beyond `max_depth_m` in the loss, as the reference does; none = as the recipe has it."""

    head_padding: HeadPadding | None = None
    """What the head's last layers see beyond the picture's border. `zeros`: nothing, as published, which shows as a
    frame; `replicate`: the border's own values; none = `zeros`."""
    head_skips: bool | None = None
    """Let the two finest feature maps enter the head once more, between its deconvolutions; none = no, as published."""
    depth_scale: DepthScale | None = None
    """What the head says. `linear`: a share of `max_depth_m`, as published; `log`: the logarithm of depth between a
    hundredth of `max_depth_m` and all of it; none = `linear`."""
    pixel_loss: Literal["silog", "log_l1"] | None = None
    """Error of the pixels. `silog`: scale-invariant, of squared logarithms, as published; `log_l1`: mean absolute
    error of logarithms; none = `silog`."""
    gradient_loss: NonNegativeFloat | None = None
    """Weight of a second loss, on steps of depth between neighbours at four scales; none or 0 = as published, without.
    """

    @property
    def counts_beyond(self) -> bool:
        """Whether truth beyond `max_depth_m` counts in the loss."""
        return self.recipe == "reference" if self.count_beyond is None else self.count_beyond

    def told(self) -> dict[str, str]:
        """See `TaskConfig`."""
        scenes = f"{len(self.scenes)}: {', '.join(self.scenes)}"
        return {"scenes": scenes, "range": f"up to {self.max_depth_m:g} m"}

    def in_short(self) -> str:
        """See `TaskConfig`."""
        scenes = f"{len(self.scenes)} scene{'s' * (len(self.scenes) > 1)}: {first_names(self.scenes)}"
        return f"up to {self.max_depth_m:g} m; {scenes}"

    @field_validator("fit")
    @classmethod
    def _check_fit(cls, fit: Resize) -> Resize:
        if fit.scales != (1.0,):
            raise ValueError("depth does not average scales; flip and windows it does")
        return fit


CONFIGS: dict[str, type[TaskConfig]] = {"segment": SegmentConfig, "refer": ReferConfig, "depth": DepthConfig}
"""Of this package's tasks, for what tells of models without waiting for torch."""
