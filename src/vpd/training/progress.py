"""What a person sees of a training run: a bar, a line file, TensorBoard curves and pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from vpd.files import append_json_line, atomic_write, read_json_lines

logger = logging.getLogger(__name__)


class Progress:
    """Shows and records a run, on its first process only.

    Args:
        folder: The run's folder; gets `log.jsonl`, `tensorboard/` and `pictures/`.
        steps: Steps of the whole run.
        start_step: Steps that were done before; what the log says of later ones is forgotten.
        enabled: False on every process but the first.
        bar: Show a progress bar.
    """

    def __init__(self, folder: Path, *, steps: int, start_step: int, enabled: bool, bar: bool) -> None:
        self._folder = folder
        self._log = folder / "log.jsonl"
        self._enabled = enabled
        self._board: Any = None
        if enabled:
            self._board = _open_tensorboard(folder / "tensorboard", purge_step=start_step + 1)
            _forget_after(self._log, start_step)
        self._bar = tqdm(total=steps, initial=start_step, unit="step", disable=not (enabled and bar))

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
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

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
    lines = read_json_lines(log)
    if lines:
        log.unlink()
    for line in lines:
        if line["step"] <= step:
            append_json_line(log, line)
