"""Steps whose loss or gradient is NaN or infinite: the batch is kept for inspection, or the step is skipped."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from vpd.files.atomic import atomic_folder, write_json
from vpd.files.images import to_pixels
from vpd.tensors import Batch
from vpd.training.config import TrainConfig
from vpd.training.step import Step

logger = logging.getLogger(__name__)

BAD_BATCHES = "bad-batches"
"""Folder of a run: what the samples were on which the loss or the gradient was no number."""
TENSORS_FILE, NAMES_FILE = "batch.safetensors", "names.json"


class BadSteps:
    """Decides what becomes of a run after a step that could not be taken.

    Args:
        folder: The run's folder; gets `bad-batches/`.
        accelerator: Other processes, with which all is agreed on.
        config: Says whether to stop or skip.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, config: TrainConfig) -> None:
        self._folder, self._accelerator = folder / BAD_BATCHES, accelerator
        self._skips, self._most = config.on_bad_loss == "skip", config.max_bad_steps
        self._in_a_row = 0

    def note(self, number: int, step: Step) -> list[str]:
        """Take note of a step, on all processes together.

        Args:
            number: Of the step, counted from 1.
            step: What came of it.

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
            save_batch(folder / f"process-{self._accelerator.process_index}-part-{part}", *step.parts[part])
        self._accelerator.wait_for_everyone()
        rows = f", after {self._in_a_row - 1} others in a row" if self._skips else ""
        raise FloatingPointError(
            f"{told}{rows}. They are saved in {folder}: look at them. Else lower learning_rate, set clip_norm, use "
            "precision=no, or skip such steps (on_bad_loss=skip). The last checkpoint is unharmed; --resume goes on "
            "from there."
        )


def save_batch(folder: Path, batch: Batch, total: float) -> None:
    """Write a batch to look into: its tensors, what is known of each sample, and the images as pictures.

    Args:
        folder: The folder to make.
        batch: On any device.
        total: Total of its loss.
    """
    with atomic_folder(folder) as partial:
        tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial / TENSORS_FILE)
        rest = {name: value for name, value in vars(batch).items() if name not in tensors}
        write_json(partial / NAMES_FILE, {**rest, "loss_total": str(total)})
        for number, pixels in enumerate(to_pixels(batch.images)):
            Image.fromarray(pixels).save(partial / f"image-{number:03d}.png")
