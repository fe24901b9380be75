"""Group norm on GPUs: the kernels against torch, and that a network in one layout keeps it.

Run by `test_group_norm.py` in a process of its own: Triton asks once whether its interpreter is to run its kernels.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import vpd
from one_layout import Audit, furthest
from vpd.backbones import group_norm as module
from vpd.backbones.group_norm import Sum, added, group_norm, has_kernel, sum_and_norm
from vpd.backbones.group_norm_autograd import GroupNormSiLU
from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig
from vpd.backbones.unet_layers import convolve
from vpd.inference.memory import LiveBytes


def in_one_layout(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


SHAPES = [
    (1, 32, 32, 5, 7),
    (3, 64, 32, 9, 13),
    (1, 320, 32, 8, 8),
    (1, 2560, 32, 4, 4),
    (2, 48, 1, 6, 5),
    (3, 40, 4, 1, 1),
]


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: tuple[int, ...], silu: bool, dtype: torch.dtype, most: float) -> None:
    images, channels, groups, *sides = shape
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(groups, channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    maps = in_one_layout((torch.randn(images, channels, *sides) * 2 + 5).to(dtype)).requires_grad_()
    assert has_kernel(maps)
    result = group_norm(norm, maps, silu=silu)
    assert result.dtype == dtype and result.is_contiguous(memory_format=torch.channels_last)
    gradient = torch.randn_like(result)
    inputs = (maps, norm.weight, norm.bias)
    found = torch.autograd.grad(result, inputs, gradient)
    exact = [value.detach().double().requires_grad_() for value in inputs]
    wanted = F.group_norm(exact[0], groups, exact[1], exact[2], norm.eps)
    wanted = F.silu(wanted) if silu else wanted
    of_wanted = torch.autograd.grad(wanted, exact, gradient.double())
    assert furthest(result, wanted.detach()) < most
    assert [value.dtype for value in found] == [dtype, torch.float32, torch.float32]
    for one, other in zip(found, of_wanted, strict=True):
        assert furthest(one, other) < most


def leaf(*shape: int, dtype: torch.dtype = torch.float32, mean: float = 0.0) -> Tensor:
    values = (torch.randn(shape) * 2 + mean).to(dtype)
    return (in_one_layout(values) if len(shape) == 4 else values).requires_grad_()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("way", ["shift", "shift of all", "sum", "sum and shift", "sum and shift of all", "shift kept"])
@pytest.mark.parametrize("shape", [*SHAPES[:2], *SHAPES[3:]], ids=str)
def test_values_and_gradients_after_an_addition(
    shape: tuple[int, ...], way: str, dtype: torch.dtype, most: float
) -> None:
    images, channels, groups, *sides = shape
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(groups, channels)
    torch.nn.init.normal_(norm.weight)
    inputs = {"fresh": leaf(images, channels, *sides, dtype=dtype, mean=3)}
    if "sum" in way:
        inputs["other"] = leaf(images, channels, *sides, dtype=dtype)
    if "shift" in way:
        inputs["shift"] = leaf(1 if "all" in way else images, channels, mean=1)
    if way in ("shift", "shift of all"):
        total = None
        normed = group_norm(norm, inputs["fresh"], silu=True, shift=inputs["shift"])
    else:
        total, normed = sum_and_norm(norm, Sum(**inputs), silu=True)
        assert total.dtype == dtype and total.is_contiguous(memory_format=torch.channels_last)
        if way == "sum" and dtype == torch.float32:  # to bfloat16 the interpreter rounds in its own way
            assert torch.equal(total, inputs["fresh"] + inputs["other"])
    gradients = [torch.randn_like(normed), torch.randn_like(normed)][: 1 if total is None else 2]
    leaves = [*inputs.values(), norm.weight, norm.bias]
    found = torch.autograd.grad([normed] if total is None else [normed, total], leaves, gradients)

    exact = [value.detach().double().requires_grad_() for value in leaves]
    named = dict(zip(inputs, exact, strict=False))
    wanted_total = named["fresh"] + named.get("other", 0.0)
    wanted_total = wanted_total + named["shift"][:, :, None, None] if "shift" in named else wanted_total
    if total is not None:
        assert furthest(total, wanted_total) < most
        wanted_total = wanted_total + (
            total.detach() - wanted_total.detach()
        )  # it is the rounded sum that is normalised
    wanted = F.silu(F.group_norm(wanted_total, groups, exact[-2], exact[-1], norm.eps))
    of_wanted = torch.autograd.grad(
        [wanted] if total is None else [wanted, wanted_total], exact, [gradient.double() for gradient in gradients]
    )
    assert furthest(normed, wanted.detach()) < most
    assert [value.dtype for value in found] == [value.dtype for value in leaves]
    for name, one, other in zip((*inputs, "weight", "bias"), found, of_wanted, strict=True):
        if name == "shift" and total is None and channels == groups:
            assert one.abs().max() < 1e-3 > other.abs().max()  # such a norm takes it out again
        else:
            assert furthest(one, other) < most, name


@pytest.mark.parametrize("types", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str)
@pytest.mark.parametrize("has_gradient", [True, False])
def test_maps_of_two_types(types: tuple[torch.dtype, ...], has_gradient: bool) -> None:
    """As under autocast: the sum is of the wider type, the norm of autocast's, gradients of their inputs'."""
    torch.manual_seed(0)
    norm, fresh, other, shift = (
        torch.nn.GroupNorm(4, 32),
        *(leaf(2, 32, 5, 6, dtype=dtype) for dtype in types),
        leaf(1, 32),
    )
    exact = fresh.detach().double() + other.detach().double() + shift.detach().double()[:, :, None, None]
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(has_gradient):
        total, normed = sum_and_norm(norm, Sum(fresh, other, shift))
    assert (total.dtype, normed.dtype) == (torch.float32, torch.bfloat16)
    assert furthest(total, exact) < 1e-6 and furthest(normed, F.group_norm(exact, 4)) < 1e-2
    if has_gradient:
        found = torch.autograd.grad((total.square().sum(), normed.float().square().sum()), [fresh, other, shift])
        assert [value.dtype for value in found] == [*types, torch.float32]
        assert furthest(found[0], found[1].double()) < 1e-2


@pytest.mark.parametrize("has_other", [True, False])
def test_an_addition_alone(has_other: bool) -> None:
    torch.manual_seed(0)
    inputs = [leaf(2, 40, 5, 7), leaf(2, 40, 5, 7) if has_other else None, leaf(1, 40)]
    fresh, other, shift = inputs
    wanted = (fresh if other is None else fresh + other) + shift[:, :, None, None]
    found = added(Sum(fresh, other, shift))
    leaves, gradient = [value for value in inputs if value is not None], torch.randn_like(found)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, gradient), torch.autograd.grad(wanted, leaves, gradient)
    )
    with torch.no_grad():
        there = fresh.detach().clone(memory_format=torch.preserve_format)
        assert added(Sum(there, other, shift)) is there  # no room for another map is taken
        torch.testing.assert_close(there, wanted)


@pytest.mark.parametrize("used", [0, 1])
def test_one_of_two_results_used(used: int) -> None:
    torch.manual_seed(0)
    norm, fresh, other = torch.nn.GroupNorm(4, 32), leaf(1, 32, 5, 6), leaf(1, 32, 5, 6)
    found = torch.autograd.grad(sum_and_norm(norm, Sum(fresh, other))[used].square().sum(), [fresh, other])
    total = fresh + other
    wanted = torch.autograd.grad((total, norm(total))[used].square().sum(), [fresh, other])
    torch.testing.assert_close(found, wanted)


def test_a_sum_is_taken_once() -> None:
    """Who adds has the maps alone."""
    maps = Sum(torch.zeros(1, 4, 2, 2))
    added(maps)
    with pytest.raises(IndexError):
        maps.take()


def test_launches_are_within_the_limits_of_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture of 4096 pixels, and of a thousand small maps; the second number is at most 65,535."""
    launch = importlib.import_module("vpd.backbones.group_norm_launch")
    grids: list[tuple[int, ...]] = []
    current: list[Tensor] = []

    @contextmanager
    def device_of(maps: Tensor) -> Iterator[None]:
        current.append(maps)
        yield
        current.remove(maps)

    class Recorded:
        def __getattr__(self, name: str) -> Any:
            return self

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            grids.append(grid)
            return lambda maps, *args, **options: current[0].device  # with several GPUs it must be that of the maps

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(launch, "kernels", Recorded())
    shapes = [(1, 128, 4096, 4096), (1000, 1280, 8, 8)]
    for shape in shapes:
        maps = in_one_layout(torch.empty(shape, device="meta")).requires_grad_()
        weight = torch.empty(shape[1], device="meta")
        GroupNormSiLU.apply(
            launch, maps, None, None, weight, weight, 32, 1e-5, True, torch.float32, False
        ).sum().backward()
    assert len(grids) == 12
    assert all(first < 2**31 and second <= 65_535 for first, second in grids)


