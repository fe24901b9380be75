"""Weights of classes: by hand, from frequencies, and through a whole run that is resumed."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from tiny_data import write_segment_data
from vpd.data.sample import Sample
from vpd.errors import UsageError
from vpd.tasks.loss_settings import LossSettings
from vpd.training import class_weights
from vpd.training.class_weights import count_pixels, median_frequency_weights
from vpd.training.run import train
from vpd.training.settings import resolve_config

SETTINGS = {"model": "sd", "data": {"root": "data"}}


class Rows:
    """Samples of 4 pixels, whose labels are given; none = it cannot be read."""

    classes = ("road", "pole", "sign")

    def __init__(self, *rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if self.rows[index] is None:
            raise UsageError("damaged")
        labels = np.array([self.rows[index]], np.uint8)
        return Sample(name=str(index), image=np.zeros((1, 4, 3), np.uint8), labels=labels)


def test_median_frequencies_by_hand():
    samples = Rows([0, 0, 0, 1], None, [0, 0, 255, 255])
    pixels, among = count_pixels(samples, 3)
    assert (pixels.tolist(), among.tolist()) == ([5, 1, 0], [6, 4, 0])
    # frequencies 5/6 and 1/4, their median 13/24; what was not seen weighs as the rarest
    assert median_frequency_weights(pixels, among) == pytest.approx([13 / 20, 13 / 6, 13 / 6])


def test_few_samples_are_counted(monkeypatch):
    monkeypatch.setattr(class_weights, "COUNTED", 2)
    pixels, _ = count_pixels(Rows([0] * 4, None, None, [1] * 4, None, None), 3)
    assert pixels.tolist() == [4, 4, 0]


def test_nothing_labelled_is_refused():
    with pytest.raises(UsageError, match="no labelled pixel"):
        median_frequency_weights(*count_pixels(Rows([255] * 4), 3))


def test_weights_by_name_and_in_order():
    assert LossSettings(class_weights={"pole": 4}).weights_of(Rows.classes) == (1.0, 4.0, 1.0)
    assert LossSettings(class_weights=[1, 2, 3]).weights_of(Rows.classes) == (1.0, 2.0, 3.0)
    assert LossSettings().weights_of(Rows.classes) is None


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"pole": 2, "polle": 1}, "names polle; the classes are road, pole, sign"),
        ([1, 2], "has 2 weights, but there are 3 classes: road, pole, sign"),
        ("frequency", "counted when a run starts"),
    ],
)
def test_weights_that_do_not_fit_the_classes(weights, told):
    with pytest.raises(UsageError, match=told):
        LossSettings(class_weights=weights).weights_of(Rows.classes)


@pytest.mark.parametrize("weights", [[0, 0], [1, -1], [1, math.nan], "often", []])
def test_wrong_weights_are_refused(weights):
    with pytest.raises(UsageError, match=r"loss\.class_weights"):
        resolve_config("segment", SETTINGS, {"loss": {"class_weights": weights}})


@pytest.mark.parametrize("task", ["refer", "depth"])
def test_only_segmentation_takes_a_loss(task):
    with pytest.raises(UsageError, match=rf"loss\.kind is not for {task}"):
        resolve_config(task, SETTINGS, {"loss": {"kind": "focal"}})


def test_a_run_keeps_the_weights_that_it_counted(tmp_path: Path, tiny_diffusion: Path, caplog) -> None:
    data = write_segment_data(tmp_path / "data")
    caplog.set_level(logging.INFO)
    settings = {
        "model": str(tiny_diffusion),
        "data": {"root": str(data)},
        "steps": 1,
        "batch_size": 2,
        "crop_px": 64,
        "workers": 0,
        "accumulate": 2,
        "model_options": {"head_channels": 16, "head_norm": "group"},
        "loss": {"kind": "cross_entropy_dice", "class_weights": "frequency"},
    }
    model = train("segment", tmp_path / "run", settings)
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["loss"]
    weights = written["class_weights"]
    saved = json.loads((model / "config.json").read_text())
    assert sorted(weights) == sorted(saved["classes"])
    assert len(set(weights.values())) > 1 and "Weights of the classes" in caplog.text
    assert saved["notes"]["training"]["loss"] == {"kind": "cross_entropy_dice", "class_weights": weights}
    train("segment", tmp_path / "run", settings, resume=True)  # asks for frequency again, which is no change
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["loss"]["class_weights"] == weights
