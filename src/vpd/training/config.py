"""Settings of a training run: one model for the three tasks, its published and recommended values in YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vpd.config import Frozen, Recipe, Task


class DataSettings(Frozen):
    """Which samples to train on, and which to validate on."""

    root: str
    """Folder of the data set."""
    format: str | None = None
    """Layout of the folder; none = detected and printed."""
    split: str = "train"
    """Part to train on."""
    validation_split: str | None = "auto"
    """Part to measure on during training; `auto` = val, or test where there is no val; none = no validation."""
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

    task: Task
    """`segment`, `refer` or `depth`."""
    recipe: Recipe = "default"
    """`reference` = as published, quirks included; `default` = what we recommend."""
    model: str
    """Diffusion model to adapt (folder, hub id, single file) or adapted model folder to go on from."""
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

    steps: PositiveInt | None = None
    """Optimiser steps; give these or `epochs`."""
    epochs: PositiveFloat | None = None
    """Passes through the data; give these or `steps`."""
    batch_size: PositiveInt
    """Samples of one optimiser step, over all processes and accumulated batches together."""
    accumulate: PositiveInt = 1
    """Batches that the samples of a step are cut into on each process, to fit into memory."""
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
    gradient_checkpointing: bool = False
    """Run the UNet's blocks again in the backward pass instead of keeping what is in them: less memory, slower."""
    seed: NonNegativeInt = 0
    """Decides initial weights, order of samples, augmentation and dropout."""

    workers: NonNegativeInt = 2
    """Processes that read samples; no influence on the outcome."""
    log_every: PositiveInt = 10
    """Steps between two lines in the log."""
    validate_every: PositiveInt = 1000
    """Steps between two validations."""
    validate_limit: PositiveInt | None = None
    """Validate on the first so many samples only; none = on all."""
    checkpoint_every: PositiveInt = 1000
    """Steps between two checkpoints."""
    keep: PositiveInt = 2
    """Newest checkpoints to keep, beside the best one."""
    pictures: NonNegativeInt = 4
    """Validation samples shown as pictures."""

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of steps and epochs")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} is not a multiple of accumulate={self.accumulate}")
        return self
