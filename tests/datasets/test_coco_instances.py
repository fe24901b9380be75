import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vpd.datasets.check import check_data
from vpd.datasets.coco import CocoInstances
from vpd.datasets.layouts import detect_format, open_data
from vpd.errors import UsageError


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def mark(number: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 4, "category_id": category, "segmentation": segmentation, **more}


CROWD = {"size": [6, 8], "counts": [36, 12]}
"""The two columns at the right."""
LARGE, SMALL = mark(1, 18, box(0, 0, 7, 4)), mark(2, 1, box(1, 1, 3, 3))


@pytest.fixture
def root(tmp_path, picture) -> Path:
    """A picture with a large object, a small one before it that is listed first, and a crowd; one without object."""
    folder = tmp_path / "coco"
    for name in ("a", "empty"):
        picture(folder / f"train2017/{name}.jpg")
    images = [{"id": 4, "file_name": "a.jpg", "height": 6, "width": 8}]
    images.append({"id": 5, "file_name": "empty.jpg", "height": 6, "width": 8})
    content = {
        "images": images,
        "annotations": [SMALL, LARGE, mark(3, 1, CROWD, iscrowd=1)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations/instances_train2017.json").write_text(json.dumps(content))
    return folder


FILE = "annotations/instances_train2017.json"


def painted(background: int, crowd: int, first: int) -> np.ndarray:
    labels = np.full((6, 8), background)
    labels[:, 6:] = crowd
    labels[:4, :7] = first
    labels[1:3, 1:3] = first + 1
    return labels


@pytest.mark.parametrize(
    ("options", "expected", "classes"),
    [
        ({}, painted(0, 255, 1), ("background", "dog", "person")),
        ({"crowd": "class"}, painted(0, 2, 1), ("background", "dog", "person")),
        ({"background": "ignore"}, painted(255, 255, 0), ("dog", "person")),
        ({"background": "ignore", "crowd": "class"}, painted(255, 1, 0), ("dog", "person")),
    ],
)
def test_small_objects_stay_visible_and_crowds_lie_under_all(root, edit_json, options, expected, classes):
    for _ in range(2):
        samples = CocoInstances(root, "train", **options)
        assert samples.classes == classes
        sample = samples[0]
        assert sample.name == "a" and np.array_equal(sample.labels, expected), "in whatever order objects are listed"
        edit_json(root / FILE, lambda data: data["annotations"].reverse())


def test_pictures_without_object(root):
    samples = CocoInstances(root, "train")
    assert len(samples) == 2 and not samples[1].labels.any()
    without = CocoInstances(root, "train", background="ignore")
    assert len(without) == 1 and "1 of 2 pictures of instances_train2017.json have no object" in without.notes[0]


def test_detection_and_check(root):
    assert detect_format(root, "segment") == "coco_instances"
    assert len(open_data(root, "segment", background="ignore")) == 1
    assert check_data("coco_instances", root).problems == []
    (root / "annotations/panoptic_train2017.json").write_text("{}")
    with pytest.raises(UsageError, match=r"several layouts fit: coco_panoptic, coco_instances\. Choose one with"):
        detect_format(root)


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        CocoInstances(root, split, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["annotations"][1].update(id=2), "annotation 1: id 2 stands twice"),
        (lambda data: data["annotations"][1].update(image_id=6), "annotation 1: image 6 is not among the images"),
        (lambda data: data["annotations"][1].update(category_id=2), "annotation 1: category 2 is not among the categ"),
        (lambda data: data["annotations"][1].pop("segmentation"), "annotation 1: 'segmentation' is missing or of the"),
        (lambda data: data["categories"][0].update(name="background"), "has a category 'background' of its own"),
        (lambda data: data["images"].clear() or data["annotations"].clear(), "has no image; the train split is empty"),
    ],
)
def test_wrong_annotations(root, edit_json, change, message):
    edit_json(root / FILE, change)
    told = refusal(root)
    assert told.startswith(str(root / FILE)) and message in told


def test_wrong_requests(root, edit_json):
    assert "background='sky'; choose class or ignore" in refusal(root, background="sky")
    assert "crowd='keep'; choose class or ignore" in refusal(root, crowd="keep")
    assert "Splits there: train" in refusal(root, "val")
    edit_json(root / FILE, lambda data: data["annotations"].clear())
    assert "has no picture with an object; the train split is empty" in refusal(root, background="ignore")
    (root / "train2017").rename(root / "elsewhere")
    assert "no folder of pictures of train; looked for train2017, images/train2017, images/train" in refusal(root)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (box(9, 0, 12, 4), r"a polygon lies outside the 8x6 picture \(x from 9 to 12\)"),
        (box(0, 0, 10**6, 4), "polygon point 1000000 is no place in or near a 8x6 picture"),
        ([[0, 0, 1, 1]], "a polygon of 4 numbers"),
        ([], "the segmentation is empty"),
        ({"size": [8, 6], "counts": [48]}, r"run lengths are for size \[8, 6\], the picture has \[6, 8\]"),
        ({"size": [6, 8], "counts": "0"}, "run lengths do not add up to 6x8 pixels"),
    ],
)
def test_wrong_outlines_are_named(root, edit_json, segmentation, message):
    edit_json(root / FILE, lambda data: data["annotations"][1].update(segmentation=segmentation))
    with pytest.raises(UsageError, match=rf"instances_train2017\.json, annotation with id 1 on a\.jpg: {message}"):
        CocoInstances(root, "train")[0]
    assert len(check_data("coco_instances", root).problems) == 1


def test_polygons_may_reach_out_of_the_picture(root, edit_json):
    edit_json(root / FILE, lambda data: data["annotations"][1].update(segmentation=box(-3, -2, 7, 4)))
    assert np.array_equal(CocoInstances(root, "train")[0].labels, painted(0, 255, 1))


def test_wrong_pictures(root, picture):
    picture(root / "train2017/a.jpg", 7, 8)
    with pytest.raises(
        UsageError, match=r"a\.jpg: picture size 8x7 differs from the annotated 8x6 \(.*instances_train"
    ):
        CocoInstances(root, "train")[0]
    (root / "train2017/a.jpg").unlink()
    with pytest.raises(UsageError, match=r"a\.jpg: no such file"):
        CocoInstances(root, "train")[0]


def test_real_outlines(test_data, tmp_path):
    """The smallest object of a picture is seen in its class, in the first and the last of 145 pictures of COCO."""
    refer = test_data / "refer"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2014.json").symlink_to(refer / "refcoco/instances.json")
    (tmp_path / "train2014").symlink_to(refer / "images/mscoco/images/train2014")
    samples = CocoInstances(tmp_path, "train")
    content = json.loads((refer / "refcoco/instances.json").read_text())
    assert len(samples) == len(content["images"]) and len(samples.classes) == len(content["categories"]) + 1
    seen = {name: set(np.unique(samples[place].labels)) for place, name in ((0, "first"), (len(samples) - 1, "last"))}
    for place, name in ((0, "first"), (len(samples) - 1, "last")):
        image_id = content["images"][place]["id"]
        of_image = [mark for mark in content["annotations"] if mark["image_id"] == image_id]
        smallest = min(of_image, key=lambda mark: mark["area"])["category_id"]
        names = [category["id"] for category in content["categories"]]
        assert names.index(smallest) + 1 in seen[name]
