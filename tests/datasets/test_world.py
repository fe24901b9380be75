"""`--data world`: rendered scenes wherever a data set is asked for."""

from pathlib import Path

import numpy as np
import pytest

from vpd.datasets.layouts import detect_format, open_data, splits_of
from vpd.errors import UsageError
from vpd.world.scenes import CLASSES


def test_each_task_has_its_truth():
    segment = open_data("world", "segment", split="test", count=3, size_px=32)
    assert len(segment) == 3 and segment.classes == CLASSES and segment[0].labels.shape == (32, 32)
    depth = open_data("world", "depth", split="val", count=2, size_px=32)
    assert depth.scenes == ("room",) and (depth[0].depth_m > 0).all()
    refer = open_data("world", "refer", count=2, size_px=32)
    assert refer[0].texts and refer[0].mask.any()
    assert len(open_data("world", "refer")) == 20_000 and splits_of("world", "world") == ["train", "val", "test"]


def test_same_options_same_scenes_and_seeds_differ():
    first, again, other = (open_data("world", "segment", count=2, size_px=32, seed=seed)[1] for seed in (0, 0, 1))
    assert np.array_equal(first.image, again.image) and not np.array_equal(first.image, other.image)


def test_a_folder_of_the_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert detect_format("world") == "world"
    for part in ("images", "labels"):
        (tmp_path / "world" / part / "train").mkdir(parents=True)
    assert detect_format("world") == "folder"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "testA"}, "world has no split 'testA'; choose one of: train, val, test"),
        ({"count": 0}, "count=0: Input should be greater than 0"),
        ({"keep": "yes"}, "keep='yes': Input should be a valid boolean"),
        ({"size_px": 10**6}, "size_px=1000000: Input should be less than or equal to 4096"),
        ({"size_px": "big"}, "size_px='big': Input should be a valid integer"),
        ({"seed": -1}, "seed=-1: Input should be greater than or equal to 0"),
        ({"colour": 1}, "unknown option of the world layout: colour. Known: count, size_px, seed"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        open_data("world", "segment", **options)


def test_task_must_be_known():
    with pytest.raises(UsageError, match="say which task the scenes are for"):
        open_data("world", None)
