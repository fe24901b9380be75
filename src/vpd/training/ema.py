"""The exponential moving average of the weights: steadier than the last step's, and what is measured and saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vpd.errors import UsageError

TRAINING_WEIGHTS_FILE = "training_weights.safetensors"
"""In a checkpoint whose model is the average: the weights that training goes on with."""


class WeightAverage:
    """Moving average of a model's trainable parameters; its buffers, such as BatchNorm's, are the model's own.

    The average begins as the model's weights, so a new one over a checkpoint's model has the average of that
    checkpoint to the bit; `restore` then gives the model the weights to train on with.

    Args:
        model: Whose parameters; already on its device, with what does not train frozen.
        decay: Share of the average that stays at a step, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._averages = {name: value.detach().clone() for name, value in self._parameters.items()}

    @property
    def num_bytes(self) -> int:
        """Size of the average, and of the weights that training goes on with."""
        return sum(value.nbytes for value in self._averages.values())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, whose number counts from 0.

        The first ones average over fewer steps than `decay` says, or the average would hold on to the random weights
        of a new head.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._averages.values()), list(self._parameters.values()), 1 - decay)

    def exchange(self) -> dict[str, Tensor]:
        """Let the weights of model and average change places; returns those that the model no longer has, by name."""
        for name, parameter in self._parameters.items():
            parameter.data, self._averages[name] = self._averages[name], parameter.data
        return self._averages

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Give the model the weights that a checkpoint's training goes on with.

        Raises:
            UsageError: If the checkpoint has not these weights, or others than the model.
        """
        path = folder / TRAINING_WEIGHTS_FILE
        tensors: dict[str, Tensor] = load_file(path) if path.is_file() else {}
        if differing := sorted(tensors.keys() ^ self._parameters.keys()):
            raise UsageError(
                f"{path} does not hold the weights that this run trains ({len(differing)} names differ, such as "
                f"{differing[0]}). Resume with the settings that the run was started with."
            )
        for name, value in tensors.items():
            self._parameters[name].copy_(value)


@contextmanager
def averaged(average: WeightAverage | None) -> Iterator[dict[str, Tensor]]:
    """Let the model have its average, if there is one, until the block ends.

    Yields:
        The weights that training goes on with, by name; empty where there is no average.
    """
    if average is None:
        yield {}
        return
    try:
        yield average.exchange()
    finally:
        average.exchange()
