"""Referring models that read the sentence in the head, and refine it as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vpd
from vpd.config import ReferConfig, Resize
from vpd.errors import UsageError
from vpd.files.atomic import read_json
from vpd.heads.grounded import GroundedHead, place_waves
from vpd.prompts.adapter import ReadingAdapter
from vpd.tasks.referring import ReferringModel

OPTIONS: dict[str, Any] = {"token_length": 8, "head_channels": 16, "fit": Resize(mode="squash", size_px=64)}
GROUNDED: dict[str, Any] = {"head": "grounded", "adapter": "transformer", **OPTIONS}


STEPS = ((4, 1), (12, 2), (12, 4), (6, 8))
SIDES = ((4, 8), (12, 4), (12, 2), (6, 1))


def grounded_head() -> GroundedHead:
    torch.manual_seed(0)
    return GroundedHead(channels=(4, 12, 12, 6), text_dim=16, token_length=8, hidden_channels=16, norm="group").eval()


@pytest.mark.parametrize("size", [(8, 8), (7, 13), (1, 1)])
def test_a_mask_for_maps_of_any_size(size: tuple[int, int]) -> None:
    height, width = size
    shapes = [(channels, -(-height // step), -(-width // step)) for channels, step in STEPS]
    logits = grounded_head()(tuple(torch.randn(3, *shape) for shape in shapes), torch.randn(3, 5, 16))
    assert logits.shape == (3, 2, height, width) and logits.isfinite().all()


def test_the_head_hears_words_and_their_order_and_sees_places() -> None:
    head = grounded_head()
    maps = tuple(torch.zeros(1, channels, side, side) for channels, side in SIDES)
    words = torch.randn(1, 5, 16)
    logits = head(maps, words)
    assert (logits - head(maps, words.flip(1))).abs().max() > 1e-4
    assert (logits - head(maps, words * 0)).abs().max() > 1e-4
    left, right = logits[..., 2:-2, 2], logits[..., 2:-2, -3]  # of an even picture, away from the padding
    assert (left - right).abs().max() > 1e-4


def test_places_are_shares_of_the_picture() -> None:
    small, large = (place_waves(side, side, like=torch.zeros(1)) for side in (1, 3))
    assert torch.equal(small[0], large[4])  # the middle of both
    assert large.shape == (9, 18) and large[:, :2].abs().max() < 1
    assert torch.allclose(large[0, :2], -large[8, :2])


def test_words_are_refined_by_their_neighbours() -> None:
    torch.manual_seed(0)
    adapter, words = ReadingAdapter(16, 8), torch.randn(1, 4, 16)
    other = words.clone()
    other[0, 0] = torch.randn(16)
    assert (adapter(words)[0, 3] - adapter(other)[0, 3]).abs().max() > 1e-5


def test_saved_and_read_again(tiny_diffusion: Path, tmp_path: Path) -> None:
    model = ReferringModel.from_diffusion(tiny_diffusion, **GROUNDED)
    model.save(tmp_path)
    kept = read_json(tmp_path / "config.json")
    assert (kept["head"], kept["adapter"]) == ("grounded", "transformer")
    image = torch.rand(3, 50, 70)
    again = vpd.load(tmp_path, device="cpu")
    expected = model.predict(image, text="a red cube").probability
    assert torch.equal(again.predict(image, text="a red cube").probability, expected)
    assert expected.shape == (50, 70)


def test_models_as_published_are_written_as_before(tiny_diffusion: Path, tmp_path: Path) -> None:
    ReferringModel.from_diffusion(tiny_diffusion, **OPTIONS).save(tmp_path)
    assert not {"head", "adapter", "threshold", "presence"} & set(read_json(tmp_path / "config.json"))


def test_every_new_weight_learns(tiny_diffusion: Path) -> None:
    model = ReferringModel.from_diffusion(tiny_diffusion, **GROUNDED)
    batch = model.example_batch(2, 64)
    total, weight = model.loss_sum(batch)
    (total / weight).backward()
    still = [name for name, weights in model.named_parameters() if weights.requires_grad and weights.grad is None]
    assert not [name for name in still if name.startswith(("head.", "adapter."))]


def test_a_width_that_does_not_fit_is_refused(tiny_diffusion: Path) -> None:
    with pytest.raises((UsageError, ValueError), match="head_channels=20: a grounded head needs a multiple of 8"):
        ReferringModel.from_diffusion(tiny_diffusion, **{**GROUNDED, "head_channels": 20})
    assert ReferConfig.model_fields["head"].default == "cascade"
