"""Settings of a training run: one model for all tasks, its published and recommended values in YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from vpd.config import Checkpointing, Frozen, LoraSettings, Recipe
from vpd.errors import UsageError
from vpd.tasks.loss_settings import PLAIN, LossSettings

Mode = Literal["full", "lora", "frozen", "head"]
OptimiserKind = Literal["adamw", "adamw_8bit", "sgd", "muon"]


class DataSettings(Frozen):
    """Which samples to train on, and which to validate on."""

    root: str
    """Folder of the data set."""
    format: str | None = None
    """Layout of the folder; none = detected and printed."""
    split: str = "train"
    """Part to train on."""
    validation_split: str | None = "auto"
    """Part to measure on during training; `auto` = val (valid, validation, dev), or test where there is none
    of these; none = no validation."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further options of the layout's reader."""


class ScheduleSettings(Frozen):
    """Course of the learning rate, where the recipe's own is not wanted."""

    kind: Literal["poly", "rise_fall"] = "poly"
    """`poly`: falls as (1 - progress)^power; `rise_fall`: rises over the first half and falls over the second."""
    power: PositiveFloat = 1.0
    """Exponent of the curve; 1 = straight lines."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the rate rises linearly to the curve; `poly` only."""
    floor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Rate at either end as a share of the peak; `rise_fall` only."""


class TrainConfig(Frozen):
    """Everything that decides the outcome of a training run, and how it is watched."""

    task: str
    """`segment`, `refer` or `depth`."""
    recipe: Recipe = "default"
    """`reference` = as published, quirks included; `default` = what we recommend."""
    model: str
    """Diffusion model to adapt (folder, hub id, single file, `world`) or adapted model folder to go on from."""
    data: DataSettings
    """The data set."""

    classes: tuple[str, ...] | None = None
    """Class names in the order of the labels, `segment`; none = the data set's."""
    scenes: tuple[str, ...] | None = None
    """Scene names of the prompts, `depth`; none = the data set's."""
    max_depth_m: PositiveFloat = 10.0
    """Largest depth the model can output, metres, `depth`."""
    model_options: dict[str, Any] = Field(default_factory=dict)
    """Other fields of the configuration of a new model, such as `head`, `head_channels` or `token_length`."""
    diffusion: str | None = None
    """Diffusion model whose text encoder makes the prompts of added classes; none = the one that `model` was made
    from."""
    crop_px: PositiveInt
    """Side of the squares that the model trains on, pixels; sets the scale of prediction too: short sides are brought
    to it."""

    mode: Mode = "full"
    """What trains. `full`: UNet, text adapter and head; `lora`: low-rank layers on the UNet's attention, adapter and
    head; `frozen`: adapter and head; `head`: the head alone."""
    lora: LoraSettings = LoraSettings()
    """The low-rank layers of mode `lora`."""

    steps: PositiveInt | None = None
    """Optimiser steps; give these or `epochs`."""
    epochs: PositiveFloat | None = None
    """Passes through the data; give these or `steps`."""
    batch_size: PositiveInt
    """Samples of one optimiser step, over all processes and accumulated batches together."""
    accumulate: PositiveInt | Literal["auto"] = 1
    """Batches that the samples of a step are cut into on each process, to fit into memory; `auto` = as few as fit,
    found by trial before the first step."""
    loss: LossSettings = PLAIN
    """What `segment` minimises where the recipe's cross-entropy is not wanted."""
    loss_reduction: Literal["global", "batch"] = "global"
    """What a step minimises. `global`: the sum of the losses of all its pixels (or images) over their number, however
    they are cut into batches and processes; `batch`: the mean of the batches' means, as published."""
    optimiser: OptimiserKind = "adamw"
    """`adamw`; `adamw_8bit`: with a quarter of its memory, by bitsandbytes; `sgd`; `muon`: orthogonalised momentum for
    kernels and matrices, Adam for the rest, as small networks from nothing like it."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of `sgd`."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Keep a moving average of the weights, of which so large a share stays at each step (0.9999, say): it is what is
    measured and saved. None = no average."""
    learning_rate: PositiveFloat
    """Peak rate of what is new: text adapter and head."""
    unet_lr_scale: NonNegativeFloat
    """Rate of the UNet as a share of `learning_rate`."""
    weight_decay: NonNegativeFloat
    """Decoupled weight decay."""
    schedule: ScheduleSettings | None = None
    """Course of the learning rate; none = the recipe's."""
    clip_norm: PositiveFloat | None = None
    """Shorten gradients whose norm is larger; none = never."""
    precision: Literal["no", "bf16"] = "no"
    """`bf16`: forward and loss under bfloat16 autocast; weights and optimiser stay float32."""
    channels_last: bool | Literal["auto"] = "auto"
    """Keep images, maps and the weights of convolutions in channels-last order, which some kernels in bfloat16 are
    made for; sums are rounded in another order. `auto` = on NVIDIA GPUs in bf16, decided when a run starts."""
    compile: bool | Literal["regional"] = False
    """Let `torch.compile` make kernels for the backbone: minutes at the first step. `regional`: for the UNet's blocks,
    each kind of them once, in a fraction of that. Meant for GPUs."""
    gradient_checkpointing: Checkpointing = False
    """Run the UNet's blocks again in the backward pass instead of keeping what is in them: less memory, slower.
    `cheap`: only norms, activations and sums, not convolutions, matrix products and attention."""
    sharding: Literal["none", "fsdp"] = "none"
    """How several processes hold the model. `none`: each has all of it; `fsdp`: weights, gradients and optimiser state
    are cut into shards, one for each, which takes less memory and more time. Checkpoints are the same files."""
    seed: NonNegativeInt = 0
    """Decides initial weights, order of samples, augmentation and dropout."""

    cache_mb: NonNegativeInt = 0
    """Memory on each process for what frozen parts made of inputs that come again: latents of images that are not
    augmented, embeddings of expressions; 0 = compute them anew."""
    workers: NonNegativeInt | Literal["auto"] = "auto"
    """Processes that read samples, for each that trains; no influence on the outcome. `auto` = on NVIDIA GPUs as many
    as cores allow, up to 8; else 2, or 0 for rendered scenes."""
    log_every: PositiveInt = 10
    """Steps between two lines in the log."""
    validate_every: PositiveInt = 1000
    """Steps between two validations."""
    validate_limit: PositiveInt | None = None
    """Validate on the first so many samples only; none = on all."""
    patience: PositiveInt | None = None
    """Stop early when so many validations in a row were no better than the best before them; none = never."""
    checkpoint_every: PositiveInt = 1000
    """Steps between two checkpoints."""
    keep: PositiveInt = 2
    """Newest checkpoints to keep, beside the best one."""
    pictures: NonNegativeInt = 4
    """Validation samples shown as pictures."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Where curves and pictures go, beside `log.jsonl`."""
    on_bad_loss: Literal["stop", "skip"] = "stop"
    """When a loss or a gradient is NaN or infinite: `stop` with status 1, its batch saved in `bad-batches/`; or `skip`
    the step, which counts but changes nothing."""
    max_bad_steps: PositiveInt = 10
    """So many skipped steps in a row stop the run all the same."""
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the training samples that may be unreadable, and are then replaced by others; one always may, unless
    this is 0."""

    on_changed_data: Literal["stop", "go_on"] = "stop"
    """When a run is resumed and the training set has other samples than at its last checkpoint: `stop` before anything
    is written, or `go_on` with them."""

    @field_validator("precision", mode="before")
    @classmethod
    def _read_no(cls, value: Any) -> Any:
        return "no" if value is False else value  # what YAML makes of a bare no

    @field_validator("trackers", mode="before")
    @classmethod
    def _read_none(cls, value: Any) -> Any:
        return () if value is None else value

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        if self.accumulate != "auto" and self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} is not a multiple of accumulate={self.accumulate}")
        if self.recipe == "reference" and self.mode == "lora":
            raise ValueError("mode=lora needs recipe=default: the published parameter groups have no place for LoRA")
        if self.momentum and self.optimiser != "sgd":
            raise ValueError(f"momentum={self.momentum} is for optimiser=sgd")
        if self.channels_last is True and self.optimiser == "adamw_8bit":
            raise ValueError("channels_last=true does not go with optimiser=adamw_8bit, which brings weights out of it")
        if self.compile is True and self.cache_mb:
            raise ValueError(
                f"compile=true does not go with cache_mb={self.cache_mb}, which goes around what is compiled"
            )
        if self.sharding == "fsdp":
            if self.optimiser == "muon":
                raise ValueError("sharding=fsdp does not go with optimiser=muon, which needs whole matrices")
            others: dict[str, Any] = {"ema_decay": None, "optimiser": "adamw_8bit", "accumulate": "auto"}
            others |= {"channels_last": True, "compile": self.compile or True}
            clashes = [key for key, value in others.items() if (getattr(self, key) == value) != (value is None)]
            if clashes:
                raise ValueError(f"sharding=fsdp does not go with {clashes[0]}={getattr(self, clashes[0])}")
        return self

    @property
    def readers(self) -> int:
        """Processes that read samples.

        Raises:
            UsageError: If `workers` is `auto` and nobody has looked at the machine.
        """
        if self.workers == "auto":
            raise UsageError("workers=auto is decided when a run starts: call `vpd.training.run.train`, or set it.")
        return self.workers

    @property
    def accumulation(self) -> int:
        """Batches of a step on each process.

        Raises:
            UsageError: If `accumulate` is `auto` and nobody has tried what fits.
        """
        if self.accumulate == "auto":
            raise UsageError("accumulate=auto is found when a run starts: call `vpd.training.run.train`, or set it.")
        return self.accumulate
