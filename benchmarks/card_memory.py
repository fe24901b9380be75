"""The largest batch that trains on cards of some sizes, by count: a Markdown table, no GPU needed.

    python benchmarks/card_memory.py                       # Stable Diffusion 1.5, all tasks, modes and optimisers
    python benchmarks/card_memory.py --tasks refer --modes lora --cards 6 10
    python benchmarks/card_memory.py --size tiny --px 64   # seconds: does it run

Forward and backward pass run on tensors without data, under `precision=bf16` as a GPU has it (norms and softmax in
float32), and every byte that is alive is counted: gradients, what is kept for the backward pass, copies of weights in
16 bits, the largest transients. To them come weights, optimiser state, of `refer` the text encoder, a tenth of the
activations for what kernels take and allocators waste, and 1 GiB for CUDA itself. Nothing of it is measured:
`-s accumulate=auto` tries what really fits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from random_models import random_config
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from vpd.config import LoraSettings
from vpd.inference.cache import FrozenCaches
from vpd.inference.memory import MARGIN, LiveBytes
from vpd.loading import build_model
from vpd.tasks.referring import ReferringModel
from vpd.training.config import TrainConfig
from vpd.training.gradients import Gradients
from vpd.training.optimisers import STATE_BYTES, build_optimiser, optimiser_groups
from vpd.training.settings import resolve_config
from vpd.training.step import LossOf, set_up

MODES = ("full", "lora", "frozen", "head")
TEXT_ENCODER_BYTES = 123_060_480 * 4
CUDA_BYTES = 2**30
_CLASSES = {"segment": 150, "refer": 1, "depth": 27}
_IN_FLOAT32 = (F.group_norm, F.layer_norm, Tensor.softmax)


class GpuPrecision(TorchFunctionMode):
    """What autocast computes in float32 on a GPU, and not on a CPU."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Widen what goes in."""
        if func in _IN_FLOAT32:
            args, kwargs = tree_map(lambda value: value.float() if isinstance(value, Tensor) else value, (args, kwargs))
        return func(*args, **(kwargs or {}))


@contextmanager
def in_backward_pass(device: str) -> Iterator[None]:
    """What is made again in the backward pass, of whose thread autograd takes the mode away."""
    with torch.autocast(device, torch.bfloat16), GpuPrecision():
        yield


class _Embedded(nn.Module):
    """Gives a referring model its texts, embedded already."""

    def __init__(self, model: ReferringModel) -> None:
        super().__init__()
        self.dim = model.backbone.text_dim

    def tokens(self, texts: list[str], *, length: int) -> Tensor:
        """`(b, length, d)`."""
        return torch.empty(len(texts), length, self.dim)


def pass_bytes(config: TrainConfig, size: str, batch: int) -> tuple[int, int, int]:
    """Bytes of the weights, number of trained values, and most bytes over the weights in forward and backward pass.

    Args:
        config: How to train.
        size: Of `random_models.SIZES`.
        batch: Pictures together.
    """
    model: Any = build_model(random_config(config.task, size, _CLASSES[config.task]))
    if config.mode == "lora":
        model.add_lora(LoraSettings())
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cpu").train()
        if config.task == "refer":
            model.text_encoder = _Embedded(model)
        set_up(model, config)
        optimiser = build_optimiser(optimiser_groups(model, config), kind="sgd")
        gradients = Gradients(optimiser, narrow=True)
        loss_of, samples = LossOf(model, config, FrozenCaches()), model.example_batch(batch, config.crop_px)
        blocks = partial(checkpoint, context_fn=lambda: (nullcontext(), GpuPrecision()))
        with (
            patch("vpd.backbones.unet_walk.checkpoint", blocks),
            patch("vpd.backbones.recomputed._autocast_now", in_backward_pass),
            GpuPrecision(),
            LiveBytes() as live,
        ):
            total, _ = loss_of(samples)
            torch.autograd.backward(total)  # Tensor.backward would leave the mode
        gradients.clear()
    weights = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    return weights, sum(value.numel() for value in model.parameters() if value.requires_grad), live.peak


def largest_batches(task: str, mode: str, checkpointing: bool, given: argparse.Namespace) -> list[str]:
    """Cells of the table for one way to train: what is fixed, what each picture adds, and the batch for each card."""
    settings = {"model": "random", "data": {"root": "random"}, "mode": mode, "gradient_checkpointing": checkpointing}
    changes = {"precision": "bf16", "batch_size": 1, "epochs": None, "steps": 1}
    crop = {"crop_px": given.px} if given.px else {}
    config = resolve_config(task, settings, changes, crop)
    (weights, values, two), (_, _, three) = (pass_bytes(config, given.size, batch) for batch in (2, 3))
    picture = (three - two) * MARGIN
    fixed = CUDA_BYTES + weights + max(0, two - 2 * (three - two)) + TEXT_ENCODER_BYTES * (task == "refer")
    cells = []
    for kind in given.optimisers:
        rest = fixed + values * STATE_BYTES[kind]
        counts = [max(0, int((card * 2**30 - rest) // picture)) for card in given.cards]
        name = f"{task}, {config.crop_px} px | {mode} | {'yes' if checkpointing else 'no'} | {kind}"
        fits = " | ".join(str(count or "–") for count in counts)
        cells.append(f"| {name} | {rest / 2**30:.1f} | {picture / 2**30:.2f} | {fits} |")
    return cells


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "sd15"], default="sd15")
    parser.add_argument("--px", type=int, help="side of the crops; none = the recipe's")
    parser.add_argument("--tasks", nargs="*", choices=list(_CLASSES), default=list(_CLASSES))
    parser.add_argument("--modes", nargs="*", choices=MODES, default=MODES)
    parser.add_argument("--optimisers", nargs="*", choices=list(STATE_BYTES), default=["adamw", "adamw_8bit"])
    parser.add_argument("--cards", nargs="*", type=float, default=[8, 12, 16, 24], help="GiB")
    given = parser.parse_args()
    cards = " | ".join(f"{card:g} GB" for card in given.cards)
    print(f"| task | mode | checkpointing | optimiser | fixed, GiB | a picture, GiB | {cards} |")
    print("|---|---|---|---|---|---|" + "---|" * len(given.cards))
    for task in given.tasks:
        for mode in given.modes:
            for checkpointing in (False, True)[: 1 if mode == "head" else 2]:  # head: there is nothing to recompute
                print("\n".join(largest_batches(task, mode, checkpointing, given)), flush=True)


if __name__ == "__main__":
    main()
