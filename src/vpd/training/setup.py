"""From settings to the objects of a run: sample sets, the model to start from, and how it fits images."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from vpd.config import DepthConfig, Fit, ReferConfig, SegmentConfig, Task
from vpd.data.geometric import RandomResize
from vpd.data.sample import SampleSet
from vpd.data.transforms import Pipeline, train_transform
from vpd.datasets.layouts import detect_format, find_layout, held_out_split, open_data, reader_options
from vpd.datasets.sample_reader import GENERIC_SCENE
from vpd.errors import UsageError
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.loading import check_task, is_adapted, load
from vpd.tasks.depth import DepthModel
from vpd.tasks.model import BACKBONE_OPTIONS, PerceptionModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel
from vpd.training.config import TrainConfig
from vpd.weights.shipped import LICENCE, WORLD

logger = logging.getLogger(__name__)

_TASK_CONFIGS: dict[Task, type[BaseModel]] = {"segment": SegmentConfig, "refer": ReferConfig, "depth": DepthConfig}
_DECIDED = {"task", "recipe", "backbone", "fit", "classes", "scenes", "max_depth_m", "format_version"}
"""Fields of a model's configuration that other settings decide."""


def pin_sources(config: TrainConfig) -> TrainConfig:
    """The same settings with nothing left to find out: absolute paths, the data's layout and validation split.

    Raises:
        UsageError: If the data has no layout that is known.
    """
    root, model = Path(config.data.root).expanduser(), Path(config.model).expanduser()
    layout = config.data.format or detect_format(root, config.task)
    if not find_layout(layout).is_elsewhere(root):  # a hub id is no path
        root = root.resolve()
    changes: dict[str, Any] = {"root": str(root), "format": layout}
    if config.data.validation_split == "auto":
        changes["validation_split"] = held_out_split(root, layout)
    pinned = {"data": config.data.model_copy(update=changes)}
    return config.model_copy(update=pinned | ({"model": str(model.resolve())} if model.exists() else {}))


def build_data(config: TrainConfig) -> tuple[SampleSet, SampleSet | None]:
    """The sample set to train on, and the one to validate on, of pinned settings.

    Raises:
        UsageError: If the data cannot be opened.
    """
    data = config.data
    options = reader_options(data.format or "", config.recipe, data.options)
    sets = [
        open_data(data.root, config.task, format=data.format, split=split, **options) if split else None
        for split in (data.split, data.validation_split)
    ]
    if sets[0] is None:
        raise UsageError("data.split is empty: name the part of the data to train on, such as train.")
    told = f"validation on {data.validation_split}" if data.validation_split else "no validation"
    logger.info("Data: %s, format %s, training on %s, %s.", data.root, data.format, data.split, told)
    return sets[0], sets[1]


def build_model(config: TrainConfig, train_set: SampleSet) -> PerceptionModel:
    """The model to start from: a diffusion model to adapt, or an adapted model to go on from.

    An adapted segmentation model that has not all classes of the data gets them added; what it knows it keeps.
    New weights are drawn from the run's seed. In mode `lora` low-rank layers are put on the UNet; those that the
    adapted model has become plain weights before.

    Args:
        config: The settings.
        train_set: Tells classes and scenes where the settings do not.

    Raises:
        UsageError: If there is no such model, it is for another task, or it does not fit the data.
    """
    known = {*_TASK_CONFIGS[config.task].model_fields, "backbone_options"} - _DECIDED
    known |= set() if config.task == "refer" else {"published_prompts"}
    if unknown := sorted(set(config.model_options) - known):
        raise UsageError(
            f"Unknown model_options for {config.task}: {', '.join(unknown)}. Known: {', '.join(sorted(known))}."
        )
    if not isinstance(config.model_options.get("backbone_options", {}), dict):
        raise UsageError(
            f"model_options.backbone_options is {config.model_options['backbone_options']!r}; set its keys: "
            f"{', '.join(f'model_options.backbone_options.{name}' for name in BACKBONE_OPTIONS)}."
        )
    torch.manual_seed(config.seed)
    if is_adapted(config.model):
        model = _go_on(config, train_set)
    else:
        model = _begin(config, train_set)
        is_all_ours = config.model == config.data.root == WORLD  # as pinned: of folders these are whole paths
        if is_all_ours and "licence" not in config.model_options:
            model.config = model.config.model_copy(update={"licence": LICENCE})
    if config.mode == "lora":
        model.add_lora(config.lora)
    return model


