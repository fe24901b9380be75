"""What a person sees of a training run: a bar, a line file, curves and pictures."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from tqdm.auto import tqdm

from vpd.files.atomic import append_json_line, atomic_write, read_json_lines
from vpd.processes import Heartbeat
from vpd.training.step import Step
from vpd.training.trackers import Tracker, open_trackers

logger = logging.getLogger(__name__)

T = TypeVar("T")
_LONG_S = 600
"""A run that takes longer says so after its second step, where its costs were not measured before."""


@dataclass(frozen=True)
class Costs:
    """What the parts of a run take, measured before it begins."""

    step_s: float
    """Seconds of an optimiser step."""
    validation_s: float = 0.0
    """Seconds of a whole validation."""


class _Mean:
    """The mean of some durations, and a guess before there is one."""

    def __init__(self, guess_s: float = 0.0) -> None:
        self._guess_s, self._sum_s, self._count = guess_s, 0.0, 0

    def add(self, seconds: float) -> None:
        self._sum_s, self._count = self._sum_s + seconds, self._count + 1

    @property
    def seconds(self) -> float:
        return self._sum_s / self._count if self._count else self._guess_s


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
        validate_every: Steps between two validations; none = there are none.
        checkpoint_every: Steps between two checkpoints.
        costs: What a step and a validation take, for the time left before the first of them.
        heartbeat: Speaks while nothing moves, above the bar if there is one.

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
        validate_every: int | None = None,
        checkpoint_every: int | None = None,
        costs: Costs | None = None,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._folder, self._log = folder, folder / "log.jsonl"
        self._enabled, self._speaks = enabled, enabled and show_bar
        self._steps, self._done, self._costs = steps, start_step, costs
        self._every = {"validation": validate_every, "save": checkpoint_every}
        guesses = {"validation": costs.validation_s, "step": costs.step_s} if costs else {}
        self._took = {kind: _Mean(guesses.get(kind, 0.0)) for kind in ("step", "validation", "save")}
        self._latest, self._is_first = "", True
        self._heartbeat = heartbeat or Heartbeat(enabled=False)
        self._trackers: list[Tracker] = []
        if enabled:
            folder.mkdir(parents=True, exist_ok=True)
            self._trackers = open_trackers(trackers, folder, start_step=start_step, settings=settings)
            _forget_after(self._log, start_step)
        # None: a bar on a terminal only; in a log file a line now and then reads better
        self._bar = tqdm(total=steps, initial=start_step, unit="step", disable=None if self._speaks else True)

    def __enter__(self) -> Progress:
        self._held = ExitStack()
        self._held.enter_context(self._heartbeat.doing(self._tell))
        self._say_before, self._heartbeat.say = self._heartbeat.say, self._say
        return self

    def __exit__(self, *_error: object) -> None:
        self._heartbeat.say = self._say_before
        self._held.close()
        self._bar.close()
        for tracker in self._trackers:
            tracker.close()

    def advance(self, loss: float, learning_rate: float, took_s: float) -> None:
        """Move the bar by one step, which took so long."""
        self._done += 1
        if not self._is_first or self._costs is None:  # the first also starts readers and the device, and compiles
            self._took["step"].add(took_s)
        if not self._is_first and self._costs is None:
            self._estimate(took_s)
        self._is_first = False
        self._latest = f", loss {loss:.4g}"
        self._bar.set_postfix(loss=f"{loss:.4f}", lr=f"{learning_rate:.2e}", refresh=False)
        self._bar.update()
        if not self._bar.disable:
            self._heartbeat.spoke()

    def watch(self, batches: Iterable[T], done: int) -> Iterator[T]:
        """Hand on the batches of the validation after so many steps, with a bar of their own on a terminal."""
        what = f"Validating after step {done}"
        bar = tqdm(batches, desc=what, unit="batch", leave=False, disable=self._bar.disable)
        for batch in self._heartbeat.watch(bar, what, len(batches)):  # type: ignore[arg-type]  # has a length
            if not self._bar.disable:
                self._heartbeat.spoke()
            yield batch

    def validated(self, took_s: float) -> None:
        """A validation is done."""
        self._took["validation"].add(took_s)

    def saved(self, took_s: float) -> None:
        """A checkpoint is written."""
        self._took["save"].add(took_s)

    def left_s(self, step: int) -> float:
        """Seconds that the run will go on after so many steps, at its pace, with validations and checkpoints."""
        left_s = (self._steps - step) * self._took["step"].seconds
        for kind, every in self._every.items():
            if every and step < self._steps:  # one comes at the end
                left_s += (math.ceil(self._steps / every) - step // every) * self._took[kind].seconds
        return left_s

    def _tell(self) -> str:
        left = tqdm.format_interval(self.left_s(self._done))
        return f"Step {self._done + 1} of {self._steps}{self._latest}, {left} left"

    def _estimate(self, took_s: float) -> None:
        """Say how long a long run will take, once: nobody waits for days to learn of them."""
        left_s, self._costs = self.left_s(self._done), Costs(took_s)
        if self._speaks and left_s > _LONG_S:
            left = tqdm.format_interval(left_s)
            self._say(f"A step took {took_s:.1f} s: at this pace, {left} for the other {self._steps - self._done}.")

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
