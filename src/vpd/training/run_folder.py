"""The checkpoints of a run: what is written when, what is kept, and whether there is room."""

from __future__ import annotations

import difflib
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from vpd.errors import UsageError
from vpd.evaluation.evaluate import is_better
from vpd.files.atomic import read_json_lines
from vpd.model_folder import CHECKPOINTS, CONFIG, WEIGHTS_FILE, is_run
from vpd.tasks.model import PerceptionModel
from vpd.training.bad_data import BAD_SAMPLES
from vpd.training.checkpoints import (
    Checkpoint,
    clean_checkpoints,
    prune_checkpoints,
    save_checkpoint,
    scored_checkpoints,
)
from vpd.training.config import TrainConfig
from vpd.training.ema import TRAINING_WEIGHTS_FILE, WeightAverage, averaged
from vpd.training.optimisers import STATE_BYTES
from vpd.training.settings import write_config

logger = logging.getLogger(__name__)

_SLACK_BYTES = 32 * 2**20
"""On the disk, for configuration, tokenizer, log and pictures."""


def tell_no_run(folder: Path, *, can_start: bool) -> None:
    """Say that a folder holds no run that could be resumed, and name runs whose folders are called like it.

    Raises:
        UsageError: If none can be started there instead.
    """
    siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
    runs = {sibling.name: sibling for sibling in siblings if sibling != folder and is_run(sibling)}
    near = [str(runs[name]) for name in difflib.get_close_matches(folder.name, runs, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    if not can_start:
        raise UsageError(f"{folder} holds no run to go on with.{hint} To start one there, give --data and --model.")
    logger.info("%s holds no run to go on with: one starts there.%s", folder, hint)


def summary(folder: Path) -> str:
    """What of a run's data and steps did not count, over all its starts; empty where all did."""
    samples = {line["index"] for line in read_json_lines(folder / BAD_SAMPLES)}
    skipped = sum(line["kind"] == "skipped" for line in read_json_lines(folder / "log.jsonl"))
    parts = [f"samples that could not be read and were replaced: {len(samples)} ({BAD_SAMPLES})"] if samples else []
    parts += [f"steps skipped for a bad loss: {skipped} (log.jsonl)"] if skipped else []
    return "; ".join(parts)


class RunFolder:
    """Writes what a run leaves; only its first process may call this.

    Args:
        folder: The run's folder.
        model: Whom to save.
        optimiser: Whose state to save.
        config: Says how many checkpoints are kept.
        average: Of the model's weights, which is then what is saved as the model.
        data: Which samples the run is trained on, for its checkpoints.
    """

    def __init__(
        self,
        folder: Path,
        model: PerceptionModel,
        optimiser: Optimizer,
        config: TrainConfig,
        average: WeightAverage | None,
        data: dict[str, Any],
    ) -> None:
        self._folder, self._root, self._data = folder, folder / CHECKPOINTS, data
        self._model, self._optimiser, self._config, self._average = model, optimiser, config, average
        self._score: str = getattr(model, "score", "")  # a small encoder has none

    def prepare(self, start_step: int, steps: int, *, has_scores: bool) -> None:
        """Remove remains, and make sure that the checkpoints of the whole run will find room.

        Args:
            start_step: Steps that were done before.
            steps: Of the whole run.
            has_scores: Whether there will be a best checkpoint.

        Raises:
            UsageError: If there is no room.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        clean_checkpoints(self._root, after_step=start_step)
        size = self._checkpoint_bytes()
        number = checkpoints_at_once(self._config, start_step, steps, has_scores=has_scores)
        check_space(
            self._root,
            number * size - folder_bytes(self._root),
            f"for {number} checkpoints of {size / 1e9:.2f} GB at a time (keep={self._config.keep}). Make room, set a "
            "smaller keep, or give another folder.",
        )

    def save_if(self, is_due: bool, done: int, scores: dict[str, float]) -> None:
        """Write a checkpoint if it is due or the best so far by its scores, and remove those that are not kept.

        Raises:
            UsageError: If it cannot be written.
        """
        if not is_due and not self._is_best(scores):
            return
        size = self._checkpoint_bytes()
        check_space(self._root, size, f"for the checkpoint after step {done}. Make room and go on with --resume.")
        with averaged(self._average) as training_weights:
            state = self._model.state_dict()
            files = {WEIGHTS_FILE: {key: value for key, value in state.items() if not key.startswith("text_encoder.")}}
            if training_weights:
                files[TRAINING_WEIGHTS_FILE] = training_weights
            save_checkpoint(
                self._root,
                done,
                save_model=partial(self._write, training_weights=training_weights),
                optimiser=self._optimiser,
                scores=scores,
                tensors=files,
                data=self._data,
            )
        prune_checkpoints(self._root, keep=self._config.keep, best=self.best())

    def best(self) -> Checkpoint | None:
        """The best of the checkpoints that were measured; none where nothing is."""
        best: Checkpoint | None = None
        for checkpoint in scored_checkpoints(self._root, self._score):
            if best is None or self._is_better(checkpoint.scores, best.scores):
                best = checkpoint
        return best

    def _checkpoint_bytes(self) -> int:
        size = checkpoint_bytes(self._model, self._optimiser, state_bytes=STATE_BYTES[self._config.optimiser])
        return size + (self._average.num_bytes if self._average else 0)

    def _is_best(self, scores: dict[str, float]) -> bool:
        return self._score in scores and ((best := self.best()) is None or self._is_better(scores, best.scores))

    def _is_better(self, new: dict[str, float], old: dict[str, float]) -> bool:
        return is_better(type(self._model), new[self._score], old[self._score])

    def _write(self, folder: Path, training_weights: dict[str, Tensor] | None = None) -> None:
        """Write the model, the settings that it was trained with, and where it is an average what it trains on with."""
        self._model.save(folder)
        write_config(self._config, folder / CONFIG)
        if training_weights:
            contiguous = {name: value.contiguous() for name, value in training_weights.items()}
            save_file(contiguous, folder / TRAINING_WEIGHTS_FILE)


def checkpoints_at_once(config: TrainConfig, start_step: int, steps: int, *, has_scores: bool) -> int:
    """Most checkpoints that lie on the disk together: the newest, the best, and one that is being written.

    Arguments as for `RunFolder.prepare`.
    """
    due = {steps, *range(0, steps + 1, config.checkpoint_every)}
    if has_scores:
        due |= set(range(0, steps + 1, config.validate_every))
    written = sum(step > start_step for step in due) + (start_step > 0)
    return min(written, config.keep + 1 + has_scores)


def checkpoint_bytes(model: nn.Module, optimiser: Optimizer, *, state_bytes: int) -> int:
    """Size of a checkpoint on the disk; before its first step an optimiser counts as `state_bytes` a trained value."""
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    state = [value for entry in optimiser.state.values() for value in entry.values() if isinstance(value, Tensor)]
    trained = sum(parameter.numel() for group in optimiser.param_groups for parameter in group["params"])
    return weights + (sum(value.nbytes for value in state) if state else state_bytes * trained) + _SLACK_BYTES


def folder_bytes(folder: Path) -> int:
    """Size of everything below a folder that may not be there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Make sure that the disk of a folder has room for a purpose, which also says what could make it less.

    Raises:
        UsageError: If it has not.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise UsageError(
            f"{folder} has {free_bytes / 1e9:.2f} GB free, and {needed_bytes / 1e9:.2f} GB are needed {purpose}"
        )
