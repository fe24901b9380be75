"""Where curves and pictures of a run go, beside its line file: TensorBoard, and Weights & Biases through accelerate."""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vpd.errors import UsageError
from vpd.files.atomic import atomic_write

logger = logging.getLogger(__name__)

WANDB_ID = "wandb-id.txt"
"""File of a run: its name at Weights & Biases, under which a resumed run goes on."""


class _TensorBoard:
    """accelerate's own forgets nothing of steps that run again."""

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def show(self, step: int, name: str, picture: Image.Image) -> None:
        self._writer.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """Steps are values here: W&B's own count only rises, and a resumed run may go back to its checkpoint."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        import wandb
        from accelerate import PartialState
        from accelerate.tracking import WandBTracker

        PartialState()  # accelerate's tracker logs through it; the one of a run that has begun is taken
        options = {"name": folder.resolve().name, "dir": str(folder), "id": _wandb_id(folder), "resume": "allow"}
        self._tracker = WandBTracker(os.environ.get("WANDB_PROJECT", "vpd"), **options)
        try:
            self._tracker.start()
        except wandb.Error as error:
            raise UsageError(
                f"Weights & Biases does not start: {error}. Log in (wandb login), set WANDB_MODE=offline, or leave it "
                "out of trackers."
            ) from error
        self._tracker.store_init_configuration(dict(settings))
        self._tracker.tracker.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._tracker.log({"step": step, **values})

    def show(self, step: int, name: str, picture: Image.Image) -> None:
        import wandb

        self._tracker.log({"step": step, name: [wandb.Image(picture)]})

    def close(self) -> None:
        self._tracker.finish()


Tracker = _TensorBoard | _WeightsAndBiases
"""Takes points of curves (`log`) and pictures (`show`); `close` writes what is left."""


def check_trackers(names: Sequence[str]) -> None:
    """Make sure that the trackers that were asked for are installed; without TensorBoard a run goes on all the same.

    Raises:
        UsageError: If Weights & Biases is not.
    """
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        raise UsageError(
            "trackers names wandb, which is not installed: pip install wandb (or vpd-perception[wandb]), "
            "or leave it out."
        )


def open_trackers(
    names: Sequence[str], folder: Path, *, start_step: int, settings: Mapping[str, Any] | None = None
) -> list[Tracker]:
    """Open trackers (`tensorboard`, `wandb`) of the run in a folder, of which so many steps were done before.

    Raises:
        UsageError: If Weights & Biases cannot start.
    """
    check_trackers(names)
    trackers: list[Tracker] = []
    if "tensorboard" in names:
        try:
            trackers.append(_TensorBoard(folder / "tensorboard", purge_step=start_step + 1))
        except ImportError:
            logger.warning("TensorBoard is not installed: curves go to log.jsonl only (pip install tensorboard).")
    if "wandb" in names:
        trackers.append(_WeightsAndBiases(folder, settings or {}))
    return trackers


def _wandb_id(folder: Path) -> str:
    path = folder / WANDB_ID
    if not path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_text(secrets.token_hex(8) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
