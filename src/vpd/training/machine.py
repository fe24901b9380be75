"""Settings that the machine decides where nobody gave them: found when a run starts, and kept with its settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from vpd.datasets.world import is_world
from vpd.processes import allowed_cores
from vpd.training.config import TrainConfig

_READERS = 2
"""Beside a network on the same CPU. Rendered scenes need none there: they take a tenth of its time."""
_MOST_READERS = 8
"""For a GPU; each keeps two batches in shared memory."""


def for_machine(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The settings with `channels_last` and `workers` decided, if they are `auto`.

    Args:
        config: With its `precision` decided.
        device: Which this process trains on.
    """
    changes: dict[str, Any] = {}
    if config.channels_last == "auto":
        can_be = config.optimiser != "adamw_8bit" and config.sharding == "none"
        changes["channels_last"] = device.type == "cuda" and config.precision == "bf16" and can_be
    return with_readers(config.model_copy(update=changes), device)


def with_readers(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The settings with `workers` decided."""
    if config.workers != "auto":
        return config
    if device.type == "cuda":  # the network leaves the cores to them
        workers = max(1, min(_MOST_READERS, own_cores() - 1))
    else:
        workers = 0 if is_world(Path(config.data.root)) else _READERS
    return config.model_copy(update={"workers": workers})


def own_cores() -> int:
    """Cores for this process, of those that it may use together with the others of its run on this machine."""
    return max(1, allowed_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
