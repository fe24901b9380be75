"""The state of a training run in one file: weights, optimiser, progress; written atomically, read with checks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from vpd.errors import UsageError
from vpd.files.atomic import atomic_write
from vpd.model_folder import is_run
from vpd.training.muon import split_kernels
from vpd.training.signals import StopRequest


def all_weights(model: nn.Module) -> list[dict[str, Any]]:
    """Groups of all parameters for `Muon`, which leaves embedding tables to Adam."""
    tables = [part.weight for part in model.modules() if isinstance(part, nn.Embedding)]
    return split_kernels([{"params": list(model.named_parameters())}], tables=tables)


def save_run(
    path: str | Path, models: Mapping[str, nn.Module], optimiser: Optimizer, progress: Mapping[str, Any]
) -> None:
    """Write a run's state; a crash at any moment leaves the old file or the new one whole.

    Args:
        path: The file.
        models: Name -> what is trained.
        optimiser: Theirs.
        progress: What else is to be known, as JSON.
    """
    tensors = {
        f"{part}.{name}": tensor.contiguous() for part, model in models.items() for name, tensor in _weights(model)
    }
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": value.contiguous() for name, value in state.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={"run": json.dumps(dict(progress))})


def restore_run(
    path: str | Path, models: Mapping[str, nn.Module], optimiser: Optimizer, expected: Mapping[str, Any]
) -> dict[str, Any]:
    """Read what `save_run` wrote into models and optimiser.

    Args:
        path: The file.
        models: Name -> what to fill.
        optimiser: Theirs.
        expected: Progress values that must be those of the file.

    Returns:
        The progress.

    Raises:
        UsageError: If the file is damaged, or of a run with other settings or another architecture.
    """
    try:
        with safe_open(path, "pt") as file:
            progress: dict[str, Any] = json.loads((file.metadata() or {}).get("run", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dictionary
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{path} is damaged ({error}). Remove it, or give another output folder.") from error
    for name, own in expected.items():
        if progress.get(name) != own:
            raise UsageError(
                f"{path} is of a run with {name} {progress.get(name)}, not {own}. "
                f"Give the same {name}, or another output folder."
            )
    for part, model in models.items():
        weights = {name: tensors.get(f"{part}.{name}", own.new_empty(0)) for name, own in _weights(model)}
        if any(weights[name].shape != own.shape for name, own in _weights(model)):
            raise UsageError(f"{path} is of another architecture. Give another output folder.")
        model.load_state_dict(weights)
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, part = name.split(".")
            states.setdefault(int(index), {})[part] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    return progress


class SavingRun(Protocol):
    """A run that can be written to a file."""

    def save(self, path: str | Path) -> None:
        """Write its state."""


Run = TypeVar("Run", bound=SavingRun)


def saving_steps(
    path: Path, stop: StopRequest, *, every_s: float, on_step: Callable[[Run, float], None] | None
) -> Callable[[Run, float], bool]:
    """What a training loop calls after each step: saves now and then, and says whether to go on.

    Args:
        path: Where the state goes.
        stop: Whether a signal came.
        every_s: Seconds between two files.
        on_step: Called first, with the run and its loss.
    """
    saved_at = time.monotonic()

    def go_on(run: Run, loss: float) -> bool:
        nonlocal saved_at
        if on_step:
            on_step(run, loss)
        if time.monotonic() - saved_at > every_s:
            run.save(path)
            saved_at = time.monotonic()
        return stop.signal is None

    return go_on


def refuse_other_runs(path: Path, *, result: Path, resume: bool) -> None:
    """Make sure that a new run does not write over one that was stopped, nor over what one came to.

    Args:
        path: Where a stopped run left its state.
        result: A file that a finished one left.
        resume: Whether a stopped one is to be gone on with.

    Raises:
        UsageError: If there is a finished run, or a stopped one that is not to be resumed, or a run of `vpd train`.
    """
    if is_run(path.parent):
        raise UsageError(f"{path.parent} holds a run of vpd train. Give another folder.")
    if path.is_file():
        if not resume:
            raise UsageError(
                f"{path.parent} holds an unfinished run. Go on with it by --resume, or give another folder."
            )
    elif result.is_file():
        raise UsageError(f"{path.parent} holds a model already, {result}. Give another folder, or remove it.")


def _weights(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.state_dict().items())
