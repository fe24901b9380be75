"""Averages over time: noise is evened out, what moves is followed, and what is new is not mixed with what was there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vpd.errors import UsageError
from vpd.inference.memory import BudgetError
from vpd.inference.smoothing import Smoother

pytestmark = pytest.mark.extras
pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'vpd-perception[video]'")
SIDE = 64


def textured(seed: int = 0) -> np.ndarray:
    """A smooth random picture, twice as wide as a frame."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, SIDE // 8, SIDE // 4)).astype(np.float32)
    large = torch.nn.functional.interpolate(torch.from_numpy(coarse)[None], scale_factor=8, mode="bicubic")[0]
    return large.clamp(0, 255).byte().numpy()


def run(
    smoother: Smoother, outputs: list[Tensor], pictures: list[np.ndarray], *, use_logs: bool = False
) -> list[Tensor]:
    smoothed = []
    for output, picture in zip(outputs, pictures, strict=True):
        smoother.begin(in_strips=False)
        pixels = torch.from_numpy(np.ascontiguousarray(picture))[None]
        smoothed.append(smoother.smoothed(0, output[None], pixels, use_logs=use_logs)[0])
        smoother.keep()
    return smoothed


def test_noise_of_a_still_picture_is_averaged():
    torch.manual_seed(0)
    outputs = [3 + torch.randn(2, SIDE, SIDE) for _ in range(40)]
    smoothed = run(Smoother(5), outputs, [textured()[:, :, :SIDE]] * 40)
    assert torch.equal(smoothed[0], outputs[0])
    assert 0.25 < float((smoothed[-1] - 3).std()) < 0.45  # 1 / sqrt(2 * 5 - 1) = 0.33
    assert abs(float(smoothed[-1].mean()) - 3) < 0.1


def test_what_moves_is_followed():
    picture = textured()
    truth = torch.from_numpy(picture.astype(np.float32)).mean(0, keepdim=True)
    frames = [picture[:, :, 2 * shift : 2 * shift + SIDE] for shift in range(12)]
    outputs = [truth[:, :, 2 * shift : 2 * shift + SIDE] for shift in range(12)]
    inside = np.s_[:, 8:-8, 8:-8]
    smeared = sum(0.75**age * outputs[-1 - age] for age in range(12)) / sum(0.75**age for age in range(12))
    error = float((run(Smoother(4), outputs, frames)[-1] - outputs[-1])[inside].abs().mean())
    assert error < 0.1 * float((smeared - outputs[-1])[inside].abs().mean())


def test_nothing_is_left_of_what_was_before_a_cut():
    before, after = textured(1)[:, :, :SIDE], 255 - textured(1)[:, :, :SIDE]
    outputs = [torch.zeros(1, SIDE, SIDE), torch.ones(1, SIDE, SIDE)]
    seen = run(Smoother(10), outputs, [before, np.where(before > 128, 0, 255).astype(np.uint8)])[-1]
    assert float(seen.mean()) > 0.9
    assert after.shape == before.shape


def test_depth_is_averaged_as_ratios():
    outputs = [torch.full((1, SIDE, SIDE), value) for value in (1.0, 4.0)]
    seen = run(Smoother(2), outputs, [textured()[:, :, :SIDE]] * 2, use_logs=True)[-1]
    assert float(seen.mean()) == pytest.approx(2.0, rel=0.01)


def test_stored_state_goes_on_to_the_last_bit_and_undone_frames_do_not_count():
    torch.manual_seed(0)
    outputs, pictures = (
        [torch.randn(2, SIDE, SIDE) for _ in range(6)],
        [textured(seed)[:, :, :SIDE] for seed in range(6)],
    )
    whole = run(Smoother(4), outputs, pictures)
    first = Smoother(4)
    run(first, outputs[:3], pictures[:3])
    first.begin(in_strips=False)  # of a call that fails
    first.smoothed(0, outputs[5][None], torch.from_numpy(pictures[5].copy())[None], use_logs=False)
    second = Smoother(4)
    second.load_state(first.state(), torch.device("cpu"))
    assert torch.equal(run(second, outputs[3:], pictures[3:])[-1], whole[-1])


def test_one_frame_that_is_no_number_does_not_stay():
    outputs = [torch.ones(1, SIDE, SIDE), torch.full((1, SIDE, SIDE), torch.nan), torch.ones(1, SIDE, SIDE)]
    assert torch.equal(run(Smoother(4), outputs, [textured()[:, :, :SIDE]] * 3)[-1], outputs[0])


def test_another_size_begins_anew_and_one_pixel_is_enough():
    pictures = [textured()[:, :, :SIDE], textured()[:, :, :40], textured()[:, :1, :1]]
    outputs = [torch.ones(1, *picture.shape[1:]) * place for place, picture in enumerate(pictures)]
    assert all(torch.equal(*pair) for pair in zip(run(Smoother(4), outputs, pictures), outputs, strict=True))


def test_what_cannot_be_smoothed_is_refused():
    for wrong in (0, -1, 101, 1.5, True):
        with pytest.raises(UsageError, match="smooth="):
            Smoother(wrong)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="smaller size"):
        Smoother(4).begin(in_strips=True)
    Smoother(1).begin(in_strips=True)
