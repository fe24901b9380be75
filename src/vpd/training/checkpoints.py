"""Checkpoints of a training run: whole or not there, checked before they are trusted, and rotated.

A checkpoint is a model folder (`vpd.load` and `vpd predict --model` take it) with two more files:
`optimiser.safetensors`, tensors named `<state>/<parameter>`, and `state.json`, the rest of the run's state and
the size and SHA-256 of every other file. Random generators have no place in it: what is random in a step is a
function of seed, step and process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from vpd.errors import UsageError
from vpd.files import sync

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
OPTIMISER_FILE = "optimiser.safetensors"
STATE_FILE = "state.json"
_PREFIX = "step-"
_PARTIAL = ".partial-"
_REMOVING = ".removing-"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    folder: Path
    """A model folder with the optimiser's state beside the weights."""
    step: int
    """Optimiser steps that were done."""
    scores: dict[str, float]
    """Validation metrics measured at this step, or empty."""
    numbers: dict[str, Any]
    """What of the optimiser's state is not a tensor: name -> value."""


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Write a folder so that a crash at any moment leaves the old one, the new one, or none, but no part of one.

    Args:
        folder: The folder to make; one that is there already is replaced.

    Yields:
        An empty folder beside it to write into. It is forced to the disk and becomes `folder` when the block
        ends, and is removed when the block raises.
    """
    partial = folder.with_name(f"{_PARTIAL}{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            sync(path)
        remove_folder(folder)
        partial.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_checkpoint(
    root: Path,
    step: int,
    *,
    save_model: Callable[[Path], object],
    optimiser: Optimizer,
    scores: dict[str, float],
) -> Checkpoint:
    """Write the state of a run after `step` optimiser steps, and verify it.

    Args:
        root: Folder of the run's checkpoints.
        step: Optimiser steps done so far.
        save_model: Writes the model into the folder it is given.
        optimiser: Whose state to keep; its groups name their parameters (`param_names`).
        scores: Validation metrics measured at this step.

    Returns:
        The checkpoint.
    """
    folder = root / _name(step)
    tensors, numbers = _flatten(optimiser)
    with atomic_folder(folder) as partial:
        save_model(partial)
        save_file(tensors, partial / OPTIMISER_FILE)
        files = {
            path.relative_to(partial).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        state = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "scores": scores,
            "optimiser": numbers,
            "files": files,
        }
        (partial / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    return Checkpoint(folder, step, scores, numbers)


def latest_checkpoint(root: Path) -> Checkpoint | None:
    """The newest complete checkpoint below `root`; what is torn is named in a warning and passed over."""
    for folder in sorted(root.glob(f"{_PREFIX}*"), reverse=True):
        try:
            return read_checkpoint(folder, verify=True)
        except ValueError as error:
            logger.warning("Checkpoint %s is not used: %s.", folder, error)
    return None


def scored_checkpoints(root: Path, score: str) -> list[Checkpoint]:
    """Checkpoints that have a score, oldest first, without looking into their large files."""
    found = []
    for folder in sorted(root.glob(f"{_PREFIX}*")):
        with suppress(ValueError):
            found.append(read_checkpoint(folder, verify=False))
    return [checkpoint for checkpoint in found if score in checkpoint.scores]


def read_checkpoint(folder: Path, *, verify: bool) -> Checkpoint:
    """Read the state of a checkpoint.

    Args:
        folder: A folder that `save_checkpoint` wrote.
        verify: Read every file and compare it with what was written, not sizes only.

    Returns:
        The checkpoint.

    Raises:
        ValueError: If a file is missing or differs from what was written.
    """
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        version, files = state["format_version"], state["files"]
        checkpoint = Checkpoint(folder, state["step"], state["scores"], state["optimiser"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{STATE_FILE} is missing or damaged") from error
    if version != FORMAT_VERSION:
        raise ValueError(f"its format_version is {version}, this release reads {FORMAT_VERSION}")
    for name, written in files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.stat().st_size != written["bytes"]:
            raise ValueError(f"{name} has {path.stat().st_size} bytes instead of {written['bytes']}")
        if verify and _sha256(path) != written["sha256"]:
            raise ValueError(f"{name} has changed since it was written")
    return checkpoint


def restore_optimiser(checkpoint: Checkpoint, optimiser: Optimizer) -> None:
    """Give the optimiser the state it had when the checkpoint was written.

    Args:
        checkpoint: Where to read from.
        optimiser: A fresh optimiser over the same parameters, with their names (`param_names`).

    Raises:
        UsageError: If the checkpoint's parameters are not those of the optimiser.
    """
    index = {name: number for number, name in enumerate(_parameter_names(optimiser))}
    state: dict[int, dict[str, Any]] = {}
    tensors = load_file(checkpoint.folder / OPTIMISER_FILE)
    for key, value in (*tensors.items(), *checkpoint.numbers.items()):
        kind, name = key.split("/", 1)
        if name not in index:
            raise UsageError(
                f"Checkpoint {checkpoint.folder} has an optimiser state for {name!r}, which this run does not "
                "train. Resume with the settings that the run was started with."
            )
        # a copy: what safetensors maps from the file has no alignment, and the file will go
        state.setdefault(index[name], {})[kind] = value.clone() if isinstance(value, Tensor) else value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def prune_checkpoints(root: Path, *, keep: int, best: Checkpoint | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one."""
    for folder in sorted(root.glob(f"{_PREFIX}*"))[:-keep]:
        if best is None or folder != best.folder:
            remove_folder(folder)


def clean_checkpoints(root: Path, *, after_step: int) -> None:
    """Remove what a killed run left half-written or half-removed, and torn checkpoints after a step."""
    for stale in (*root.glob(f"{_PARTIAL}*"), *root.glob(f"{_REMOVING}*")):
        shutil.rmtree(stale, ignore_errors=True)
    for folder in root.glob(f"{_PREFIX}*"):
        if folder.name > _name(after_step):
            remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that a crash cannot leave a part of it under its name."""
    if folder.exists():
        doomed = folder.with_name(f"{_REMOVING}{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _name(step: int) -> str:
    return f"{_PREFIX}{step:08d}"


def _parameter_names(optimiser: Optimizer) -> list[str]:
    """Names in the order in which the optimiser's state counts its parameters."""
    return [name for group in optimiser.param_groups for name in group["param_names"]]


def _flatten(optimiser: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of an optimiser as tensors and numbers, each named `<state>/<parameter>`."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    names = _parameter_names(optimiser)
    for number, entries in optimiser.state_dict()["state"].items():
        for kind, value in entries.items():
            name = f"{kind}/{names[number]}"
            if isinstance(value, Tensor):
                tensors[name] = value.detach().contiguous()
            else:
                numbers[name] = value
    return tensors, numbers


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
