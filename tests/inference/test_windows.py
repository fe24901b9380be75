from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from vpd.config import Resize
from vpd.files.images import to_tensor
from vpd.inference.plan import windows_of
from vpd.inference.resize import resize_stream
from vpd.inference.run import run_windows
from vpd.inference.windows import PlainWindows, SmoothWindows


class Network:
    """Any function of pixels as what `run_windows` runs."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward = forward

    def __call__(self, images: Tensor, text_embeds: None, *, caches: None) -> Tensor:
        return self.forward(images)


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(8, 64), st.integers(0, 3))
def test_weights_are_a_partition_of_unity(length: int, side: int, quarter: int) -> None:
    windows = SmoothWindows(side, side * quarter // 4)
    starts, weights = windows.starts(length), windows.weights(length)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - side)
    assert all(later - start <= side - windows.overlap_px for start, later in pairwise(starts))
    total = torch.zeros(length)
    for start, share in zip(starts, weights, strict=True):
        total[start : start + len(share)] += share
    torch.testing.assert_close(total, torch.ones(length), atol=1e-6, rtol=0)
    assert weights.min() >= 0


def test_weights_fall_smoothly_to_the_borders() -> None:
    """No step anywhere, and none in the slope: what a window adds begins and ends at nothing."""
    weights = SmoothWindows(128, 32).weights(320)[1]
    assert weights[0] < 0.01
    assert weights[-1] < 0.01
    assert weights.diff().abs().max() < 0.06
    assert SmoothWindows(128, 32).weights(100).tolist() == [[1.0] * 100]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 40), st.integers(1, 40), st.booleans(), st.booleans())
def test_a_network_that_returns_its_input_gives_the_picture_back(
    height: int, width: int, side: int, rows: int, is_tensor: bool, is_smooth: bool
) -> None:
    image, copy = picture(height, width), Network(lambda part: part.clone())
    pixels = to_tensor(image)
    cuts = SmoothWindows(side, side // 4) if is_smooth else PlainWindows(side, max(1, side * 2 // 3))
    for most in (rows, None):
        found = run_windows(copy, pixels if is_tensor else image, None, cuts, rows=most)
        strips = [strip.clone() for strip in found] if most else list(found)
        assert len(strips) == 1 or most is None or all(strip.shape[-2] <= most for strip in strips)
        torch.testing.assert_close(torch.cat(strips, dim=-2), pixels, atol=1e-6, rtol=0)


def test_the_order_of_windows_does_not_matter() -> None:
    image, windows = picture(75, 110), SmoothWindows(32, 8)

    def forward(part: Tensor) -> Tensor:
        return part.cumsum(-1).cumsum(-2) / 100  # depends on where the window begins

    got = torch.cat([strip.clone() for strip in run_windows(Network(forward), image, None, windows)], dim=-2)
    shares_down, shares_across = windows.weights(75), windows.weights(110)
    places = list(product(enumerate(windows.starts(75)), enumerate(windows.starts(110))))
    random.Random(0).shuffle(places)
    wanted = torch.zeros(1, 3, 75, 110)
    for (row, top), (column, left) in places:
        part = (..., slice(top, top + 32), slice(left, left + 32))
        wanted[part] += forward(to_tensor(image)[part]) * shares_down[row][:, None] * shares_across[column]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(37, 53), (1, 1), (9, 200), (64, 64), (200, 10)])
@pytest.mark.parametrize("rows", [1, 7, 500])
def test_a_stream_is_resized_to_the_same_bits(size: tuple[int, int], rows: int) -> None:
    logits = torch.randn(4, 23, 17)
    wanted = torch.cat([strip.clone() for strip in resize_stream([logits], 23, *size)], dim=1)

    def strips():
        buffer = torch.empty(4, 5, 17)
        for first in range(0, 23, 5):
            part = logits[:, first : first + 5]
            buffer[:, : part.shape[1]] = part
            yield buffer[:, : part.shape[1]]
            buffer.fill_(torch.nan)  # what was yielded is used again

    got = [strip.clone() for strip in resize_stream(strips(), 23, *size, rows=rows)]
    assert torch.equal(torch.cat(got, dim=1), wanted)
    assert all(strip.shape[1] <= rows for strip in got)


def test_plain_windows_end_at_the_border() -> None:
    assert PlainWindows(128, 85).starts(224) == [0, 85, 96]
    assert PlainWindows(128, 85).starts(160) == [0, 32]
    assert PlainWindows(128, 85).starts(100) == [0]
    assert PlainWindows(480, 160).starts(640) == [0, 160]


def test_overlap_of_plain_windows_is_the_mean() -> None:
    calls = []

    def forward(part: Tensor) -> Tensor:
        calls.append(part)
        return torch.full_like(part[:, :1], float(len(calls)))

    (strip,) = run_windows(Network(forward), torch.zeros(1, 3, 4, 6), None, PlainWindows(4, 2))
    assert strip[0, 0, 0].tolist() == [1, 1, 1.5, 1.5, 2, 2]


def test_blended_windows_leave_no_seams() -> None:
    """Each window says another depth: where plain ones jump, blended ones pass over."""
    fits = [Resize(size_px=128, window_px=128, stride_px=43, blend=blend) for blend in (False, True)]
    made = []
    for fit in fits:
        calls = []

        def forward(part: Tensor, calls: list[Tensor] = calls) -> Tensor:
            calls.append(part)
            return torch.full_like(part[:, :1], float(len(calls)))

        made.append(torch.cat(list(run_windows(Network(forward), torch.zeros(1, 3, 128, 300), None, windows_of(fit)))))
        assert len(calls) == 5
    plain, blended = (strip[0, 0].diff(dim=-1).abs().max() for strip in made)
    assert plain >= 0.5 and blended < 0.05
    assert windows_of(Resize()) is None
