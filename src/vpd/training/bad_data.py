"""Samples that cannot be read, and steps whose loss or gradient is no number: named, kept, and too many end the run."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from vpd.errors import UsageError
from vpd.files.atomic import append_json_line, atomic_folder, read_json_lines, write_json
from vpd.files.images import to_pixels
from vpd.tensors import Batch
from vpd.training.config import TrainConfig
from vpd.training.step import Step

logger = logging.getLogger(__name__)

BAD_SAMPLES = "bad-samples.jsonl"
"""File of a run: a line for each sample that could not be read."""
BAD_BATCHES = "bad-batches"
"""Folder of a run: what the samples were on which the loss or the gradient was no number."""
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
        if len(self._problems) > (max(1.0, self._max_share * self._samples) if self._max_share else 0):
            shown = "; ".join(list(self._problems.values())[:_SHOWN])
            raise UsageError(
                f"{len(self._problems)} of the {self._samples} training samples cannot be read so far, more than "
                f"max_bad_share={self._max_share:g} allows: {shown}{'; ...' if len(self._problems) > _SHOWN else ''}. "
                f"{self._path} lists them all. Mend the data (vpd data check finds what is wrong), or raise "
                "max_bad_share; --resume goes on."
            )


class BadSteps:
    """Decides what becomes of a run after a step that could not be taken; all processes agree on it.

    A run that stops leaves `bad-batches/` in its folder.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, config: TrainConfig) -> None:
        self._folder, self._accelerator = folder / BAD_BATCHES, accelerator
        self._skips, self._most = config.on_bad_loss == "skip", config.max_bad_steps
        self._in_a_row = 0

    def note(self, number: int, step: Step) -> list[str]:
        """Take note of a step, counted from 1, on all processes together.

        Returns:
            Names of the samples to blame where the step was skipped; empty for a good step.

        Raises:
            FloatingPointError: If the run shall stop: at the first bad step, or after so many skipped ones in a row.
                The batch is saved then.
        """
        if not step.is_bad:
            self._in_a_row = 0
            return []
        self._in_a_row += 1
        own = [part for part, (_, total) in enumerate(step.parts) if not math.isfinite(total)]
        if not any(gather_object([len(own)])):  # the gradient alone: no batch is more to blame than another
            own = list(range(len(step.parts)))
        names: list[str] = gather_object([name for part in own for name in step.parts[part][0].names])
        what = f"norm of the gradient is {step.norm}" if math.isfinite(step.loss) else f"loss is {step.loss}"
        told = f"The {what} at step {number}, on the samples {', '.join(names)}"
        if self._skips and self._in_a_row < self._most:
            if self._accelerator.is_main_process:
                logger.warning("%s. The step is skipped (%d in a row).", told, self._in_a_row)
            return names
        folder = self._folder / f"step-{number:08d}"
        for part in own:
            _save_batch(folder / f"process-{self._accelerator.process_index}-part-{part}", *step.parts[part])
        self._accelerator.wait_for_everyone()
        rows = f", after {self._in_a_row - 1} others in a row" if self._skips else ""
        raise FloatingPointError(
            f"{told}{rows}. They are saved in {folder}: look at them. Else lower learning_rate, set clip_norm, use "
            "precision=no, or skip such steps (on_bad_loss=skip). The last checkpoint is unharmed; --resume goes on "
            "from there."
        )


def _save_batch(folder: Path, batch: Batch, total: float) -> None:
    """Write a batch and its loss to look into: tensors, what is known of each sample, and the images as pictures."""
    with atomic_folder(folder) as partial:
        tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial / "batch.safetensors")
        rest = {name: value for name, value in vars(batch).items() if name not in tensors}
        write_json(partial / "names.json", {**rest, "loss_total": str(total)})
        for number, pixels in enumerate(to_pixels(batch.images)):
            Image.fromarray(pixels).save(partial / f"image-{number:03d}.png")
