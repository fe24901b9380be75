"""Metric depth: a scene prompt and diffusion features -> metres for every pixel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import Checkpointing, DepthConfig, Recipe, Resize, unique_names
from vpd.data.colour import BrightnessContrast, CutDepth, Gamma, HueSaturationValue
from vpd.data.geometric import RandomCrop, RandomFlip, RandomResize
from vpd.data.sample import GENERIC_SCENE, CountedDepth, Sample, SampleSet
from vpd.data.transforms import Pipeline
from vpd.drawing.errors import DEPTH_LEGEND, depth_error_map
from vpd.drawing.overlays import UNKNOWN_COLOUR, Shown, colour_depth, depth_range
from vpd.errors import UsageError
from vpd.heads.deconv import DeconvHead
from vpd.inference.cache import FrozenCaches
from vpd.inference.inputs import one_each
from vpd.inference.plan import Asked
from vpd.metrics.depth import EDGE_JUMP, EDGE_PX, EDGES, DepthMetrics, EdgeMetrics
from vpd.metrics.distances import distance_counts
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.names import EmbedNames, embed_names
from vpd.prompts.names import published_prompts as read_published_prompts
from vpd.tasks.depth_losses import depth_loss_sum
from vpd.tasks.failures import Diagnosis, depth_failure
from vpd.tasks.losses import LossSum
from vpd.tasks.model import PerceptionModel
from vpd.tasks.predictions import DepthPrediction, read_shown_range
from vpd.tasks.recipes import recipe_backbone
from vpd.tasks.task import Measures, Seen, truth_of
from vpd.tensors import Batch

REFERENCE_FIT = Resize(mode="resize_short", size_px=480, max_long_px=1920, window_px=480, stride_px=160, flip=True)
"""640x480 is cut into two 480x480 windows, each run with its mirror image: 4 passes, as published."""
OPTIONS: dict[Recipe, dict[str, Any]] = {
    "reference": {"loss_over": "batch"},
    "default": {"loss_over": "image", "head_padding": "replicate", "head_skips": True},
}
"""Fields of a new model's configuration that a recipe decides."""
RATES = {"learning_rate": 5e-4, "weight_decay": 0.1, "unet_lr_scale": 0.01, "batch_size": 24}
MEAN_SCENE = "mean of all scenes"
"""What a prediction says of its prompt where no scene was given."""


class _Wanted(NamedTuple):
    """What a prediction says."""

    scenes: Sequence[str | None]
    shown_m: tuple[float, float] | None


