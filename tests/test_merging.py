"""Merged keys and values of `vpd.optimise(merge_above=...)`: cheaper, at a price."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from tiny import CLASSES, TEXT_DIM, tiny_unet
from vpd import SegmentationModel, UsageError
from vpd.backbones.unet_layers import _merge_neighbours, spatial_transformer
from vpd.backbones.unet_walk import walk_unet
from vpd.bench.measuring import count_gflop
from vpd.optimising import optimise
from vpd.tasks.model import PerceptionModel

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tiny_diffusion: Path) -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=16).eval()


def scores(model: PerceptionModel) -> torch.Tensor:
    return model.predict(IMAGE, scores=True, size=64).scores


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((got.float() - wanted.float()).norm() / wanted.float().norm())


class TestMerging:
    def test_means_of_neighbours(self) -> None:
        tokens = torch.arange(15.0)[None, :, None]  # 3 x 5: the last row and column have no partner
        assert _merge_neighbours(tokens, (3, 5)).flatten().tolist() == [3.0, 5.0, 6.5, 10.5, 12.5, 14.0]

    @pytest.mark.parametrize("options", [{}, {"use_linear_projection": True}])
    @torch.no_grad()
    def test_equal_neighbours_lose_nothing(self, options: dict) -> None:
        """Four equal keys weigh as much as one where each key stands four times."""
        torch.manual_seed(0)
        layer = tiny_unet(**options).eval().down_blocks[0].attentions[0]
        hidden = interpolate(torch.randn(2, layer.norm.num_channels, 3, 4), scale_factor=2)
        text = torch.randn(2, 5, TEXT_DIM)
        results = [
            spatial_transformer(
                layer,
                hidden,
                iter([text]),
                with_map=True,
                merge_above=above,
                run=lambda function, *given: function(*given),
            )
            for above in (None, 10)
        ]
        for plain, merged in zip(*results, strict=True):
            torch.testing.assert_close(merged, plain, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_only_above(self) -> None:
        torch.manual_seed(0)
        unet, latents, text = tiny_unet().eval(), torch.randn(1, 4, 8, 12), torch.randn(1, 5, TEXT_DIM)
        (plain, _), (at, _), (above, _) = (
            walk_unet(unet, latents, timestep=1, text_embeds=text, merge_above=limit) for limit in (None, 96, 95)
        )
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(at, plain, strict=True))
        assert not torch.equal(above[0], plain[0])

    def test_of_a_model(self, model: SegmentationModel) -> None:
        wanted, positions = scores(model), 64 * 128 // model.backbone.latent_stride**2
        merged = optimise(model, dtype="float32", merge_above=positions - 1)
        assert 1e-6 < relative_error(scores(merged), wanted) < 0.1
        assert model.backbone.merge_above is None and torch.equal(scores(model), wanted)
        same = optimise(model, dtype="float32", merge_above=positions)
        torch.testing.assert_close(scores(same), wanted, atol=2e-5, rtol=1e-5)
        for wrong in (0, "64", 2.5):
            with pytest.raises(UsageError, match=f"merge_above={wrong!r}: give a number of positions, 1 or more"):
                optimise(model, merge_above=wrong)

    def test_odd_sides(self, model: SegmentationModel) -> None:
        merged = optimise(model, dtype="float32", merge_above=1)
        assert merged.predict(IMAGE[:57, :71], size=57).labels.shape == (57, 71)

    def test_operations(self, model: SegmentationModel) -> None:
        """Each of 128 x 128 positions attends to a quarter of them, of 64 x 64 to all."""
        stride = model.backbone.latent_stride
        (large, merged), (small, same) = (
            [count_gflop(model, options, px=side * stride) for options in ({}, {"merge_above": 4096})]
            for side in (128, 64)
        )
        assert same == small
        unet = model.backbone.unet
        width = unet.config.block_out_channels[0]
        blocks = [*unet.down_blocks[0].attentions, *unet.up_blocks[-1].attentions]
        positions = 128 * 128
        products = len(blocks) * 2 * positions * width * positions * 3 // 4  # queries by keys, and weights by values
        projections = len(blocks) * 2 * (positions * 3 // 4) * width * width
        assert large - merged == pytest.approx(2 * (products + projections) / 1e9, rel=1e-6)
