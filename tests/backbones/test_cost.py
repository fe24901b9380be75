"""What a pass costs, without a clock: operations, bytes kept for the backward pass, the largest tensor, projections.

Counted at Stable Diffusion 1.5's size on tensors without data, except where kernels matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tiny import TEXT_DIM, tiny_unet, tiny_vae
from vpd import StableDiffusionBackbone

UNET = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


@pytest.fixture(scope="module")
def full_size() -> StableDiffusionBackbone:
    with torch.device("meta"):
        return StableDiffusionBackbone(unet=UNet2DConditionModel(**UNET), vae=AutoencoderKL(**VAE)).eval()


@pytest.fixture(scope="module")
def tiny() -> StableDiffusionBackbone:
    torch.manual_seed(0)
    return StableDiffusionBackbone(unet=tiny_unet(), vae=tiny_vae()).eval()


def empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def gflop(run: Callable[[], Any]) -> float:
    """1e9 operations, 2 a multiply-add, those of attention included whatever kernel does it."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


class TestOperations:
    @torch.no_grad()
    def test_encoder(self, full_size: StableDiffusionBackbone) -> None:
        assert gflop(lambda: full_size.encode(empty(1, 3, 512, 512))) == pytest.approx(1116.7, rel=0.01)

    @pytest.mark.parametrize(("tokens", "wanted"), [(20, 798.4), (77, 803.2), (150, 809.4), (1000, 881.2)])
    @torch.no_grad()
    def test_unet(self, full_size: StableDiffusionBackbone, tokens: int, wanted: float) -> None:
        latents, text = empty(1, 4, 64, 64), empty(1, tokens, 768)
        assert gflop(lambda: full_size(None, text, latents=latents)) == pytest.approx(wanted, rel=0.01)

    @torch.no_grad()
    def test_text_of_a_batch_is_read_once(self, full_size: StableDiffusionBackbone) -> None:
        one, four = (
            gflop(lambda number=number: full_size(None, empty(1, 1000, 768), latents=empty(number, 4, 64, 64)))
            for number in (1, 4)
        )
        assert 4 * one - four == pytest.approx(3 * 38.3, rel=0.02)

    @torch.no_grad()
    def test_prepared_text_costs_nothing(self, full_size: StableDiffusionBackbone) -> None:
        latents, text = empty(1, 4, 64, 64), empty(1, 150, 768)
        prepared = full_size.read_text(text)
        saved = gflop(lambda: full_size(None, text, latents=latents)) - gflop(
            lambda: full_size(None, prepared, latents=latents)
        )
        assert saved == pytest.approx(5.75, rel=0.02)

    def test_one_token_needs_no_queries(self, full_size: StableDiffusionBackbone) -> None:
        latents, text = empty(1, 4, 64, 64), empty(1, 1, 768)
        in_training = gflop(lambda: full_size(None, text, latents=latents))
        with torch.no_grad():
            predicting = gflop(lambda: full_size(None, text, latents=latents))
        assert in_training == pytest.approx(796.7, rel=0.01)
        assert in_training - predicting == pytest.approx(25.6, rel=0.02)  # queries and output projections


