"""Samples that cannot be read: named, recorded once each, and too many of them end the run."""

from __future__ import annotations

import logging
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from vpd.data.sample import SampleSet
from vpd.errors import UsageError
from vpd.files.atomic import append_json_line, read_json_lines

logger = logging.getLogger(__name__)

BAD_SAMPLES = "bad-samples.jsonl"
"""File of a run: a line for each sample that could not be read."""
_SHOWN = 5
_LOOKED_AT = 12


def look_at_some(sample_set: SampleSet, *, max_share: float) -> None:
    """Read a few samples, spread evenly, before anything that takes long: a wrong class list shows in most of them.

    Args:
        sample_set: What to train on.
        max_share: Share of the whole set that may be unreadable; where it is 0, none may.

    Raises:
        UsageError: If more than half cannot be read, or any where none may.
    """
    problems, number = list[str](), min(_LOOKED_AT, len(sample_set))
    for place in range(number):
        try:
            sample_set[place * len(sample_set) // number]
        except UsageError as error:
            problems.append(str(error))
    if len(problems) > (number / 2 if max_share else 0):  # so few say little of a share, but this is no accident
        raise UsageError(
            f"Of {number} training samples that were looked at before the start, {len(problems)} cannot be used: "
            f"{'; '.join(problems[:2])}{'; ...' if len(problems) > 2 else ''}. Mend the data or the class list; "
            "vpd data check names every problem."
        )


def _allowed(max_share: float, samples: int) -> float:
    """How many of some samples may be unreadable."""
    return max(1.0, max_share * samples) if max_share else 0


class BadSamples:
    """Keeps account of the samples that this start of a run found unreadable.

    Args:
        folder: The run's folder; gets `bad-samples.jsonl`.
        accelerator: Other processes; all of them come to the same count.
        samples: Size of the data set.
        max_share: Share of it that may be unreadable; one sample always may, unless this is 0.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, *, samples: int, max_share: float) -> None:
        self._path, self._accelerator = folder / BAD_SAMPLES, accelerator
        self._samples, self._max_share = samples, max_share
        self._problems: dict[int, str] = {}
        self._recorded = {(line["index"], line["problem"]) for line in read_json_lines(self._path)}

    def add(self, step: int, unreadable: list[tuple[int, str]]) -> None:
        """Take note of what the processes could not read; all of them call this together.

        Args:
            step: Steps done.
            unreadable: Number in the data set, and problem, of each such sample of this process.

        Raises:
            UsageError: If too many are bad.
        """
        for index, problem in gather_object(unreadable):
            if index in self._problems:
                continue
            self._problems[index] = problem
            if self._accelerator.is_main_process:
                logger.warning("Sample %d cannot be read and is replaced by another: %s", index, problem)
                if (index, problem) not in self._recorded:
                    append_json_line(self._path, {"step": step, "index": index, "problem": problem})
        if len(self._problems) > _allowed(self._max_share, self._samples):
            shown = "; ".join(list(self._problems.values())[:_SHOWN])
            raise UsageError(
                f"{len(self._problems)} of the {self._samples} training samples cannot be read so far, more than "
                f"max_bad_share={self._max_share:g} allows: {shown}{'; ...' if len(self._problems) > _SHOWN else ''}. "
                f"{self._path} lists them all. Mend the data (vpd data check finds what is wrong), or raise "
                "max_bad_share; --resume goes on."
            )
