"""Presence: whether a text fits anything, by hand and through a referring model's words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vpd
from vpd.config import PresenceCalibration, Resize
from vpd.errors import UsageError
from vpd.tasks.predictions import MaskPrediction
from vpd.tasks.presence import calibrated, raw_presence
from vpd.tasks.referring import ReferringModel

KNOWN = PresenceCalibration(slope=2.0, offset=-1.0, auc=0.75, pairs=40)
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_raw_presence_by_hand() -> None:
    assert raw_presence(torch.tensor([[0.5, 0.25], [0.0, 0.25]])) == pytest.approx(0.375)
    assert raw_presence(torch.zeros(3, 4)) == 0
    large = torch.full((1500, 1500), 0.25)
    assert raw_presence(large) == pytest.approx(0.25)
    assert math.isnan(raw_presence(torch.tensor([[math.nan, 0.5]])))


def test_calibrated_by_hand() -> None:
    assert calibrated(0.3, None) == 0.3
    assert calibrated(0.5, KNOWN) == pytest.approx(1 / (1 + math.e))
    assert 0 < calibrated(0.0, KNOWN) < calibrated(1.0, KNOWN) < 1


@pytest.fixture(scope="module")
def referrer(tiny_diffusion: Path) -> ReferringModel:
    return ReferringModel.from_diffusion(tiny_diffusion, token_length=8, head_channels=8, fit=Resize(size_px=64))


def predicted(model: ReferringModel, **words: Any) -> MaskPrediction:
    return model.predict(IMAGE, text="the dog", **words)


@pytest.mark.parametrize(
    ("presence", "is_calibrated", "has_mask", "is_told"),
    [(0.1, True, True, True), (0.2, True, True, False), (0.1, False, True, False), (0.1, True, False, False)],
)
def test_a_doubt_stands_below_the_picture(
    monkeypatch: pytest.MonkeyPatch, presence: float, is_calibrated: bool, has_mask: bool, is_told: bool
) -> None:
    told = []
    monkeypatch.setattr(
        "vpd.drawing.overlays.caption_strip", lambda text, *_: told.append(text) or Image.new("RGB", (9, 9))
    )
    mask = torch.full((8, 8), has_mask)
    known = {"presence": presence, "presence_is_calibrated": is_calibrated}
    MaskPrediction(mask, mask.float(), "the dog", Image.new("RGB", (8, 8)), **known).overlay()
    (line,) = told
    assert line.startswith("“the dog” · ") and line.endswith(" · probably not there") == is_told


def test_predictions_say_presence(referrer: ReferringModel, tmp_path: Path) -> None:
    found = predicted(referrer)
    assert found.presence == pytest.approx(raw_presence(found.probability)) and not found.presence_is_calibrated
    assert found.facts()["presence"] == round(found.presence, 4)
    referrer.save(tmp_path / "plain")
    assert "presence" not in json.loads((tmp_path / "plain" / "config.json").read_text())  # as ever
    config = referrer.config
    try:
        referrer.config = config.model_copy(update={"presence": KNOWN})
        referrer.save(tmp_path / "known")
    finally:
        referrer.config = config
    again = predicted(vpd.load(tmp_path / "known", device="cpu"))
    assert again.presence_is_calibrated and again.presence == pytest.approx(calibrated(found.presence, KNOWN))
    assert torch.equal(again.mask, found.mask)


def test_thresholds(referrer: ReferringModel) -> None:
    plain = predicted(referrer)
    middle = float(plain.probability.median())
    half = predicted(referrer, threshold=middle, fitted=True)
    assert torch.equal(half.mask, plain.probability > middle) and 0 < half.mask.float().mean() < 1
    assert 0 < half.fitted_mask.float().mean() < 1
    above, below = (predicted(referrer, threshold=middle, min_presence=half.presence + by) for by in (1e-3, -1e-3))
    assert not above.mask.any() and above.facts()["box"] is None
    assert torch.equal(above.probability, plain.probability)
    assert torch.equal(below.mask, half.mask)


@pytest.mark.parametrize(
    "words", [{"threshold": 0.0}, {"threshold": 1.5}, {"min_presence": -1}, {"min_presence": 17}, {"threshold": "x"}]
)
def test_wrong_thresholds_are_refused(referrer: ReferringModel, words: dict[str, Any]) -> None:
    (name,) = words
    with pytest.raises(UsageError, match=f"{name}="):
        predicted(referrer, **words)


def test_half_a_character_is_no_text(referrer: ReferringModel) -> None:
    with pytest.raises(UsageError, match="no valid Unicode"):
        referrer.predict(IMAGE, text="cup \ud83d")
