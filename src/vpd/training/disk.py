"""Room on the disk: known to be there before something large is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from vpd.errors import UsageError

_SLACK_BYTES = 32 * 2**20
"""For configuration, tokenizer, log and pictures."""


def checkpoint_bytes(model: nn.Module, optimiser: Optimizer, *, state_bytes: int = 8) -> int:
    """Size of a checkpoint on the disk.

    Args:
        model: Whose parameters and buffers are written.
        optimiser: Whose state is written.
        state_bytes: What it will hold for each trained value, assumed before its first step.
    """
    weights = sum(_bytes(tensor) for tensor in (*model.parameters(), *model.buffers()))
    state = [value for entry in optimiser.state.values() for value in entry.values() if isinstance(value, Tensor)]
    trained = sum(parameter.numel() for group in optimiser.param_groups for parameter in group["params"])
    return weights + (sum(map(_bytes, state)) if state else state_bytes * trained) + _SLACK_BYTES


def folder_bytes(folder: Path) -> int:
    """Size of everything below a folder that may not be there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_space(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Make sure that a disk has room.

    Args:
        folder: On the disk in question.
        needed_bytes: What is about to be written.
        purpose: What it is, and what could make it less.

    Raises:
        UsageError: If there is less.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise UsageError(
            f"{folder} has {free_bytes / 1e9:.2f} GB free, and {needed_bytes / 1e9:.2f} GB are needed {purpose}"
        )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