def test_a_large_mean_costs_no_digits() -> None:
    norm = torch.nn.GroupNorm(2, 8)
    maps = in_one_layout(torch.randn(1, 8, 16, 16) + 3000)
    assert furthest(group_norm(norm, maps), F.group_norm(maps.double(), 2, eps=norm.eps)) < 1e-4  # of the inputs' own


def test_others_get_torchs_bits() -> None:
    norm = torch.nn.GroupNorm(4, 8)
    maps = torch.randn(2, 8, 6, 6)
    assert not has_kernel(maps) and not has_kernel(maps.double()) and not has_kernel(maps.flatten(2))
    assert torch.equal(group_norm(norm, maps, silu=True), F.silu(norm(maps)))
    assert torch.equal(group_norm(norm, maps), norm(maps))


def test_maps_in_the_other_order_lack_no_bias() -> None:
    """Weights of 1x1 convolutions are in both orders; their bias in float32 would make the whole sum so."""
    conv, maps = torch.nn.Conv2d(8, 4, 1), torch.randn(1, 8, 6, 6)
    assert has_kernel(conv.weight)
    with torch.autocast("cpu", torch.bfloat16):
        found, shift = convolve(conv, maps)
        assert shift is None and torch.equal(found, conv(maps))
        assert convolve(conv, in_one_layout(maps))[1] is not None


