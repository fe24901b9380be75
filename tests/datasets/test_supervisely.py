import json
import zlib

import numpy as np
import pytest
from exports import CLASSES, SIDE, corners, labels_of, packed, text, write_supervisely

from vpd.datasets.check import check_data
from vpd.datasets.layouts import detect_format, splits_of
from vpd.datasets.supervisely import SuperviselyData
from vpd.errors import UsageError


@pytest.fixture
def root(tmp_path):
    write_supervisely(tmp_path)
    return tmp_path


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        samples = SuperviselyData(root, split, **options)
        [samples[place] for place in range(len(samples))]
    return str(error.value)


def with_object(root, thing, index=0):
    path = root / f"train/ann/im{index}.jpg.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "objects": [*content["objects"], {"classTitle": "mug", **thing}]}))


def test_polygon_and_bitmap(root):
    assert detect_format(root) == "supervisely" and splits_of(root, "supervisely") == ["train", "val"]
    samples = SuperviselyData(root, "train")
    assert samples.classes == CLASSES
    assert all(np.array_equal(samples[place].labels, labels_of(place)) for place in range(2))
    assert SuperviselyData(root, "val", background="ignore").classes == CLASSES[1:]
    assert check_data("supervisely", root).problems == []


def test_data_sets_without_a_split(tmp_path):
    write_supervisely(tmp_path, sets=("ds0", "ds1"))
    assert splits_of(tmp_path, "supervisely") == ["train"]
    samples = SuperviselyData(tmp_path, "train")
    assert [sample.name for sample in (samples[0], samples[3])] == ["ds0/im0", "ds1/im1"]


def test_holes_rectangles_and_parts_outside(root):
    hole = [[15, 15], [20, 15], [20, 20], [15, 20]]
    with_object(root, {"geometryType": "polygon", "points": {"exterior": corners(), "interior": [hole]}})
    with_object(root, {"geometryType": "rectangle", "points": {"exterior": [[0, 0], [3, 1]], "interior": []}})
    corner = packed(np.ones((5, 5)))
    with_object(root, {"geometryType": "bitmap", "bitmap": {"data": text(corner), "origin": [SIDE + 5, SIDE - 2]}})
    labels = SuperviselyData(root, "train")[0].labels
    assert labels[17, 17] == 1, "the polygon below the hole is seen"
    assert (labels[:2, :4] == 1).all() and labels[2, 0] == 0
    assert (labels[-2:, -3:] == 1).all() and labels[-3, -1] == 0


def test_other_names_and_own_background(root):
    assert SuperviselyData(root, "train", classes=["cup", "dish"]).classes == ("background", "cup", "dish")
    assert "classes names 1 classes, but " in refusal(root, classes=["cup"])
    meta = json.loads((root / "meta.json").read_text())
    meta["classes"].append({"title": "Background"})
    (root / "meta.json").write_text(json.dumps(meta))
    samples = SuperviselyData(root, "train")
    assert samples.classes == ("Background", "mug", "plate") and np.array_equal(samples[1].labels, labels_of(1))


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        ({"geometryType": "line", "points": {"exterior": corners()}}, "object 1: 'line' is no area"),
        ({"geometryType": "polygon", "points": {"exterior": []}}, "object 1: needs 3 points"),
        ({"geometryType": "bitmap", "bitmap": {"data": "eJx=", "origin": [1, 1]}}, "object 1"),
        ({"geometryType": "bitmap", "bitmap": {"data": text(b"abc"), "origin": [1, 1]}}, "its mask is no PNG"),
        ({"geometryType": "bitmap", "bitmap": {"data": "", "origin": ["a", 1]}}, "is no place in or near"),
    ],
)
def test_odd_objects_cost_themselves(thing, message, root):
    with_object(root, thing)
    assert np.array_equal(SuperviselyData(root, "train")[0].labels, labels_of(0))
    (problem,) = check_data("supervisely", root).problems
    assert problem.startswith("train/im0: left out: ") and message in problem


def test_packed_masks_take_no_memory_without_end(root):
    with_object(
        root, {"geometryType": "bitmap", "bitmap": {"data": text(zlib.compress(bytes(2**27))), "origin": [0, 0]}}
    )
    assert "has more than" in SuperviselyData(root, "train")[0].left_out[0]


def test_wrong_projects(root):
    (root / "train/ann/im1.jpg.json").unlink()
    assert "1 train samples lack a file. First: im1.jpg: no train/ann/im1.jpg.json" in refusal(root)
    assert len(SuperviselyData(root, "train", unpaired="skip")) == 1
    assert "no split 'test'; there are: train, val" in refusal(root, "test")
    with_object(root, {"classTitle": "fork"})
    message = refusal(root, unpaired="skip")
    assert "im0.jpg.json: object 1: class 'fork' is not in the list: background, mug, plate" in message
    (root / "meta.json").write_text("{}")
    assert "meta.json: 'classes' is missing" in refusal(root, unpaired="skip")


def test_an_object_without_class_costs_itself(root):
    with_object(root, {"classTitle": None})
    sample = SuperviselyData(root, "train")[0]
    assert np.array_equal(sample.labels, labels_of(0)) and sample.left_out == ("object 1: has no classTitle",)
