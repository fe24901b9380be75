"""What a person sees of a training run: a bar, a line file, curves and pictures."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from vpd.files.atomic import append_json_line, atomic_write, read_json_lines
from vpd.training.step import Step
from vpd.training.trackers import Tracker, open_trackers

logger = logging.getLogger(__name__)

_LONG_S = 600
"""A run that takes longer says so after its second step."""


@dataclass
class Interval:
    """What adds up between two lines of the log."""

    loss: float = 0.0
    """Sum over the steps."""
    steps: int = 0
    """Optimiser steps, without skipped ones."""
    samples: int = 0
    """Samples of this process."""
    wait_s: float = 0.0
    """Seconds spent waiting for data."""
    began_s: float = field(default_factory=time.perf_counter)
    """When the interval began; later by what was no training."""

    @property
    def mean_loss(self) -> float:
        """Mean loss of the steps, NaN where there is none."""
        return self.loss / self.steps if self.steps else math.nan

    def add(self, step: Step) -> None:
        """Count a step."""
        self.wait_s += step.wait_s
        if not step.is_bad:
            self.loss += step.loss
            self.steps += 1
            self.samples += sum(len(batch.names) for batch, _ in step.parts)

    def pace(self, processes: int) -> dict[str, float]:
        """Samples a second of all processes, and the share of the time that went into waiting for data."""
        seconds = max(1e-9, time.perf_counter() - self.began_s)
        return {"samples_per_s": self.samples * processes / seconds, "wait_share": self.wait_s / seconds}


class Progress:
    """Shows and records a run, on its first process only.

    Args:
        folder: The run's folder; gets `log.jsonl` and `pictures/`, and what trackers write.
        steps: Steps of the whole run.
        start_step: Steps that were done before; what the log says of later ones is forgotten.
        enabled: False on every process but the first.
        show_bar: Show a progress bar; where nobody watches a terminal, log a line now and then instead.
        trackers: Where else curves and pictures go (`vpd.training.trackers`).
        settings: What the trackers are told of the run's settings.

    Raises:
        UsageError: If a tracker cannot be started.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: int,
        start_step: int,
        enabled: bool,
        show_bar: bool,
        trackers: Sequence[str] = ("tensorboard",),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder, self._log = folder, folder / "log.jsonl"
        self._enabled, self._speaks = enabled, enabled and show_bar
        self._steps, self._start_step, self._began_s = steps, start_step, time.monotonic()
        self._trackers: list[Tracker] = []
        if enabled:
            folder.mkdir(parents=True, exist_ok=True)
            self._trackers = open_trackers(trackers, folder, start_step=start_step, settings=settings)
            _forget_after(self._log, start_step)
        # None: a bar on a terminal only; in a log file a line now and then reads better
        self._bar = tqdm(total=steps, initial=start_step, unit="step", disable=None if self._speaks else True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_error: object) -> None:
        self._bar.close()
        for tracker in self._trackers:
            tracker.close()

    def advance(self, loss: float, learning_rate: float) -> None:
        """Move the bar by one step."""
        self._bar.set_postfix(loss=f"{loss:.4f}", lr=f"{learning_rate:.2e}", refresh=False)
        self._bar.update()

    def left_s(self, step: int) -> float:
        """Seconds that the run will go on after so many steps, at the mean pace since it was started.

        Validations and checkpoints are included.
        """
        return (time.monotonic() - self._began_s) / max(1, step - self._start_step) * (self._steps - step)

    def estimate(self, step: int, took_s: float) -> None:
        """Say how long a long run will take, after its second step: nobody waits for days to learn of them.

        The first one, whose seconds do not tell, also starts readers and the device, and compiles.
        """
        left_s = took_s * (self._steps - step)
        if self._speaks and left_s > _LONG_S:
            left = tqdm.format_interval(left_s)
            self._say(f"The second step took {took_s:.1f} s: at this pace, {left} for the other {self._steps - step}.")

    def note(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Add a line to the log only, with anything that JSON has a word for."""
        if self._enabled:
            append_json_line(self._log, {"step": step, "kind": kind, **values})

    def record(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Add a line of a kind (`train`, `validation`) to the log, NaN as null, and a point to each curve."""
        self.note(step, kind, values)
        if self._speaks and (self._bar.disable or kind != "train"):
            self._say(f"step {step}/{self._steps} {kind}: " + ", ".join(_worded(*item) for item in values.items()))
        for tracker in self._trackers:
            tracker.log(step, {f"{kind}/{name}": value for name, value in values.items()})

    def show(self, step: int, sheet: Image.Image) -> None:
        """Keep a sheet of sample pictures."""
        if not self._enabled:
            return
        folder = self._folder / "pictures"
        folder.mkdir(exist_ok=True)
        with atomic_write(folder / f"step-{step:08d}.png") as temporary:
            sheet.save(temporary)
        for tracker in self._trackers:
            tracker.show(step, "validation/samples", sheet)

    def _say(self, line: str) -> None:
        if self._bar.disable:
            logger.info("%s", line)
        else:
            self._bar.write(line, file=sys.stderr)


def _worded(name: str, value: float) -> str:
    """A value of the log for people."""
    return f"{tqdm.format_interval(value)} left" if name == "left_s" else f"{name} {value:.4g}"


def _forget_after(log: Path, step: int) -> None:
    """Drop the lines of steps that are about to be run again, and what a crash left torn."""
    if log.exists():
        kept = [line for line in read_json_lines(log) if line["step"] <= step]
        with atomic_write(log) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
