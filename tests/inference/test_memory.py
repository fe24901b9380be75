from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny import CLASSES
from vpd import SegmentationModel, UsageError, optimise
from vpd.config import Resize
from vpd.inference.memory import LiveBytes, format_memory, network_bytes, parse_memory


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("4GB", 4 * 10**9), ("512 mb", 512 * 10**6), ("1.5GiB", 3 * 2**29), (1000, 1000), ("1000", 1000), (2.0, 2)],
)
def test_units(text: str, wanted: int) -> None:
    assert parse_memory(text) == wanted


@pytest.mark.parametrize("text", ["", "GB", "4 gigabytes", "-1GB", 0, "0.1", "nan", "1e9"])
def test_what_is_no_memory(text: str) -> None:
    with pytest.raises(UsageError, match="such as 4GB"):
        parse_memory(text)


def test_memory_in_words() -> None:
    assert [format_memory(count) for count in (3.21e9, 4.8e8)] == ["3.2 GB", "480 MB"]


def test_live_bytes_by_hand() -> None:
    weight = torch.ones(1000)
    with LiveBytes() as live:
        kept = weight * 2  # 4000
        kept.view(10, 100).add_(weight.view(10, 100))  # views and what is in place take nothing
        made = kept + 1  # 8000
        del made
        torch.stack([kept, kept])  # 12000
        kept + 1
    assert live.peak == 12_000


@pytest.fixture(scope="module")
def model(tiny_diffusion: Path) -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel.from_diffusion(
        tiny_diffusion, classes=CLASSES, fit=Resize(mode="native"), head_channels=8
    ).eval()


@pytest.mark.parametrize("merge_above", [None, 1])
def test_the_count_is_that_of_a_pass_with_data(model: SegmentationModel, merge_above: int | None) -> None:
    run = model if merge_above is None else optimise(model, dtype="float32", merge_above=merge_above)
    with torch.no_grad(), LiveBytes() as live:
        run(torch.zeros(1, 3, 128, 192))
    counted = network_bytes(run, (1, 128, 192))
    assert live.peak <= counted <= 1.5 * live.peak  # beyond it, what convolutions take for themselves


def test_the_count_grows_with_the_pixels(model: SegmentationModel) -> None:
    small, large, four = (network_bytes(model, images) for images in ((1, 128, 128), (1, 256, 256), (4, 128, 128)))
    assert large == pytest.approx(4 * small, rel=0.1)
    assert four == pytest.approx(large, rel=0.1)


def test_an_optimised_model_takes_less(model: SegmentationModel) -> None:
    fast = optimise(model, dtype="bfloat16")
    assert network_bytes(fast, (1, 256, 256)) < 0.7 * network_bytes(model, (1, 256, 256))
