"""From settings to the objects of a run: sample sets, the model to start from, and how it fits images."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vpd.data.matching import both
from vpd.data.sample import READING, SampleSet
from vpd.data.transforms import Pipeline
from vpd.datasets.layouts import detect_format, find_layout, held_out_split, open_data, reader_options, told_split
from vpd.errors import UsageError
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.loading import check_task, is_adapted, load, model_of_run
from vpd.overrides import nearest
from vpd.tasks.model import PerceptionModel
from vpd.tasks.recipes import BACKBONE_OPTIONS
from vpd.tasks.table import TaskKind, find_task
from vpd.training.checkpoints import Checkpoint
from vpd.training.config import TrainConfig
from vpd.weights.shipped import LICENCE, WORLD

logger = logging.getLogger(__name__)

_DECIDED = {"task", "recipe", "backbone", "fit", "classes", "scenes", "max_depth_m", "format_version", "presence"}
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
    pinned: dict[str, Any] = {"data": config.data.model_copy(update=changes)}
    if model.exists():
        pinned["model"] = str((model_of_run(model) or model).resolve())
    return config.model_copy(update=pinned)


def build_data(config: TrainConfig) -> tuple[SampleSet, SampleSet | None]:
    """The sample set to train on, and the one to validate on, of pinned settings.

    Raises:
        UsageError: If the data cannot be opened.
    """
    data = config.data
    if not data.split:
        raise UsageError("data.split is empty: name the part of the data to train on, such as train.")
    options = reader_options(data.format or "", config.recipe, data.options)
    open_split = partial(open_data, data.root, config.task, format=data.format, **options)
    train_set = open_split(split=data.split)
    validation_set = open_split(split=data.validation_split) if data.validation_split else None
    told = f"validation on {told_split(data.validation_split)}" if data.validation_split else "no validation"
    logger.info("Data: %s, format %s, training on %s, %s.", data.root, data.format, data.split, told)
    return train_set, validation_set


def data_identity(sample_set: SampleSet) -> dict[str, Any]:
    """Number of the samples, a hash of what tells them apart in their order, if anything does, and `data_rules`."""
    digest, is_empty = hashlib.sha256(), True
    keys = sample_set.sample_keys() if hasattr(sample_set, "sample_keys") else ()  # any class with samples will do
    for key in keys:
        digest.update(key.encode("utf-8", "surrogateescape") + b"\0")
        is_empty = False
    told = {"samples": len(sample_set), "keys_sha256": None if is_empty else digest.hexdigest()}
    return told | data_rules(sample_set)


def data_rules(sample_set: SampleSet, *, but: Sequence[str] = ()) -> dict[str, Any]:
    """What label and depth values mean: `classes`, unless they are `but`, and `reading`, where there is any."""
    classes = list(getattr(sample_set, "classes", ()))
    reading = sample_set.reading() if hasattr(sample_set, "reading") else {}
    read = {name: reading[name] for name in READING if name in reading}
    return ({"classes": classes} if classes and classes != list(but) else {}) | ({"reading": read} if read else {})


def check_same_data(checkpoint: Checkpoint, train_set: SampleSet, config: TrainConfig) -> None:
    """Make sure that a run goes on with its samples, as the number of a step says which of them it takes.

    A checkpoint of an older release, which does not tell its samples or their classes, goes on with any.

    Raises:
        UsageError: If label or depth values mean something else; or if there are other samples, or another order of
            them, and `on_changed_data` says to stop.
    """
    before, now = checkpoint.data, data_identity(train_set)
    if before is None:
        return
    if "classes" in before and before["classes"] != now.get("classes"):
        _refuse_other_classes(before["classes"], now.get("classes", ()), checkpoint.folder)
    if "reading" in before and before["reading"] != now.get("reading", {}):
        raise UsageError(
            f"The run was started with values of label or depth files that mean {before['reading']}; now they mean "
            f"{now.get('reading', {})}. Put the class list or the options back as they were, or start anew from this "
            f"run's model (--model {checkpoint.folder})."
        )
    hashes = (before["keys_sha256"], now["keys_sha256"])
    if before["samples"] != now["samples"]:
        what = f"had {before['samples']} samples and has {now['samples']} now"
    elif None not in hashes and hashes[0] != hashes[1]:
        what = f"still has {now['samples']} samples, but other names or another order"
    else:
        return
    told = f"The training set {what} ({config.data.root}, {config.data.split})"
    if config.on_changed_data == "stop":
        raise UsageError(
            f"{told}, so the run would go on with other steps than it was started for. Put the data back as they were; "
            "or go on all the same by -s on_changed_data=go_on; or start a new run in another folder, from this one's "
            f"model (--model {checkpoint.folder})."
        )
    logger.warning("%s; the run goes on with it from step %d.", told, checkpoint.step)


def check_same_classes(model: PerceptionModel[Any], train_set: SampleSet, config: TrainConfig, folder: Path) -> None:
    """Make sure that the data has the classes of the model that a run goes on with.

    Raises:
        UsageError: If it has others, or another order of them; names both lists.
    """
    known = tuple(getattr(model.config, "classes", ()))
    if known and known != (names := tuple(config.classes or train_set.classes)):
        _refuse_other_classes(known, names, folder)


def _refuse_other_classes(before: Sequence[str], now: Sequence[str], folder: Path) -> None:
    raise UsageError(
        f"The class list has changed since the run was started. {both(now, before, 'the run')} Labels are numbers in "
        f"that list, so put it back as it was; or start anew from this run's model (--model {folder}), which keeps "
        "what it knows of the classes."
    )


def start_model(config: TrainConfig, train_set: SampleSet, task: TaskKind | None = None) -> PerceptionModel[Any]:
    """The model to start from: a diffusion model to adapt, or an adapted model to go on from.

    An adapted segmentation model that has not all classes of the data gets them added; what it knows it keeps.
    New weights are drawn from the run's seed. In mode `lora` low-rank layers are put on the UNet; those that the
    adapted model has become plain weights before.

    Args:
        config: The settings.
        train_set: Tells classes and scenes where the settings do not.
        task: What is trained, where it is none of this package's tasks.

    Raises:
        UsageError: If there is no such model, it is for another task, or it does not fit the data.
    """
    task = task or find_task(config.task)
    known = {*task.config_type.model_fields, "backbone_options"} - _DECIDED
    known |= {"published_prompts"} & set(inspect.signature(getattr(task, "from_diffusion", task.begin)).parameters)
    if unknown := sorted(set(config.model_options) - known):
        near = nearest(unknown[0], known)
        hint = f" Did you mean model_options.{near}?" if near else ""
        raise UsageError(
            f"Unknown model_options for {config.task}: {', '.join(unknown)}.{hint} Known: {', '.join(sorted(known))}."
        )
    if not isinstance(config.model_options.get("backbone_options", {}), dict):
        raise UsageError(
            f"model_options.backbone_options is {config.model_options['backbone_options']!r}; set its keys: "
            f"{', '.join(f'model_options.backbone_options.{name}' for name in BACKBONE_OPTIONS)}."
        )
    torch.manual_seed(config.seed)
    given = {name: getattr(config, name) for name in ("model", "classes", "scenes", "max_depth_m")}
    fit = task.training_fit(config.recipe, config.crop_px)
    if is_adapted(config.model):
        model = _load_adapted(config, task).go_on(train_set, given, diffusion=config.diffusion)
        if fit.size_px != model.config.fit.size_px:
            logger.info("Images are now fitted to %d px instead of %d.", fit.size_px, model.config.fit.size_px)
            model.config = model.config.model_copy(update={"fit": fit})
    else:
        options = {
            "recipe": config.recipe,
            "fit": fit,
            "gradient_checkpointing": config.gradient_checkpointing,
            **config.model_options,
        }
        model = task.begin(config.model, train_set, given, **options)
        is_all_ours = config.model == config.data.root == WORLD  # as pinned: of folders these are whole paths
        if is_all_ours and "licence" not in config.model_options:
            model.config = model.config.model_copy(update={"licence": LICENCE})
    if config.mode == "lora":
        model.add_lora(config.lora)
    return model


def build_caches(config: TrainConfig, task: TaskKind) -> tuple[FrozenCaches | None, FrozenCaches | None]:
    """Where training and validation keep what the frozen parts made of their inputs, if anywhere."""
    if not config.cache_mb:
        return None, None
    cache = TensorCache(config.cache_mb * 2**20)
    # of all recipes one leaves the images as they are; of the others each would be kept in vain
    is_repeating = task.augmentation(config.recipe, config.crop_px).repeats_images
    return FrozenCaches(cache if is_repeating else None, cache), FrozenCaches(cache, cache)


def training_transform(config: TrainConfig, model: PerceptionModel[Any]) -> Pipeline:
    """The recipe's augmentation."""
    max_depth_m = getattr(model.config, "max_depth_m", config.max_depth_m)
    return model.augmentation(config.recipe, config.crop_px, max_depth_m=max_depth_m)


def _load_adapted(config: TrainConfig, task: TaskKind) -> PerceptionModel[Any]:
    """An adapted model as it was saved, with merged LoRA; the settings must not want it otherwise."""
    model: PerceptionModel[Any] = load(config.model, device="cpu", dtype="float32", task=task)
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
    return model
