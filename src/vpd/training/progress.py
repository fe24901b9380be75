"""What a person sees of a training run: a bar, a line file, TensorBoard curves and pictures."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from vpd.files import append_json_line, atomic_write, read_json_lines

logger = logging.getLogger(__name__)


@dataclass
class Interval:
    """What adds up between two lines of the log."""

    loss: float = 0.0
    """Sum over the steps."""
    steps: int = 0
    """Optimiser steps."""
    samples: int = 0
    """Samples of this process."""
    wait_s: float = 0.0
    """Seconds spent waiting for data."""
    began_s: float = field(default_factory=time.perf_counter)
    """When the interval began."""

    @property
    def mean_loss(self) -> float:
        """Mean loss of the steps."""
        return self.loss / max(1, self.steps)

    def add(self, loss: float, samples: int) -> None:
        """Count a step."""
        self.loss, self.steps, self.samples = self.loss + loss, self.steps + 1, self.samples + samples

    def pace(self, processes: int) -> dict[str, float]:
        """Samples a second of all processes, and the share of the time that went into waiting for data."""
        seconds = max(1e-9, time.perf_counter() - self.began_s)
        return {"samples_per_s": self.samples * processes / seconds, "wait_share": self.wait_s / seconds}

    def restart(self) -> None:
        """Begin anew."""
        self.loss, self.steps, self.samples, self.wait_s = 0.0, 0, 0, 0.0
        self.began_s = time.perf_counter()


class Progress:
    """Shows and records a run, on its first process only.

    Args:
        folder: The run's folder; gets `log.jsonl`, `tensorboard/` and `pictures/`.
        steps: Steps of the whole run.
        start_step: Steps that were done before; what the log says of later ones is forgotten.
        enabled: False on every process but the first.
        show_bar: Show a progress bar; where nobody watches a terminal, log a line now and then instead.
    """

    def __init__(self, folder: Path, *, steps: int, start_step: int, enabled: bool, show_bar: bool) -> None:
        self._folder = folder
        self._log = folder / "log.jsonl"
        self._enabled = enabled
        self._board: Any = None
        if enabled:
            folder.mkdir(parents=True, exist_ok=True)
            self._board = _open_tensorboard(folder / "tensorboard", purge_step=start_step + 1)
            _forget_after(self._log, start_step)
        # None: a bar on a terminal only; in a log file a line now and then reads better
        self._bar = tqdm(total=steps, initial=start_step, unit="step", disable=None if enabled and show_bar else True)
        self._speaks = enabled and show_bar

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def advance(self, loss: float, learning_rate: float) -> None:
        """Move the bar by one step."""
        self._bar.set_postfix(loss=f"{loss:.4f}", lr=f"{learning_rate:.2e}", refresh=False)
        self._bar.update()

    def record(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Add a line to the log and a point to each curve.

        Args:
            step: Steps done.
            kind: `train` or `validation`.
            values: Name -> number; NaN stands as null in the log.
        """
        if not self._enabled:
            return
        append_json_line(self._log, {"step": step, "kind": kind, **values})
        if self._speaks and (self._bar.disable or kind != "train"):
            self._say(f"step {step}/{self._bar.total} {kind}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def _say(self, line: str) -> None:
        if self._bar.disable:
            logger.info("%s", line)
        else:
            self._bar.write(line, file=sys.stderr)

    def show(self, step: int, sheet: Image.Image) -> None:
        """Keep a sheet of sample pictures."""
        if not self._enabled:
            return
        folder = self._folder / "pictures"
        folder.mkdir(exist_ok=True)
        with atomic_write(folder / f"step-{step:08d}.png") as temporary:
            sheet.save(temporary)
        if self._board is not None:
            self._board.add_image("validation/samples", np.asarray(sheet), step, dataformats="HWC")


def _open_tensorboard(folder: Path, *, purge_step: int) -> Any:
    """A writer, or none where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.warning("TensorBoard is not installed: curves go to log.jsonl only (pip install tensorboard).")
        return None
    return SummaryWriter(str(folder), purge_step=purge_step)


def _forget_after(log: Path, step: int) -> None:
    """Drop the lines of steps that are about to be run again, and what a crash left torn."""
    if not log.exists():
        return
    kept = [line for line in read_json_lines(log) if line["step"] <= step]
    with atomic_write(log) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
