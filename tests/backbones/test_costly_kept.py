"""Checkpointing of what is cheap: nothing costly runs twice, less is kept, and gradients are the same bits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from tiny import TEXT_DIM, tiny_unet
from vpd.backbones.costly_kept import CostlyKept
from vpd.backbones.unet_walk import walk_unet
from vpd.config import Checkpointing
from vpd.inference.memory import LiveBytes

FORWARD_ONLY = {"convolution", "_scaled_dot_product_flash_attention_for_cpu", "_softmax", "native_layer_norm"}


class Ran(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def walked(unet: Any, checkpointing: Checkpointing) -> Tensor:
    """A loss of all features and maps."""
    generator = torch.Generator().manual_seed(0)
    latents, text = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 3, TEXT_DIM, generator=generator)
    maps, attention = walk_unet(unet, latents, timestep=1, text_embeds=text, gradient_checkpointing=checkpointing)
    return torch.stack([part.float().square().mean() for part in (*maps, *attention.values())]).sum()


def gradients(unet: Any) -> list[Tensor]:
    """Of all weights."""
    return [value.grad.clone() for value in unet.parameters() if value.grad is not None]


def test_nothing_costly_runs_twice_and_what_is_cheap_does() -> None:
    unet = tiny_unet()
    again = {}
    products: dict[Checkpointing, int] = {}
    for checkpointing in (False, "cheap", True):
        total = walked(unet, checkpointing)
        with Ran() as ran:
            total.backward()
        again[checkpointing] = {name for name in FORWARD_ONLY if ran.counts[name]}
        products[checkpointing] = sum(ran.counts[name] for name in ("mm", "addmm", "bmm"))
    assert again == {False: set(), "cheap": {"_softmax", "native_layer_norm"}, True: FORWARD_ONLY}
    assert products[False] == products["cheap"] < products[True]


def test_it_keeps_less_than_none_and_more_than_all() -> None:
    unet, kept = tiny_unet(), {}
    for checkpointing in (False, "cheap", True):
        with torch.autocast("cpu", torch.bfloat16), LiveBytes() as live:
            total = walked(unet, checkpointing)
            del total
        kept[checkpointing] = live.peak
    assert kept[True] < kept["cheap"] < 0.9 * kept[False]


def test_two_passes_in_one_autocast() -> None:
    """Of which the second finds weights made narrow already, and the backward pass does not."""
    unet, found = tiny_unet(), []
    for checkpointing in (False, "cheap"):
        unet.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            total = walked(unet, checkpointing) + walked(unet, checkpointing)
        total.backward()
        found.append(gradients(unet))
    for plain, again in zip(*found, strict=True):  # the two are added in 16 bits or in 32
        torch.testing.assert_close(again, plain, atol=1e-2, rtol=1e-1)


def test_a_second_backward_pass_makes_everything_again() -> None:
    unet = tiny_unet()
    total = walked(unet, "cheap")
    total.backward(retain_graph=True)
    once = gradients(unet)
    total.backward()
    for first, both in zip(once, gradients(unet), strict=True):
        torch.testing.assert_close(both, 2 * first)


def test_a_function_that_does_other_things_the_second_time() -> None:
    sides = iter((False, True))

    def run(values: Tensor) -> Tensor:
        made = values @ values if next(sides) else (values[None] @ values[None])[0]
        return ((made.sin() @ values).sin() @ values).sin()

    kept = CostlyKept()
    values = torch.ones(2, 2, requires_grad=True)
    result = checkpoint(run, values, use_reentrant=False, context_fn=lambda: (kept, kept))
    with pytest.raises(RuntimeError, match=r"mm.default ran in the backward pass where aten.bmm"):
        result.sum().backward()