def _begin(config: TrainConfig, train_set: SampleSet) -> PerceptionModel:
    options: dict[str, Any] = {
        "recipe": config.recipe,
        "fit": training_fit(config),
        "gradient_checkpointing": config.gradient_checkpointing,
        **config.model_options,
    }
    if config.task == "segment":
        return SegmentationModel.from_diffusion(config.model, classes=class_names(config, train_set), **options)
    if config.task == "refer":
        return ReferringModel.from_diffusion(config.model, **options)
    scenes = config.scenes or train_set.scenes
    if not scenes:
        raise UsageError("The data names no scenes, and depth prompts are made of them: set scenes=[room, ...].")
    return DepthModel.from_diffusion(config.model, scenes=scenes, max_depth_m=config.max_depth_m, **options)


def build_caches(config: TrainConfig) -> tuple[FrozenCaches | None, FrozenCaches | None]:
    """Where training and validation keep what the frozen parts made of their inputs, if anywhere."""
    if not config.cache_mb:
        return None, None
    cache = TensorCache(config.cache_mb * 2**20)
    # of all recipes one leaves the images as they are; of the others each would be kept in vain
    is_repeating = config.task == "refer" and config.recipe == "reference"
    return FrozenCaches(cache if is_repeating else None, cache), FrozenCaches(cache, cache)


def class_names(config: TrainConfig, train_set: SampleSet) -> tuple[str, ...]:
    """Class names in the order of the labels: those of the settings, else those of the data.

    Raises:
        UsageError: If there are none, or the settings name another number of them than the data has.
    """
    names, of_data = config.classes or train_set.classes, train_set.classes
    if not names:
        raise UsageError("The data names no classes: set classes=[road, sky, ...] in the order of the labels.")
    if of_data and len(of_data) != len(names):
        raise UsageError(f"classes names {len(names)} classes, but the data has {len(of_data)}: {', '.join(of_data)}.")
    return names


def training_fit(config: TrainConfig) -> Fit:
    """How the trained model shall fit images, so that it sees them at the scale of its training crops."""
    crop_px = config.crop_px
    if config.task == "refer":
        return Fit(mode="squash", size_px=crop_px)
    if config.task == "segment":
        return Fit(size_px=crop_px, max_long_px=4 * crop_px, antialias=config.recipe == "default")
    return Fit(size_px=crop_px, max_long_px=4 * crop_px, window_px=crop_px, stride_px=max(1, crop_px // 3), flip=True)


def training_transform(config: TrainConfig, model: PerceptionModel) -> Pipeline:
    """The recipe's augmentation.

    Published depth crops come at the scale of the pictures, which must then be NYU's; by default pictures of any
    size are brought to the scale at which the model will see them.
    """
    max_depth_m = model.config.max_depth_m if isinstance(model, DepthModel) else config.max_depth_m
    pipeline = train_transform(config.task, config.recipe, crop_px=config.crop_px, max_depth_m=max_depth_m)
    if config.task != "depth" or config.recipe == "reference":
        return pipeline
    fit = training_fit(config)
    resize = RandomResize(fit.size_px, fit.max_long_px, ratio=(1.0, 1.0))
    return replace(pipeline, steps=(resize, *pipeline.steps))


def _go_on(config: TrainConfig, train_set: SampleSet) -> PerceptionModel:
    model: PerceptionModel = load(config.model, device="cpu", dtype="float32")
    check_task(model, config.task, config.model, verb="train")
    model.merge_lora()
    actual = model.config.model_dump(mode="json")
    actual["backbone_options"] = {name: actual["backbone"].get(name) for name in BACKBONE_OPTIONS}
    wanted_options = {**config.model_options}
    wanted_options.pop("published_prompts", None)  # an adapted model brings its prompts
    if "backbone_options" in wanted_options:
        wanted_options["backbone_options"] = actual["backbone_options"] | wanted_options["backbone_options"]
    for name, wanted in wanted_options.items():
        if actual[name] != wanted:
            raise UsageError(
                f"model_options.{name} is {wanted!r}, but the adapted model {config.model} has {actual[name]!r}, "
                "which cannot be changed. Leave it out, or start from a diffusion model."
            )
    if isinstance(model, SegmentationModel):
        names = class_names(config, train_set)
        if names != model.config.classes:
            added = [name for name in names if name not in model.config.classes]
            logger.info("Classes now: %s; new: %s.", ", ".join(names), ", ".join(added) or "none")
            model = model.with_classes(names, diffusion=config.diffusion)
    elif isinstance(model, DepthModel):
        wanted = config.scenes or [scene for scene in train_set.scenes if scene != GENERIC_SCENE]
        unknown = [scene for scene in wanted if scene not in model.config.scenes]
        if unknown:
            raise UsageError(
                f"{config.model} has no prompts for the scenes {', '.join(unknown)}. It knows: "
                f"{', '.join(model.config.scenes)}."
            )
    fit = training_fit(config)
    if fit.size_px != model.config.fit.size_px:
        logger.info("Images are now fitted to %d px instead of %d.", fit.size_px, model.config.fit.size_px)
        model.config = model.config.model_copy(update={"fit": fit})
    return model
