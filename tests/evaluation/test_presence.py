"""Presence is fitted on right and exchanged texts, and kept in a saved model whose weights stay as they are."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import vpd
from hand_made import Samples
from vpd.config import BackboneConfig, ReferConfig, Resize
from vpd.data.sample import Sample
from vpd.errors import UsageError
from vpd.evaluation.presence import calibrate_presence, calibrate_saved, check_own_presence
from vpd.files.atomic import read_json
from vpd.tasks.referring import ReferringModel


def pictures(*texts: str, group: str | None = None) -> Samples:
    generator = np.random.default_rng(0)
    return Samples(
        Sample(
            f"picture-{index}",
            generator.integers(0, 256, (32, 32, 3), np.uint8),
            mask=np.eye(32, dtype=bool),
            texts=(text,),
            group=group,
        )
        for index, text in enumerate(texts)
    )


class Sure:
    """Finds a text for certain where it names the picture's brightness."""

    task = "refer"

    def __init__(self) -> None:
        backbone = BackboneConfig(unet={}, vae={})
        self.config = ReferConfig(backbone=backbone, fit=Resize())
        self.asked: list[tuple[int, str]] = []

    def predict(self, image: Any, *, text: str) -> Any:
        level = int(image[0, 0, 0])
        self.asked.append((level, text))
        return SimpleNamespace(probability=torch.full(image.shape[:2], 0.9 if text == str(level) else 0.2))


def test_every_picture_is_asked_for_its_own_text_and_another_ones() -> None:
    plain = pictures("0", "1", "1", "3")
    levels = [np.full((4, 4, 3), level, np.uint8) for level in (0, 1, 1, 3)]
    own = {"mask": np.eye(4, dtype=bool)}
    samples = Samples(dataclasses.replace(one, image=image, **own) for one, image in zip(plain, levels, strict=True))
    model = Sure()
    known = calibrate_presence(model, samples)
    assert [text for _, text in model.asked] == ["0", "1", "1", "3", "1", "0", "3", "1"]
    assert (known.auc, known.pairs) == (1.0, 4) and known.slope > 0
    assert model.config.presence == known


def test_few_pairs_are_spread_over_the_data() -> None:
    model = Sure()
    calibrate_presence(model, pictures(*"abcdefgh"), pairs=2)
    assert [text for _, text in model.asked] == ["a", "e", "e", "a"]


@pytest.mark.parametrize(
    "samples", [pictures("a"), pictures("a", "a", "a"), pictures("a", "b", group="one picture")], ids=str
)
def test_data_without_other_texts_are_refused(samples: Samples) -> None:
    with pytest.raises(UsageError, match="two or more pictures with different expressions"):
        calibrate_presence(Sure(), samples)


def test_a_saved_model_keeps_it(tiny_diffusion: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = ReferringModel.from_diffusion(tiny_diffusion, token_length=8, head_channels=8, fit=Resize(size_px=64))
    model.save(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    told: dict[str, Any] = {"device": "cpu", "task": None, "is_shown": False}
    calibrate_saved(tmp_path, pictures("a dog"), **told)  # which is not enough
    assert "not calibrated" in caplog.text and "presence" not in read_json(tmp_path / "config.json")
    calibrate_saved(tmp_path, pictures("a dog", "a cat", "a cow"), **told)
    threshold = read_json(tmp_path / "config.json")["threshold"]
    picture = pictures("a dog")[0].image
    known = read_json(tmp_path / "config.json")["presence"]
    assert known["pairs"] == 3 and 0 <= known["auc"] <= 1
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    before = (tmp_path / "config.json").read_bytes()
    calibrate_saved(tmp_path, pictures("a fox", "a hen"), **told)  # it has one
    assert (tmp_path / "config.json").read_bytes() == before
    loaded = vpd.load(tmp_path, device="cpu")
    assert (loaded.config.presence.pairs, loaded.config.threshold) == (3, threshold)
    found = loaded.predict(picture, text="a dog")
    assert torch.equal(found.mask, found.probability > threshold)
    assert torch.equal(loaded.predict(picture, text="a dog", threshold=0.4).mask, found.probability > 0.4)


def test_the_published_recipe_keeps_its_threshold(tiny_diffusion: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"token_length": 8, "head_channels": 8, "fit": Resize(size_px=64)}
    model = ReferringModel.from_diffusion(tiny_diffusion, recipe="reference", **options)
    model.save(tmp_path)
    calibrate_saved(tmp_path, pictures("a dog", "a cat"), device="cpu", task=None, is_shown=False)
    assert "threshold" not in read_json(tmp_path / "config.json")


def test_models_that_cannot_keep_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"world-refer is no folder of yours.*save\('model'\)"):
        check_own_presence(Sure(), "world-refer")
    with pytest.raises(UsageError, match="no folder of yours"):
        check_own_presence(Sure(), "somebody/model")
    with pytest.raises(UsageError, match="is for refer"):
        check_own_presence(SimpleNamespace(task="depth", config=Resize()), str(tmp_path))