class DepthModel(PerceptionModel[DepthPrediction]):
    """Images and scene prompts -> depth in metres.

    Words of `predict`: `scene`, one of the model's scene classes, or one for each image; none = the mean of all.
    `near_m`, `far_m`, the depths of the first and the last colour of all pictures; one alone goes with 0 or the model's
    range; none = each picture has its own.

    Args:
        config: What the model is.
        backbone: The diffusion model.
        text_encoder: Not needed: the scenes' embeddings travel with the model.

    Shape:
        images `(b, 3, H, W)` in [-1, 1], text_embeds `(b, 1, d)` -> `(b, 1, H, W)` metres
    """

    task = "depth"
    config_type = DepthConfig
    truth = "depth_m"
    words = ("scene", "near_m", "far_m")
    output = "depth_m"
    output_is_positive = True
    score = "rmse"
    score_is_error = True
    recipes: ClassVar = {
        "reference": {**RATES, "crop_px": 480, "epochs": 25, "loss_reduction": "batch"},
        "default": {**RATES, "crop_px": 480, "epochs": 25, "clip_norm": 1.0, "loss_reduction": "global"},
    }
    published_schedule: ClassVar = {"kind": "rise_fall", "power": 0.9, "floor": 0.06}  # 3e-5 of 5e-4

    config: DepthConfig
    head: DeconvHead
    scene_embeddings: Tensor

    def __init__(
        self,
        config: DepthConfig,
        *,
        backbone: StableDiffusionBackbone,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        head = DeconvHead(
            channels=backbone.channels,
            strides=backbone.strides,
            max_depth_m=config.max_depth_m,
            feature_channels=config.feature_channels,
            deconv_channels=config.deconv_channels,
            head_channels=config.head_channels,
            norm=config.head_norm,
            padding=config.head_padding or "zeros",
            has_skips=bool(config.head_skips),
            scale=config.depth_scale or "linear",
        )
        super().__init__(config, backbone=backbone, head=head, text_encoder=text_encoder)
        self.register_buffer("scene_embeddings", torch.zeros(len(config.scenes), backbone.text_dim))

    @classmethod
    def from_diffusion(
        cls,
        source: str | Path,
        *,
        scenes: Sequence[str],
        max_depth_m: float = 10.0,
        recipe: Recipe = "default",
        fit: Resize | None = None,
        gradient_checkpointing: Checkpointing = False,
        backbone_options: dict[str, Any] | None = None,
        published_prompts: bool = False,
        embed: EmbedNames | None = None,
        **options: Any,
    ) -> DepthModel:
        """A model to train: pre-trained diffusion weights, a new head.

        Args:
            source: Stable Diffusion: folder, hub id or single file.
            scenes: Names of scene classes to make prompts from, such as `kitchen`.
            max_depth_m: Largest depth the model can output, metres.
            recipe: `reference` as published, or `default`.
            fit: How `predict` fits images; none = short side 480, square windows, each with its mirror image; by
                default blended.
            gradient_checkpointing: Recompute the UNet's blocks in the backward pass, or of them what is `cheap`.
            backbone_options: Those of `BACKBONE_OPTIONS` that are not as the recipe has them.
            published_prompts: Take the embeddings that the published model was trained with; for the scenes of NYU.
            embed: Makes the prompts, where neither; see `EmbedNames`.
            options: Other fields of `DepthConfig`.

        Raises:
            UsageError: If the source has no text encoder.
        """
        scenes = unique_names(scenes)
        encoder = TextEncoder.from_pretrained(source)
        backbone = recipe_backbone(cls.backbone_type, source, recipe, gradient_checkpointing, backbone_options or {})
        config = DepthConfig(
            recipe=recipe,
            backbone=backbone.config,
            scenes=scenes,
            max_depth_m=max_depth_m,
            fit=fit or REFERENCE_FIT.model_copy(update={"blend": recipe != "reference"}),
            **{**OPTIONS[recipe], **options},
        )
        model = cls(config, backbone=backbone)
        if published_prompts:
            prompts = read_published_prompts(scenes, dim=backbone.text_dim)
        else:
            prompts = embed(encoder, scenes) if embed else embed_names(encoder, scenes)
        model.scene_embeddings.copy_(prompts)
        return model

    def forward(
        self, images: Tensor, text_embeds: Tensor | None = None, *, caches: FrozenCaches | None = None
    ) -> Tensor:
        """Depth `(b, 1, H, W)`, metres; `text_embeds` `(b, 1, d)`, or none for the mean of all scenes."""
        height, width = images.shape[-2:]
        _, text = self.read_prompts(text_embeds)
        padded, latents = self.padded(images, caches)
        maps = self.backbone(padded, text, latents=latents).maps
        fused = self.head.fused(maps)
        # What was fused from the padding is cut off before decoding, as in the reference (480 px: 16 -> 15).
        stride = self.head.fused_stride
        fused = fused[..., : -(-height // stride), : -(-width // stride)]
        return self.head.decode(fused, maps)[..., :height, :width]

    @property
    def export_multiple_px(self) -> int:
        """A graph cuts what was fused from padding off before it decodes, if it pads from the fused map's steps on."""
        return self.head.fused_stride

    def scene_prompts(self, scenes: Sequence[str | None]) -> Tensor:
        """Embeddings of scenes, `(b, 1, d)`; the mean of all scenes where there is none.

        Raises:
            UsageError: If the model does not know a scene.
        """
        known = self.config.scenes
        rows = []
        for scene in scenes:
            if scene is not None and scene not in known:
                raise UsageError(f"This model does not know the scene {scene!r}. It knows: {', '.join(known)}.")
            rows.append(
                self.scene_embeddings.mean(dim=0) if scene is None else self.scene_embeddings[known.index(scene)]
            )
        return torch.stack(rows)[:, None]

    def loss_sum(self, batch: Batch, *, caches: FrozenCaches | None = None) -> LossSum:
        """Log errors of a batch with `depth_m`, and how many: one an image, or one of the batch."""
        if batch.depth_m is None:
            raise UsageError("Depth trains on depth maps; this data has none.")
        scenes = batch.scenes or [None] * len(batch.images)
        depth_m = self(batch.images, self.scene_prompts(scenes), caches=caches)
        truth_m = batch.depth_m
        if not self.config.counts_beyond:  # no output can reach it, and evaluation does not count it
            truth_m = torch.where(truth_m < self.config.max_depth_m, truth_m, 0)
        return depth_loss_sum(
            depth_m,
            truth_m,
            over=self.config.loss_over,
            pixels=self.config.pixel_loss or "silog",
            gradient_weight=self.config.gradient_loss or 0.0,
        )

    @classmethod
    def example_batch(cls, size: int, side_px: int) -> Batch:
        """See `Task`."""
        images, depth_m = torch.rand(size, 3, side_px, side_px) * 2 - 1, torch.ones(size, 1, side_px, side_px)
        return Batch(images=images, names=["trial"] * size, depth_m=depth_m)

    def prompts(
        self,
        number: int,
        *,
        scene: str | Sequence[str | None] | None = None,
        near_m: float | None = None,
        far_m: float | None = None,
    ) -> Asked:
        """See `Task`."""
        scenes = one_each(scene, number, "scene", may_be_none=True)
        embeds = self.scene_prompts(scenes) if scenes else self.scene_embeddings[:, None]
        return Asked(
            text=lambda numbers, _: torch.stack([embeds[number] for number in numbers]),  # a list would wait for a GPU
            text_shape=lambda count: (count, 1, self.backbone.text_dim),
            channels=1,
            kept_bytes=8,
            words=_Wanted(scenes, read_shown_range(near_m, far_m, self.config.max_depth_m)),
        )

    def answer(self, asked: Asked, seen: Seen, strips: Iterator[Tensor]) -> DepthPrediction:
        """See `Task`."""
        depth_m, done = torch.empty(0), 0
        for strip in strips:
            depth_m = depth_m if done else torch.empty(seen.size, device=strip.device)
            depth_m[done : done + strip.shape[1]] = strip[0]
            done += strip.shape[1]
        wanted: _Wanted = asked.words
        return DepthPrediction(
            depth_m=depth_m.cpu(),
            max_depth_m=self.config.max_depth_m,
            scene=wanted.scenes[seen.number] or MEAN_SCENE,
            image=seen.image,
            note=seen.note,
            shown_m=wanted.shown_m,
        )

    def looks_ahead(self, words: Mapping[str, Any]) -> bool:
        """For the range of colours, where none was given."""
        return words.get("near_m") is None and words.get("far_m") is None

    def shared_words(self, predictions: Sequence[DepthPrediction]) -> dict[str, Any]:
        """Colours from the nearest to the farthest depth of these, but for 1 % of each; or of the model's range."""
        ranges = [depth_range(prediction.numpy()) for prediction in predictions] or [(0.0, self.config.max_depth_m)]
        return {"near_m": round(min(near for near, _ in ranges), 3), "far_m": round(max(far for _, far in ranges), 3)}

    def constant_prompts(self) -> Tensor:
        """The mean of all scenes."""
        return self.scene_prompts([None])

    def own_prompts(self) -> Tensor:
        """See `Task`."""
        return self.scene_embeddings

    def measures(self, sample_set: SampleSet) -> Measures:
        """Errors averaged over images, of all pixels and near edges; the data or the model's range say what counts."""
        counted = getattr(sample_set, "counted", CountedDepth())  # sets need not inherit from SampleSet
        max_depth_m = counted.max_depth_m or self.config.max_depth_m
        limits: dict[str, Any] = {"min_depth_m": counted.min_depth_m, "max_depth_m": max_depth_m, "crop": counted.crop}
        part = f"inside the {counted.crop} crop" if counted.crop else "no crop"
        between = f"true depth between {counted.min_depth_m:g} and {max_depth_m:g} m, {part}"
        jump = f"more than {EDGE_JUMP:g} times as far as the other"
        near = f"of these the pixels within {EDGE_PX} px of edges, where of two neighbours one is {jump}"
        return Measures(
            {"": DepthMetrics(**limits), EDGES: EdgeMetrics(**limits)},
            {"": f"errors averaged over images; {between}", EDGES: near},
        )

    def words_of(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The scene of each, where the model knows it."""
        return {"scene": [sample.scene if sample.scene in self.config.scenes else None for sample in samples]}

    def diagnose(self, sample: Sample, prediction: DepthPrediction, measures: Measures) -> Diagnosis:
        """Where it is too near or too far, and pixels by distance and error."""
        metric = measures.metrics[""]
        if not isinstance(metric, DepthMetrics):
            return Diagnosis()
        pixels = metric.counted(prediction.depth_m, torch.from_numpy(truth_of(sample, "depth_m")))
        return Diagnosis(depth_failure(*pixels), {"distances": distance_counts(*pixels, metric.max_depth_m)})

    def shown(self, sample: Sample, prediction: DepthPrediction) -> Shown:
        """In colours of the truth's range."""
        truth = truth_of(sample, "depth_m")
        near_m, far_m = depth_range(truth)
        return Shown(
            colour_depth(truth, near_m, far_m),
            colour_depth(prediction.depth_m.numpy(), near_m, far_m),
            Counter({(UNKNOWN_COLOUR, "not measured"): int((truth <= 0).sum())}),
            scale_m=(near_m, far_m),
            errors=depth_error_map(prediction.numpy(), truth),
            error_legend=DEPTH_LEGEND,
        )

    @classmethod
    def begin(cls, source: str | Path, samples: SampleSet, given: Mapping[str, Any], **options: Any) -> DepthModel:
        """See `Task`."""
        scenes = given.get("scenes") or samples.scenes
        if not scenes:
            raise UsageError("The data names no scenes, and depth prompts are made of them: set scenes=[room, ...].")
        return cls.from_diffusion(source, scenes=scenes, max_depth_m=given["max_depth_m"], **options)

    def go_on(self, samples: SampleSet, given: Mapping[str, Any], *, diffusion: str | None = None) -> DepthModel:
        """With prompts for the scenes that it knows."""
        wanted = given.get("scenes") or [scene for scene in samples.scenes if scene != GENERIC_SCENE]
        if unknown := [scene for scene in wanted if scene not in self.config.scenes]:
            raise UsageError(
                f"{given['model']} has no prompts for the scenes {', '.join(unknown)}. It knows: "
                f"{', '.join(self.config.scenes)}."
            )
        return self

    @classmethod
    def training_fit(cls, recipe: Recipe, crop_px: int) -> Resize:
        """See `Task`."""
        windows = {"window_px": crop_px, "stride_px": -(-crop_px // 3)}  # 4:3 is cut into two
        blend = recipe != "reference"
        return Resize(size_px=crop_px, max_long_px=4 * crop_px, **windows, blend=blend, flip=True)

    @classmethod
    def augmentation(cls, recipe: Recipe, crop_px: int, *, max_depth_m: float = 10.0) -> Pipeline:
        """Published crops come at the scale of the pictures, which must then be NYU's.

        By default pictures of any size are brought to the scale at which the model will see them.
        """
        is_reference = recipe == "reference"
        cut = CutDepth("wrap" if is_reference else "metric", max_depth_m)
        resize = () if is_reference else (RandomResize(crop_px, 4 * crop_px, ratio=(1.0, 1.0)),)
        colours = (BrightnessContrast(), Gamma(), HueSaturationValue())
        return Pipeline((*resize, cut, RandomFlip(), RandomCrop(crop_px), *colours), pad_px=crop_px)

    @staticmethod
    def published_rule(name: str, parameter: Tensor) -> tuple[bool, bool]:
        """One-dimensional parameters do not decay."""
        return "unet" in name, parameter.ndim != 1
