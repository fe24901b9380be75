"""Samples that cannot be read: named, recorded once each, and too many of them end the run."""

from __future__ import annotations

import logging
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object

from vpd.errors import UsageError
from vpd.files import append_json_line, read_json_lines

logger = logging.getLogger(__name__)

BAD_SAMPLES = "bad-samples.jsonl"
"""File of a run: a line for each sample that could not be read."""
_SHOWN = 5


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
        allowed = max(1.0, self._max_share * self._samples) if self._max_share else 0
        if len(self._problems) > allowed:
            shown = "; ".join(list(self._problems.values())[:_SHOWN])
            raise UsageError(
                f"{len(self._problems)} of the {self._samples} training samples cannot be read so far, more than "
                f"max_bad_share={self._max_share:g} allows: {shown}{'; ...' if len(self._problems) > _SHOWN else ''}. "
                f"{self._path} lists them all. Mend the data (vpd data check finds what is wrong), or raise "
                "max_bad_share; --resume goes on."
            )
