"""Data that a model is measured on, held against those that it was trained on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vpd.data.sample import Sample, SampleSet
from vpd.errors import UsageError
from vpd.evaluation.fitted_data import check_reading, fit_classes


class Depth(SampleSet):
    """Says how its files are read."""

    def __init__(self, **reading: Any) -> None:
        self._reading = reading

    def reading(self) -> dict[str, Any]:
        return self._reading


class Labels(SampleSet):
    """One sample of two classes."""

    def __init__(self, *classes: str) -> None:
        self.classes = classes

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample("a", np.zeros((1, 2, 3), np.uint8), labels=np.array([[0, 1]], np.uint8))


def model_of(*classes: str, **notes: Any) -> Any:
    return SimpleNamespace(config=SimpleNamespace(classes=classes, notes={"training": notes}))


def test_classes_go_by_the_names_of_the_model_or_those_of_its_data():
    def labels(model: Any, *classes: str) -> list[int]:
        return np.asarray(fit_classes(model, Labels(*classes))[0].labels)[0].tolist()

    worded = model_of("traffic sign", "road", classes=["sign_symbol", "road"])
    assert labels(worded, "sign_symbol", "road") == labels(worded, "traffic sign", "road") == [0, 1]
    assert labels(worded, "road", "sign_symbol") == labels(model_of("b", "a"), "a", "b") == [1, 0]
    assert labels(model_of("a", "b", "c"), "c", "a") == [2, 0]
    with pytest.raises(UsageError, match="The data: x, y. The model: traffic sign, road"):
        labels(worded, "x", "y")


def test_files_are_read_as_in_training_unless_the_user_knows_better(tmp_path: Path):
    model = model_of(format="depth_folder", reading={"depth_scale": 256})

    def check(layout: str = "depth_folder", given: tuple[str, ...] = (), **reading: Any) -> None:
        check_reading(model, Depth(**reading), layout, options=("depth_scale", "max_depth_m"), given=given)

    check(depth_scale=256)
    check("records")
    check(given=("depth_scale",))
    with pytest.raises(UsageError, match=r"depth_scale=256, but .* depth_scale=the default.*-s depth_scale="):
        check()
    with pytest.raises(UsageError, match=r"max_depth_m=the default, but .* max_depth_m=8"):
        check(depth_scale=256, max_depth_m=8)
    check_reading(model_of(), Depth(), "depth_folder", options=("depth_scale",), given=())
