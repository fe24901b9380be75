import json

import numpy as np
import pytest
from exports import CLASSES, SIDE, START, brush, label_studio_tasks, labels_of, write_label_studio

from vpd.datasets.check import check_data
from vpd.datasets.label_studio import LabelStudioData, decode_brush
from vpd.datasets.layouts import detect_format, splits_of
from vpd.errors import UsageError


@pytest.fixture
def root(tmp_path):
    write_label_studio(tmp_path)
    return tmp_path


def change(root, edit):
    path = next(root.glob("*.json"))
    tasks = json.loads(path.read_text())
    edit(tasks)
    path.write_text(json.dumps(tasks))


def region(tasks, place=0):
    return tasks[place]["annotations"][0]["result"][0]


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        samples = LabelStudioData(root, split, **options)
        [samples[place] for place in range(len(samples))]
    return str(error.value)


def test_brush_polygon_and_rectangle(root):
    assert detect_format(root) == "label_studio" and splits_of(root, "label_studio") == ["train"]
    samples = LabelStudioData(root, "train")
    assert samples.classes == CLASSES and "classes as found, sorted: mug, plate" in samples.notes[0]
    assert len(samples) == 3
    for place in range(3):
        labels, wanted = samples[place].labels, labels_of(place)
        assert labels.shape == wanted.shape and (labels != wanted).mean() < 0.03 and labels.max() == wanted.max()
    assert np.array_equal(samples[0].labels, labels_of(0)), "brush masks are exact"
    assert check_data("label_studio", root).problems == []


def test_ellipse_and_splits(root):
    value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 20, "ellipselabels": ["mug"]}
    change(root, lambda tasks: region(tasks).update(type="ellipselabels", value=value))
    next(root.glob("*.json")).rename(root / "val.json")
    assert splits_of(root, "label_studio") == ["val"]
    area = (LabelStudioData(root, "val")[0].labels == 1).sum()
    assert area == pytest.approx(np.pi * 12 * 8, rel=0.1)


@pytest.mark.parametrize(
    "where", ["/data/upload/3/1a2b3c4d-im0.jpg", "/data/local-files/?d=x%5Cimages%5Cim0.jpg", "s3://b/im0.jpg"]
)
def test_pictures_are_found_by_their_names(where, root):
    change(root, lambda tasks: tasks[0]["data"].update(image=where))
    assert len(LabelStudioData(root, "train")) == 3


def test_what_is_missing(root):
    change(root, lambda tasks: tasks[0]["data"].update(image="/data/gone.jpg"))
    assert "1 train samples lack a file. First: " in refusal(root) and "no picture gone.jpg below" in refusal(root)
    assert len(LabelStudioData(root, "train", unpaired="skip")) == 2
    change(root, lambda tasks: tasks[0].update(annotations=[]))
    assert "1 tasks have no annotation: left out" in LabelStudioData(root, "train").notes[-1]
    change(root, lambda tasks: tasks[1].update(data={"text": "no picture"}))
    assert "task 1: its data name no picture" in refusal(root)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("keypointlabels", {"keypointlabels": ["mug"]}, "'keypointlabels' is no area with a label"),
        ("polygonlabels", {"points": [[1, 2]], "polygonlabels": ["mug"]}, "needs 3 points"),
        ("rectanglelabels", {"x": 1, "rectanglelabels": ["mug"]}, "is no place in or near"),
        (
            "rectanglelabels",
            {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 45, "rectanglelabels": ["mug"]},
            "is turned by 45 degrees",
        ),
        ("brushlabels", {"rle": [1, 2, 3], "brushlabels": ["mug"]}, "ends too early"),
        ("brushlabels", {"rle": "abc", "brushlabels": ["mug"]}, "must be a list of bytes"),
    ],
)
def test_odd_regions_cost_themselves(kind, value, message, root):
    def add(tasks):
        result = tasks[0]["annotations"][0]["result"]
        result.append({**result[0], "type": kind, "value": value})

    change(root, add)
    assert np.array_equal(LabelStudioData(root, "train")[0].labels, labels_of(0))
    (problem,) = check_data("label_studio", root).problems
    assert "left out: region 1 on im0.jpg" in problem and message in problem


def test_brush_masks():
    mask = np.random.default_rng(0).random((SIDE, START)) > 0.5
    assert np.array_equal(decode_brush(brush(mask), mask.shape, "x"), mask)
    with pytest.raises(UsageError, match="x: the brush mask has 1600 values; a 7x40 picture has four a pixel"):
        decode_brush(brush(mask), (40, 7), "x")
    with pytest.raises(UsageError, match="ends too early"):
        decode_brush(brush(mask)[:-9], mask.shape, "x")
    assert len(label_studio_tasks()) == 3


def test_other_exports_are_told_apart(root):
    next(root.glob("*.json")).write_text('[{"image": "x", "tag": []}]')
    with pytest.raises(UsageError, match="no known data set"):
        detect_format(root)


def left_out(root):
    return [problem for problem in check_data("label_studio", root).problems if "left out" in problem]


@pytest.mark.parametrize("key", ["original_width", "value"])
def test_regions_that_lack_something_are_told(key, root):
    change(root, lambda tasks: tasks[1]["annotations"][0]["result"].append({"type": "polygonlabels"}))
    change(root, lambda tasks: region(tasks).pop(key))
    assert len(left_out(root)) + len([p for p in check_data("label_studio", root).problems if "size" in p]) >= 2


def test_what_was_drawn_on_a_turned_picture_is_told(root):
    change(root, lambda tasks: region(tasks, 1).update(image_rotation=90))
    assert "turned by 90 degrees" in "".join(left_out(root))
    assert not LabelStudioData(root, "train")[1].labels.any()


def test_a_second_label_of_a_region_is_told(root):
    change(root, lambda tasks: region(tasks, 1)["value"][region(tasks, 1)["type"]].append("spoon"))
    assert "labels after the first" in "".join(left_out(root))


def test_the_annotation_that_is_ground_truth_counts(root):
    def annotate(tasks):
        first = tasks[0]["annotations"][0]
        odd = {**first["result"][0], "type": "ellipselabels"}
        odd["value"] = {"x": 50, "y": 50, "radiusX": 9, "radiusY": 9, "ellipselabels": ["mug"]}
        tasks[0]["annotations"] = [{"result": [odd]}, {**first, "ground_truth": True}]

    change(root, annotate)
    samples = LabelStudioData(root, "train")
    assert np.array_equal(samples[0].labels, labels_of(0))
    assert "1 tasks have several annotations" in samples.notes[-1]


@pytest.mark.parametrize("annotations", [None, "none", [None], [{"result": None}]])
def test_a_task_without_annotation_costs_itself(annotations, root):
    change(root, lambda tasks: tasks[0].update(annotations=annotations))
    assert len(LabelStudioData(root, "train")) == 2
    for place in (1, 2):
        change(root, lambda tasks, place=place: tasks[place].update(annotations=[{"result": []}]))
    assert "none of its 3 tasks has an annotation" in refusal(root)
