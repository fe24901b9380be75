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
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from vpd.errors import UsageError
from vpd.files.atomic import PARTIAL_PREFIX, REMOVING_PREFIX, atomic_folder, remove_folder, sync, write_json

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
OPTIMISER_FILE = "optimiser.safetensors"
STATE_FILE = "state.json"
_PREFIX = "step-"


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
    data: dict[str, Any] | None = None
    """Which samples it was trained on (`vpd.training.setup.data_identity`); none = an older release wrote it."""


def save_checkpoint(
    root: Path,
    step: int,
    *,
    save_model: Callable[[Path], object],
    optimiser: Optimizer,
    scores: dict[str, float],
    tensors: Mapping[str, Mapping[str, Tensor]] | None = None,
    data: dict[str, Any] | None = None,
) -> Checkpoint:
    """Write the state of a run, and compare what the disk gives back with it.

    Args:
        root: Folder of the run's checkpoints.
        step: Optimiser steps done so far.
        save_model: Writes the model into the folder it is given.
        optimiser: Whose state to keep; its groups name their parameters (`param_names`).
        scores: Validation metrics measured at this step.
        tensors: Safetensors files that `save_model` writes: path in the folder -> all that it must hold.
        data: Which samples the run is trained on.

    Raises:
        UsageError: If it cannot be written, or the disk gives back something else. Older ones are untouched.
    """
    folder = root / _name(step)
    states, numbers = _flatten(optimiser)
    with atomic_folder(folder) as partial:
        save_model(partial)
        save_file(states, partial / OPTIMISER_FILE)
        for name, written in {**(tensors or {}), OPTIMISER_FILE: states}.items():
            _check_written(partial / name, written)
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
            "data": data,
            "files": files,
        }
        (partial / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    return Checkpoint(folder, step, scores, numbers, data)


def add_scores(checkpoint: Checkpoint, scores: dict[str, float]) -> None:
    """Write into a checkpoint what was measured on it later."""
    path = checkpoint.folder / STATE_FILE
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"scores": scores})


def latest_checkpoint(root: Path, *, verify: bool = True) -> Checkpoint | None:
    """The newest complete checkpoint below `root`, if there is any; torn ones are named in a warning, passed over.

    Args:
        root: Folder of the run's checkpoints.
        verify: As for `read_checkpoint`.

    Raises:
        UsageError: If there are checkpoints and none of them can be used: a run must not begin anew by mistake, over
            weeks of work that an older release, say, cannot read.
    """
    problems = []
    for folder in sorted(root.glob(f"{_PREFIX}*"), reverse=True):
        try:
            return read_checkpoint(folder, verify=verify)
        except ValueError as error:
            logger.warning("Checkpoint %s is not used: %s.", folder, error)
            problems.append(f"{folder.name}: {error}")
    if problems:
        raise UsageError(
            f"{root}: none of the checkpoints can be used ({'; '.join(problems)}). Put back what is missing, or use "
            "the release that wrote them; to begin anew, remove this folder."
        )
    return None


def scored_checkpoints(root: Path, score: str) -> list[Checkpoint]:
    """Checkpoints that have a score, oldest first, without looking into their large files."""
    found = []
    for folder in sorted(root.glob(f"{_PREFIX}*")):
        with suppress(ValueError):
            found.append(read_checkpoint(folder, verify=False))
    return [checkpoint for checkpoint in found if score in checkpoint.scores]


def read_checkpoint(folder: Path, *, verify: bool) -> Checkpoint:
    """Read the state of a checkpoint; `verify` compares all that is in its files with what was written, not sizes only.

    Raises:
        ValueError: If a file is missing or differs from what was written.
    """
    try:
        state = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        version, files = state["format_version"], state["files"]
        checkpoint = Checkpoint(folder, state["step"], state["scores"], state["optimiser"], state.get("data"))
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
    """Give a fresh optimiser over the same parameters the state it had when the checkpoint was written.

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
    for parameter, values in optimiser.state.items():
        for kind, value in values.items():  # files know one order of memory; fused steps read both in the parameter's
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[kind] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def prune_checkpoints(root: Path, *, keep: int, best: Checkpoint | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one."""
    for folder in sorted(root.glob(f"{_PREFIX}*"))[:-keep]:
        if best is None or folder != best.folder:
            remove_folder(folder)


def clean_checkpoints(root: Path, *, after_step: int) -> None:
    """Remove what a killed run left half-written or half-removed, and torn checkpoints after a step."""
    for stale in (*root.glob(f"{PARTIAL_PREFIX}*"), *root.glob(f"{REMOVING_PREFIX}*")):
        shutil.rmtree(stale, ignore_errors=True)
    for folder in root.glob(f"{_PREFIX}*"):
        if folder.name > _name(after_step):
            remove_folder(folder)


def _name(step: int) -> str:
    return f"{_PREFIX}{step:08d}"


def _parameter_names(optimiser: Optimizer) -> list[str]:
    """Names in the order in which the optimiser's state counts its parameters."""
    return [name for group in optimiser.param_groups for name in group["param_names"]]


def _flatten(optimiser: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of an optimiser as tensors and numbers, each named `<state>/<parameter>`."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    seen: set[int] = set()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for parameter_name, parameter in zip(_parameter_names(optimiser), parameters, strict=True):
        # the state itself: state_dict() of bitsandbytes nests a part of it
        for kind, value in optimiser.state.get(parameter, {}).items():
            name = f"{kind}/{parameter_name}"
            if isinstance(value, Tensor):
                # tables that 8-bit states share are copied: safetensors keeps every tensor apart
                is_shared = value.data_ptr() in seen
                tensors[name] = value.detach().clone() if is_shared else value.detach().contiguous()
                seen.add(value.data_ptr())
            else:
                numbers[name] = value
    return tensors, numbers


def _check_written(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Compare a file with what it was made of, bit by bit, as the disk gives it back."""
    sync(path)
    if hasattr(os, "posix_fadvise"):  # or the comparison would be with the system's copy in memory
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    with safe_open(path, "pt") as file:
        wrong = sorted(set(file.keys()) ^ tensors.keys()) or [
            name for name, tensor in tensors.items() if not _is_same(file.get_tensor(name), tensor)
        ]
    if wrong:
        raise UsageError(
            f"{path.name} of the checkpoint in {path.parent.parent} does not read back as it was written "
            f"({wrong[0]} differs). The disk or its driver is faulty; older checkpoints are untouched."
        )


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same bits."""
    one, other = (tensor.detach().cpu().contiguous() for tensor in (one, other))
    is_alike = one.shape == other.shape and one.dtype == other.dtype
    return is_alike and torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
