"""What a run leaves: its best model, the last one beside it, and words about both."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpd.errors import UsageError
from vpd.files.atomic import atomic_folder, read_json, read_json_lines, remove_folder, write_json
from vpd.loading import load
from vpd.model_folder import CHECKPOINTS, CONFIG, CONFIG_FILE, LAST, MODEL
from vpd.tasks.model import PerceptionModel
from vpd.training.checkpoints import OPTIMISER_FILE, STATE_FILE, Checkpoint, latest_checkpoint
from vpd.training.config import TrainConfig
from vpd.training.curves import LOG
from vpd.training.ema import TRAINING_WEIGHTS_FILE
from vpd.training.settings import write_config

logger = logging.getLogger(__name__)

OUTCOME = "outcome.json"
"""In a finished model: after which step of its run, and what was measured then."""
_MOST_CLASSES = 1000  # that a log has a line for after each validation
_NOT_MODEL = {OPTIMISER_FILE, STATE_FILE, TRAINING_WEIGHTS_FILE}
"""What a checkpoint has beside its model."""


def leave_models(folder: Path, best: Checkpoint | None, model: PerceptionModel, config: TrainConfig) -> None:
    """Make the model that a run leaves of its best checkpoint, and of the last one another beside it; tell of both.

    Where nothing was measured, or the last one is the best, there is one model. Files are hard links to those of the
    checkpoints where the disk has such; merged LoRA is written. What is there already stays.

    Args:
        folder: Of the run.
        best: Its best checkpoint; none = nothing was measured.
        model: What is trained: its class, and its score.
        config: Of the run.

    Raises:
        UsageError: If there is no checkpoint, or no room.
    """
    last = latest_checkpoint(folder / CHECKPOINTS, verify=False)
    if last is None:
        raise UsageError(f"{folder / CHECKPOINTS} holds no checkpoint, so there is no model to finish.")
    _finish(best or last, folder / MODEL, model, config)
    if best is None or best.step == last.step:
        remove_folder(folder / LAST)  # of a run that was then made longer
        if best:
            logger.info("Best: %s, the last: %s.", _measured(best, model), folder / MODEL)
        return
    _finish(last, folder / LAST, model, config)
    told = (_measured(best, model), folder / MODEL, _measured(last, model), folder / LAST)
    logger.info("Best: %s: %s. Last: %s: %s.", *told)


def measures_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a log keeps of a validation beside its metrics."""
    per_class = report["per_class"] if len(report["per_class"]) <= _MOST_CLASSES else {}
    return {**{name: report[name] for name in ("samples", "groups", "intervals")}, "per_class": per_class}


def validations_since(best_step: int, done: int, every: int) -> int:
    """How many validations there were since the best one, where every so many steps are followed by one."""
    return done // every - best_step // every


def _finish(checkpoint: Checkpoint, folder: Path, model: PerceptionModel, config: TrainConfig) -> None:
    outcome = {"step": checkpoint.step, "scores": checkpoint.scores}
    if (folder / OUTCOME).is_file() and read_json(folder / OUTCOME) == outcome:
        return
    with atomic_folder(folder) as partial:
        if config.mode == "lora":
            trained = load(checkpoint.folder, device="cpu", dtype="float32", task=type(model))
            trained.merge_lora()
            trained.save(partial)
            write_config(config, partial / CONFIG)
        else:
            shutil.copytree(checkpoint.folder, partial, copy_function=_link, dirs_exist_ok=True)
            for name in _NOT_MODEL:
                (partial / name).unlink(missing_ok=True)
        _note_measures(partial / CONFIG_FILE, folder.parent / LOG, checkpoint, config)
        write_json(partial / OUTCOME, outcome)


def _note_measures(path: Path, log: Path, checkpoint: Checkpoint, config: TrainConfig) -> None:
    """Let the model's configuration say what was measured of it, for its card; a model travels without its log."""
    lines = [line for line in read_json_lines(log) if line["kind"] == "measured" and line["step"] == checkpoint.step]
    if not lines or not checkpoint.scores:
        return
    contents, found = read_json(path), lines[-1]
    measured = {
        "split": config.data.validation_split,
        "step": checkpoint.step,
        "samples": found["samples"],
        "groups": found["groups"],
        "metrics": checkpoint.scores,
        "intervals": found["intervals"],
    }
    write_json(path, {**contents, "notes": {**contents.get("notes", {}), "measured": measured}})


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the disk has no such; a checkpoint's files are never written again."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _measured(checkpoint: Checkpoint, model: PerceptionModel) -> str:
    """What was measured on a checkpoint, and when."""
    if model.score not in checkpoint.scores:
        return f"not measured after step {checkpoint.step}"
    value = checkpoint.scores[model.score]
    number = f"{value:.4f}" if model.score_is_error else f"{100 * value:.1f} %"
    return f"{model.score} {number} after step {checkpoint.step}"