def test_hooks_of_convolutions_are_called() -> None:
    conv, maps = torch.nn.Conv2d(8, 4, 3), in_one_layout(torch.randn(1, 8, 6, 6))
    conv.to(memory_format=torch.channels_last).register_forward_hook(lambda layer, inputs, result: 2 * result)
    found, shift = convolve(conv, maps)
    assert shift is None and torch.equal(found, 2 * F.conv2d(maps, conv.weight, conv.bias))


@pytest.mark.parametrize("shape", [(0, 8, 6, 6), (2, 8, 0, 6)])
def test_empty_maps_stay_empty(shape: tuple[int, ...]) -> None:
    assert not has_kernel(in_one_layout(torch.zeros(shape)))


def test_under_autocast_it_returns_the_type_that_comes_next() -> None:
    norm, maps = torch.nn.GroupNorm(4, 8), in_one_layout(torch.randn(2, 8, 6, 6))
    with torch.autocast("cpu", torch.bfloat16):
        assert group_norm(norm, maps, silu=True).dtype == torch.bfloat16


def test_where_triton_fails_torch_does_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    monkeypatch.setattr(GroupNormSiLU, "apply", fail)
    module._is_here.cache_clear()
    maps = in_one_layout(torch.randn(1, 8, 4, 4))
    assert not has_kernel(maps) and not has_kernel(maps)
    assert caplog.text.count("Triton cannot be used here") == 1 and "Failed to find C compiler" in caplog.text
    module._is_here.cache_clear()


@pytest.mark.parametrize("size", [(32, 48)])
def test_the_fast_path_copies_no_map(
    tiny_diffusion: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpd.optimising.can_pack", lambda: False)  # as on a GPU
    torch.manual_seed(0)
    model = vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=("a", "b", "c"), head_channels=8).eval()
    fast = vpd.optimise(model, dtype="bfloat16")
    images = in_one_layout(torch.rand(1, 3, *size).bfloat16() * 2 - 1)
    assert has_kernel(images)  # its trial copies
    with torch.no_grad(), Audit() as audit:
        found = fast.backbone(images, fast.prepared_text.layers)
    assert not audit.found
    assert len(audit.additions) == 12  # of first and last convolutions, and of those between levels
    assert all(addition.startswith("bias") for addition in audit.additions), audit.additions
    with audit:
        images.contiguous()
    assert len(audit.found) == 1  # it can fail
    with torch.no_grad():
        wanted = model.backbone(images.float(), model.adapter(model.constant_prompts()))
    for one, other in zip(found.maps, wanted.maps, strict=True):
        assert furthest(one, other.double()) < 4e-2


