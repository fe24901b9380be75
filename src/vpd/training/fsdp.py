"""Training with weights, gradients and optimiser state cut into shards, one for each process (FSDP2).

The shards are a copy: the model itself stays whole, in the host's memory, and gets the trained weights whenever it is
measured or saved. So nothing else knows of shards, and a checkpoint is the same file as without them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.models.attention import FeedForward
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from vpd.errors import UsageError

UNITS = (ResnetBlock2D, FeedForward, Downsample2D, Upsample2D)
"""Parts of the UNet that are put together just before they run, and taken apart after. They must be modules that
`walk_unet` calls: it is the call that gathers their weights."""


def shard(module: nn.Module, unet: nn.Module, accelerator: Accelerator) -> None:
    """Cut the weights of a module into shards on the processes' devices, in place.

    The large parts of the UNet are gathered one by one, while they run; all else when the module is called, which is
    the only way to run it afterwards. What is frozen outside the UNet (VAE, text encoder) stays whole: where its
    results are cached, a process may not call it when the others do.

    Args:
        module: What computes the loss.
        unet: The UNet inside it.
        accelerator: Of the processes.

    Raises:
        UsageError: If there is only one process, or torch is too old.
    """
    if accelerator.num_processes == 1:
        raise UsageError(
            "sharding=fsdp shares the model out among processes, and this run has one. Start it by "
            "`torchrun --nproc-per-node 8 -m vpd train ...`, or leave sharding out."
        )
    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise UsageError(f"sharding=fsdp needs torch 2.7 or newer; this is {torch.__version__}.")
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for part in [part for part in unet.modules() if isinstance(part, UNITS)]:
        fully_shard(part, mesh=mesh)
    in_unet = set(unet.parameters())
    whole = {parameter for parameter in module.parameters() if not parameter.requires_grad and parameter not in in_unet}
    for parameter in whole:
        parameter.data = parameter.data.to(accelerator.device)
    fully_shard(module, mesh=mesh, ignored_params=whole)


class Shards:
    """A whole model and optimiser, and those in shards that train in their place.

    All processes must call the methods together.

    Args:
        whole: The model, on the CPU.
        whole_optimiser: Over its parameters; never takes a step.
        trained: The model in shards, as `shard` leaves it; with the same names.
        optimiser: Over the parameters of `trained`.
        accelerator: The processes.
    """

    def __init__(
        self,
        whole: nn.Module,
        whole_optimiser: Optimizer,
        trained: nn.Module,
        optimiser: Optimizer,
        accelerator: Accelerator,
    ) -> None:
        self._whole, self._whole_optimiser = whole, whole_optimiser
        self._trained, self._optimiser = trained, optimiser
        self._accelerator = accelerator
        self._pairs = [
            (ours, theirs)
            for ours, theirs in zip(whole.parameters(), trained.parameters(), strict=True)
            if ours.requires_grad
        ]

    @contextmanager
    def whole_model(self) -> Iterator[None]:
        """Let every process have the whole model, with the trained weights, on its device until the block ends."""
        self._gather_model(everywhere=True)
        self._whole.to(self._accelerator.device)
        try:
            yield
        finally:
            self._whole.to("cpu")

    @contextmanager
    def whole_state(self) -> Iterator[None]:
        """Let the first process have model and optimiser as trained, on the CPU, until the block ends."""
        self._gather_model(everywhere=False)
        for ours, theirs in self._pairs:
            for name, value in self._optimiser.state.get(theirs, {}).items():
                whole = gathered(value)
                if self._accelerator.is_main_process:
                    self._whole_optimiser.state[ours][name] = whole
        try:
            yield
        finally:
            self._whole_optimiser.state.clear()

    def scatter_optimiser(self) -> None:
        """Give the optimiser in shards the state of the whole one, which loses it."""
        parameters = [parameter for group in self._optimiser.param_groups for parameter in group["params"]]
        number = {theirs: place for place, theirs in enumerate(parameters)}  # as the optimiser's state counts them
        state: dict[int, dict[str, Any]] = {}
        for ours, theirs in self._pairs:
            for name, value in self._whole_optimiser.state.get(ours, {}).items():
                is_cut = isinstance(value, Tensor) and value.shape == ours.shape
                state.setdefault(number[theirs], {})[name] = _cut_like(value, theirs) if is_cut else value
        self._optimiser.load_state_dict({"state": state, "param_groups": self._optimiser.state_dict()["param_groups"]})
        self._whole_optimiser.state.clear()

    @torch.no_grad()
    def _gather_model(self, *, everywhere: bool) -> None:
        for ours, theirs in self._pairs:
            whole = gathered(theirs)
            if everywhere or self._accelerator.is_main_process:
                ours.copy_(whole)
        for kept, used in zip(self._whole.buffers(), self._trained.buffers(), strict=True):
            kept.copy_(used)


def gathered(value: Any) -> Any:
    """The whole of a tensor in shards, on the CPU; anything else as it is. All processes must call it together."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _cut_like(value: Tensor, parameter: Any) -> DTensor:
    """Cut a tensor as a parameter in shards is cut."""
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
