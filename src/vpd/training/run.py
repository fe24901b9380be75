"""A whole training run in a folder: from settings to a finished model, and again where it was stopped."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from functools import reduce
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from vpd.data.sample import SampleSet
from vpd.errors import UsageError
from vpd.evaluation.presence import PAIRS, calibrate_saved, can_calibrate
from vpd.files.atomic import left_as_found, writable_folder
from vpd.files.lock import LOCK_FILE, only_run_in
from vpd.loading import load
from vpd.model_folder import CHECKPOINTS, CONFIG, MODEL, refuse_models
from vpd.overrides import flat_settings, merge_settings
from vpd.processes import Heartbeat, do_on_first, find_processes, worker_context
from vpd.tasks.model import PerceptionModel
from vpd.tasks.table import TaskKind, find_task
from vpd.training.auto_accumulate import find_accumulation
from vpd.training.checkpoints import Checkpoint, latest_checkpoint
from vpd.training.class_weights import counted_loss
from vpd.training.config import TrainConfig
from vpd.training.first_run import choose_settings, known_size, left_out
from vpd.training.fitted_data import fit_data
from vpd.training.loop import Training
from vpd.training.machine import for_machine, with_readers
from vpd.training.run_folder import tell_no_run
from vpd.training.schedules import schedule_of, total_steps
from vpd.training.settings import read_settings, resolve_config, write_config
from vpd.training.setup import (
    build_data,
    check_same_classes,
    check_same_data,
    data_rules,
    pin_sources,
    start_model,
    training_transform,
)
from vpd.training.timing import can_be_timed, costs_of, measure_pace, tell_length
from vpd.training.trackers import check_trackers
from vpd.version import __version__

logger = logging.getLogger(__name__)

MAY_CHANGE = {
    *("model", "data.root", "workers", "log_every", "validate_every", "validate_limit"),
    *("checkpoint_every", "keep", "patience", "pictures", "trackers", "sharding", "steps", "epochs"),
    *("on_bad_loss", "max_bad_steps", "max_bad_share", "on_changed_data"),
}
"""Settings that a resumed run may have different: none of them touches the weights of a run that came this far."""
_PREPARED = {LOCK_FILE, CONFIG, CHECKPOINTS, "log.jsonl", "tensorboard", "wandb", "wandb-id.txt"}
"""What a run has in its folder before its first step."""


def train(
    task: str | TaskKind,
    folder: str | Path,
    *layers: Mapping[str, Any],
    resume: bool = False,
    show_bar: bool = False,
    data: tuple[SampleSet, SampleSet | None] | None = None,
) -> Path:
    """Train a model, or go on with a training that was stopped.

    Args:
        task: What to train for: the word of one of this package's tasks, or the class of models of one's own.
        folder: Folder of the run; gets `config.yaml`, `checkpoints/`, `log.jsonl`, `pictures/`, what trackers write,
            and at the end `model/`.
        layers: Settings as nested mappings, later ones over earlier ones, all over the recipe's.
        resume: Go on with the run in `folder`, whose settings then need not be given again.
        show_bar: Show a progress bar.
        data: Samples to train on, and to validate on if any, where the settings' `data.root` is no folder of a known
            layout but a name for them.

    Returns:
        Folder of the trained model.

    Raises:
        UsageError: If settings, data or model are wrong, the folder is a model or a run or one is under way in it,
            there is none to go on with, it has other samples than before, or the disk is full.
        FloatingPointError: If the loss becomes NaN or infinite.
        SystemExit: With 143, after saving, if SIGTERM came.
    """
    folder, is_first, is_held = Path(folder), os.environ.get("RANK", "0") == "0", threading.Event()
    with (
        # before it is held, what is new in it is another run's
        left_as_found(folder if is_first else None, is_work=lambda path: not is_held.is_set() or _came_of_steps(path)),
        Heartbeat(enabled=show_bar and is_first) as heartbeat,
    ):
        told: dict[str, Any] = {"show_bar": show_bar, "heartbeat": heartbeat, "is_held": is_held}
        try:
            return _train(task, folder, *layers, resume=resume, data=data, **told)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):  # torch has no class of its own for it
                raise
            raise UsageError(
                "BatchNorm in the head cannot learn from a single picture at a time. Set batch_size so that each "
                "process trains on 2 or more together (accumulate cuts a batch), or -s model_options.head_norm=group."
            ) from error


def _train(
    task: str | TaskKind,
    folder: Path,
    *layers: Mapping[str, Any],
    resume: bool,
    show_bar: bool,
    data: tuple[SampleSet, SampleSet | None] | None,
    heartbeat: Heartbeat,
    is_held: threading.Event,
) -> Path:
    refuse_models(folder)
    has_progress = (folder / MODEL).exists() or any((folder / CHECKPOINTS).glob("step-*"))
    if has_progress and not resume:
        raise UsageError(f"{folder} already holds a training run. Go on with it by --resume, or give another folder.")
    has_settings = (folder / CONFIG).is_file()
    if resume and not has_progress and not has_settings:
        given: Mapping[str, Any] = reduce(merge_settings, layers, {})
        source = given.get("data")
        tell_no_run(folder, can_start="model" in given and isinstance(source, Mapping) and "root" in source)
    saved = read_settings(folder / CONFIG) if resume and has_settings else {}
    if has_progress:
        saved = {"channels_last": False} | saved  # releases that did not write it had no other
    kind = find_task(task)
    config = resolve_config(kind, saved, *layers)
    config = pin_sources(config) if data is None else config
    if has_progress:
        for key in ("accumulate", "channels_last"):  # what was found when the run began holds for all of it
            if getattr(config, key) == "auto":
                config = config.model_copy(update={key: saved.get(key, "auto")})
        if config.loss.class_weights == "frequency":  # likewise
            weights = {"class_weights": (saved.get("loss") or {}).get("class_weights", "frequency")}
            config = config.model_copy(update={"loss": config.loss.model_copy(update=weights)})
        _check_changes(resolve_config(kind, saved), config, folder / CONFIG)
    check_trackers(config.trackers)
    accelerator = find_processes()
    config = with_readers(config, accelerator.device)
    if config.readers:
        worker_context()  # its server imports while the model is read
    accelerator.wait_for_everyone()  # before the first process writes what the others have just looked for
    with heartbeat.doing("Reading the data"):
        given_set, validation_set = data or build_data(config)
        data = fit_data(config, kind, (given_set, validation_set), folder)
    writable_folder(folder)
    with ExitStack() as held:
        do_on_first(accelerator, lambda: held.enter_context(only_run_in(folder)))
        is_held.set()
        free = left_out(reduce(merge_settings, (saved, *layers), {}))
        return _train_in(folder, config, saved, free, kind, data, accelerator, show_bar=show_bar, heartbeat=heartbeat)


def _train_in(
    folder: Path,
    config: TrainConfig,
    saved: Mapping[str, Any],
    free: set[str],
    task: TaskKind,
    data: tuple[SampleSet, SampleSet | None],
    accelerator: Accelerator,
    *,
    show_bar: bool,
    heartbeat: Heartbeat,
) -> Path:
    """Train in a folder that no other run writes into; what is `free` of the settings is chosen."""
    train_set, validation_set = data
    checkpoint, timing = latest_checkpoint(folder / CHECKPOINTS), None
    if checkpoint or not free:  # else it follows the precision that is chosen
        config = for_machine(config, accelerator.device)
    if checkpoint:
        check_same_data(checkpoint, train_set, config)
        _check_length(resolve_config(task, saved), config, checkpoint, task, train_set)
        logger.info("Going on after step %d.", checkpoint.step)
        with heartbeat.doing("Reading the checkpoint"):
            model: PerceptionModel[Any] = load(checkpoint.folder, device="cpu", dtype="float32", task=task)
        check_same_classes(model, train_set, config, checkpoint.folder)
    else:
        config = known_size(config, free)
        with heartbeat.doing("Reading the model"):
            model = start_model(config, train_set, task)
    with heartbeat.doing("Counting pixels of the classes"):
        config = config.model_copy(update={"loss": counted_loss(config.loss, model, train_set)})
    is_done = checkpoint is not None and checkpoint.step == total_steps(config, len(train_set))
    is_told = broadcast_object_list([show_bar])[0]  # the first process alone shows one, and all of them time a step
    with heartbeat.doing("Timing a step"):
        if free and not checkpoint:
            config, timing = choose_settings(config, free, model, train_set, validation_set, accelerator)
        elif is_told and can_be_timed(config) and not is_done:
            timing = measure_pace(model, config, validation_set, accelerator)
    changes: dict[str, Any] = {"notes": {**model.config.notes, "training": _notes_of(config, train_set)}}
    if can_calibrate(model) and not checkpoint:  # what was fitted on the outputs of before
        changes |= {"presence": None, "threshold": None}
    model.config = model.config.model_copy(update=changes)
    if config.accumulate == "auto":
        with heartbeat.doing("Finding how many samples fit into memory"):
            config = config.model_copy(update={"accumulate": find_accumulation(model, config, accelerator)})
    if accelerator.is_main_process:
        write_config(config, folder / CONFIG)
    _tell(config, accelerator.num_processes)
    costs = costs_of(timing, config, validation_set, accelerator.num_processes) if timing else None
    if timing and accelerator.is_main_process:
        left = total_steps(config, len(train_set)) - (checkpoint.step if checkpoint else 0)
        tell_length(timing, config, validation_set, steps=left, accelerator=accelerator)
    training = Training(
        model,
        train_set,
        training_transform(config, model),
        config,
        folder,
        validation_set=validation_set,
        checkpoint=checkpoint,
        accelerator=accelerator,
        show_bar=show_bar,
        heartbeat=heartbeat,
        costs=costs,
    )
    trained, has_presence = training.run(), can_calibrate(model)
    del training, model  # the one that was saved is read again
    if validation_set is not None and has_presence:
        accelerator.free_memory()  # or the device would hold two
        told: dict[str, Any] = {"device": accelerator.device, "task": task, "is_shown": show_bar}
        told["pairs"] = min(PAIRS, config.validate_limit or PAIRS)
        do_on_first(accelerator, lambda: calibrate_saved(trained, validation_set, **told))
    return trained


def _tell(config: TrainConfig, processes: int) -> None:
    """The settings that decide how long and how large a run is, whoever chose them."""
    length = f"{config.steps} steps" if config.steps else f"{config.epochs:g} epochs"
    parts = (
        f", {config.batch_size // (config.accumulation * processes)} at a time"
        if config.accumulation * processes > 1
        else ""
    )
    logger.info(
        "Training: %s, mode %s, recipe %s, %d px, batches of %d%s; -s changes them.",
        *(length, config.mode, config.recipe, config.crop_px, config.batch_size, parts),
    )


def _notes_of(config: TrainConfig, train_set: SampleSet) -> dict[str, Any]:
    """What a trained model says of its training; no paths, since models travel."""
    told: dict[str, Any] = {"data": Path(config.data.root).name, "split": config.data.split, "vpd": __version__}
    told |= data_rules(train_set, but=config.classes or train_set.classes)
    told |= {"format": config.data.format} if config.data.format else {}
    kept = {"recipe", "mode", "steps", "epochs", "batch_size", "learning_rate", "crop_px", "precision", "seed"}
    kept |= {"optimiser", "ema_decay"}
    told |= {"loss": loss} if (loss := config.loss.model_dump(mode="json", exclude_defaults=True)) else {}
    return told | config.model_dump(mode="json", include=kept, exclude_none=True)


def _check_changes(before: TrainConfig, now: TrainConfig, path: Path) -> None:
    """Raise where a run goes on with other settings that may touch the weights than stand in the file it began with."""
    old, new = (flat_settings(config.model_dump(mode="json")) for config in (before, now))
    changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if forbidden := [key for key in changed if key not in MAY_CHANGE]:
        listed = "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in forbidden)
        raise UsageError(
            f"A resumed run must have the settings it was started with ({path}): {listed}. "
            "Leave these out, or start anew in another folder; a new run can begin with this one's model (--model)."
        )


def _came_of_steps(path: Path) -> bool:
    """Whether something in the folder of a run is more than what is there before the first step."""
    if path.name == CHECKPOINTS:
        return any(path.glob("step-*"))
    return path.name not in _PREPARED or (path.name == "log.jsonl" and path.stat().st_size > 0)


def _check_length(
    before: TrainConfig, now: TrainConfig, checkpoint: Checkpoint, task: TaskKind, train_set: SampleSet
) -> None:
    """Tell what becomes of a run that is made longer; raise where it is made shorter."""
    samples = len(train_set)
    old, new = total_steps(before, samples), total_steps(now, samples)
    if new < old:
        raise UsageError(
            f"This run was started for {old} steps and has done {checkpoint.step}; it can be made longer, not shorter "
            f"({new} steps). Its model so far is {checkpoint.folder}; for a shorter run start anew in another folder, "
            "where --model can be that one."
        )
    if new > old:
        rate = schedule_of(now, task, samples=samples)(checkpoint.step)
        logger.info(
            "The run goes on to %d steps instead of %d. The learning rate follows the course of a run of %d steps from "
            "here on: the next step has %.2g of at most %.2g.",
            *(new, old, new, rate, now.learning_rate),
        )