def test_the_small_encoder_copies_no_map(tiny_diffusion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpd.optimising.can_pack", lambda: False)
    model = vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=("a", "b"), head_channels=8).eval()
    small = TinyEncoder(TinyEncoderConfig.for_vae(latent_stride=8, latent_channels=4))
    fast = vpd.optimise(model, dtype="bfloat16", encoder=small)
    images = in_one_layout(torch.rand(1, 3, 32, 48).bfloat16())
    with torch.no_grad(), Audit() as audit:
        fast.backbone.encode(images)
    assert not audit.found


@pytest.mark.parametrize("use_bf16", [True, False])
def test_training_reaches_it(tiny_diffusion: Path, monkeypatch: pytest.MonkeyPatch, use_bf16: bool) -> None:
    calls: list[tuple[Any, ...]] = []
    apply = GroupNormSiLU.apply

    def note(*given: Any) -> Any:
        calls.append(given)
        return apply(*given)

    monkeypatch.setattr(GroupNormSiLU, "apply", note)
    torch.manual_seed(0)
    backbone = vpd.StableDiffusionBackbone.from_pretrained(tiny_diffusion).to(memory_format=torch.channels_last).train()
    images = in_one_layout(torch.rand(1, 3, 64, 64) * 2 - 1)
    text = torch.randn(1, 3, backbone.config.unet["cross_attention_dim"])
    up = backbone.unet.up_blocks[1].resnets[0]
    leaves = [backbone.unet.conv_in.weight, backbone.unet.mid_block.resnets[0].norm1.weight]
    leaves += [up.conv1.bias, up.conv2.bias, up.conv_shortcut.bias, up.time_emb_proj.weight, up.norm2.weight]

    def gradients() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16):
            features = backbone(images, text)
        factors = [torch.linspace(-1, 1, part.numel()).view(part.permute(0, 2, 3, 1).shape) for part in features.maps]
        pairs = zip(features.maps, factors, strict=True)
        total = sum((part.float() * factor.permute(0, 3, 1, 2)).sum() for part, factor in pairs)
        return torch.autograd.grad(total, leaves)

    has_kernel(images)  # its trial does not count
    calls.clear()
    with Audit() as audit:
        found = gradients()
    assert not audit.found, "\n".join(audit.found)
    sums = [is_sum for *_, is_sum in calls]
    assert (sums.count(True), sums.count(False)) == (16, 44)  # before each transformer; all others
    monkeypatch.setattr(module, "_is_here", lambda device: False)
    for one, other in zip(found, gradients(), strict=True):
        if use_bf16:
            assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99
        else:
            assert furthest(one, other.double()) < 1e-4


def test_memory_is_counted_as_the_kernel_takes_it() -> None:
    """And counting, where nothing can be tried, does not decide that there is no kernel."""
    module._is_here.cache_clear()
    norm = torch.nn.GroupNorm(4, 32)
    peaks: list[list[int]] = []
    for mode in (FakeTensorMode(allow_non_fake_inputs=True), nullcontext()):
        peaks.append([])
        with mode:
            maps, shift = in_one_layout(torch.empty(2, 32, 64, 64)).requires_grad_(), torch.empty(2, 32)
            assert has_kernel(maps)
            for run in (
                lambda maps=maps: torch.autograd.backward(group_norm(norm, maps, silu=True).sum()),
                lambda maps=maps, shift=shift: sum_and_norm(norm, Sum(maps, maps.detach(), shift), silu=True),
                lambda maps=maps, shift=shift: added(Sum(maps, maps.detach(), shift)),
            ):
                with LiveBytes() as live:
                    run()
                peaks[-1].append(live.peak)
    assert module._is_here("cpu")
    for counted, taken in zip(*peaks, strict=True):
        assert 0.9 * taken <= counted <= taken  # the rest are the statistics of parts of the rows
