from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from vpd.config import Resize
from vpd.inference import resize as inference
from vpd.inference.resize import fit_image, fitted_size, resize_stream


@pytest.mark.parametrize("size", [(37, 53), (1, 1), (9, 200), (64, 64), (200, 10)])
def test_strips_equal_interpolation(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    monkeypatch.setattr(inference, "STRIP_PIXELS", 300)
    logits = torch.randn(4, 12, 17)
    wanted = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    strips = list(resize_stream([logits], 12, *size))
    torch.testing.assert_close(torch.cat(strips, dim=1), wanted, atol=1e-5, rtol=1e-5)
    assert len(strips) > 1 or size == (1, 1)


def test_fitted_sizes() -> None:
    assert fitted_size(Resize(), 375, 500) == (512, 683)
    assert fitted_size(Resize(), 97, 1013) == (196, 2048)
    assert fitted_size(Resize(), 1, 10_000) == (1, 2048)
    assert fitted_size(Resize(mode="squash", size_px=64), 97, 1013) == (64, 64)
    assert fitted_size(Resize(mode="native"), 97, 1013) == (97, 1013)


@pytest.mark.parametrize("antialias", [True, False])
def test_pixels_are_scaled_to_minus_one_and_one(antialias: bool) -> None:
    white = Image.fromarray(np.full((30, 40, 3), 255, dtype=np.uint8))
    pixels = fit_image(white, Resize(size_px=15, max_long_px=60, antialias=antialias))
    assert pixels.shape == (1, 3, 15, 20)
    assert torch.equal(pixels, torch.ones_like(pixels))


def test_windows_that_leave_gaps_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves gaps"):
        Resize(window_px=10, stride_px=11)
    with pytest.raises(ValueError, match="go together"):
        Resize(window_px=10)
    for fit in ({"window_px": 10, "stride_px": 10}, {}):
        with pytest.raises(ValueError, match="windows that overlap"):
            Resize(**fit, blend=True)


def test_a_fit_of_plain_windows_is_written_as_before_there_were_others() -> None:
    plain, blended = (Resize(window_px=10, stride_px=5, blend=blend) for blend in (False, True))
    assert "blend" not in plain.model_dump() and "blend" not in plain.model_dump_json()
    assert Resize.model_validate(blended.model_dump()) == blended != plain
    assert "in blended windows of 10 px" in blended.describe()