class TestSavedForBackward:
    """Activations, MiB in float32 at 512x512; weights are not counted."""

    @pytest.mark.parametrize(("checkpointing", "most_mib"), [(False, 1600), (True, 283)])
    def test_unet(self, checkpointing: bool, most_mib: float) -> None:
        kept: dict[int, Any] = {}

        def pack(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
            return tensor

        with FakeTensorMode():  # of the CPU, so that attention takes the kernel it has there
            backbone = StableDiffusionBackbone(
                unet=UNet2DConditionModel(**UNET), vae=tiny_vae(), gradient_checkpointing=checkpointing
            )
            weights = {parameter.untyped_storage()._cdata for parameter in backbone.parameters()}
            with saved_tensors_hooks(pack, lambda tensor: tensor):
                features = backbone(None, torch.empty(1, 150, 768), latents=torch.empty(1, 4, 64, 64))
        assert features.maps[0].requires_grad
        total = sum(storage.nbytes() for place, storage in kept.items() if place not in weights)
        assert total / 2**20 <= most_mib


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that anything makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return made


@pytest.mark.parametrize("with_gradient", [False, True])
def test_no_attention_matrix_at_an_eighth(tiny: StableDiffusionBackbone, with_gradient: bool) -> None:
    """Self-attention in UNet and encoder never makes positions x positions; the finest maps are left out."""
    positions, tokens = 48 * 48, 3
    with torch.set_grad_enabled(with_gradient), Largest() as largest:
        latents = tiny.encode(torch.zeros(1, 3, 384, 384))
        tiny(None, torch.zeros(1, tokens, TEXT_DIM), latents=latents)
    assert largest.elements < positions**2  # of one head: all heads are less than one matrix


@contextmanager
def counted(backbone: nn.Module, suffixes: tuple[str, ...]) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of what goes into layers with such names."""
    seen: list[tuple[int, ...]] = []
    handles = [
        module.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
        for name, module in backbone.named_modules()
        if name.endswith(suffixes)
    ]
    yield seen
    for handle in handles:
        handle.remove()


@torch.no_grad()
def test_projections_of_text(tiny: StableDiffusionBackbone) -> None:
    """Keys and values of each of the 16 layers once a call, whatever the number of images; of a fixed text never."""
    latents, text = torch.zeros(3, 4, 8, 8), torch.randn(1, 5, TEXT_DIM)
    with counted(tiny, ("attn2.to_k", "attn2.to_v")) as seen:
        once = tiny(None, text, latents=latents)
        assert seen == [(1, 5, TEXT_DIM)] * 32
        prepared = tiny.read_text(text)
        del seen[:]
        again = tiny(None, prepared, latents=latents)
        assert not seen
    each = tiny(None, text.expand(3, -1, -1), latents=latents)
    for ours, theirs, repeated in zip(again.maps, once.maps, each.maps, strict=True):
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(repeated, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 5])
@torch.no_grad()
def test_projections_without_gradient(tiny: StableDiffusionBackbone, tokens: int) -> None:
    """One token gets all attention: there are neither queries nor keys of cross-attention, and the maps are one."""
    with counted(tiny, ("attn2.to_q", "attn2.to_k")) as seen:
        features = tiny(None, torch.randn(2, tokens, TEXT_DIM), latents=torch.zeros(2, 4, 8, 8))
    assert len(seen) == (0 if tokens == 1 else 32)
    if tokens == 1:
        assert all(torch.equal(attended, torch.ones_like(attended)) for attended in features.attention.values())


def test_one_token_is_the_same_with_and_without_gradient(tiny: StableDiffusionBackbone) -> None:
    latents, text = torch.randn(2, 4, 16, 8), torch.randn(2, 1, TEXT_DIM)
    wanted = tiny(None, text, latents=latents)
    with torch.no_grad():
        got = tiny(None, text, latents=latents)
    for ours, theirs in zip(got.maps, wanted.maps, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert got.attention.keys() == wanted.attention.keys()


@pytest.mark.parametrize("changes", [{}, {"act_fn": "gelu"}, {"mid_block_scale_factor": 2.0}])
def test_fewer_passes_give_the_same_bits(changes: dict) -> None:
    torch.manual_seed(0)
    backbone = StableDiffusionBackbone(unet=tiny_unet(**changes), vae=tiny_vae(), latent_scaling="none").eval()
    images, text = torch.rand(1, 3, 64, 128) * 2 - 1, torch.randn(1, 5, TEXT_DIM)
    with torch.no_grad():
        got = backbone(images, text)
        moments = backbone.vae.quant_conv(backbone.vae.encoder(images))
    assert torch.equal(backbone.encode(images), moments[:, :4])
    wanted = backbone(images, text)  # with gradient, diffusers' own forward of each residual block
    for ours, theirs in zip(
        (*got.maps, *got.attention.values()), (*wanted.maps, *wanted.attention.values()), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_autocast_keeps_its_types(tiny: StableDiffusionBackbone) -> None:
    """Nothing is added in place to what autocast made narrower."""
    latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, TEXT_DIM)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = tiny(None, text, latents=latents)
        with torch.no_grad():
            got = tiny(None, text, latents=latents)
    for ours, theirs in zip(got.maps, wanted.maps, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
