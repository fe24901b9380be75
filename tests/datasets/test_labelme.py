import io
import json
import shutil

import numpy as np
import pytest
from exports import CLASSES, END, SIDE, START, image_of, labels_of, save, text, write_labelme

from vpd.data.batches import SampleStream
from vpd.datasets.check import check_data
from vpd.datasets.labelme import LabelmeData
from vpd.datasets.layouts import detect_format, open_data, splits_of
from vpd.errors import UsageError


@pytest.fixture
def root(tmp_path):
    write_labelme(tmp_path)
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nmug\nplate\n")
    return tmp_path


def with_shape(root, index=0, **changes):
    """Change the only shape of a file."""

    def change(content):
        content["shapes"][0].update(changes)

    path = root / f"im{index}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        samples = LabelmeData(root, split, **options)
        [samples[place] for place in range(len(samples))]
    return str(error.value)


def test_polygon_rectangle_and_mask(root):
    assert detect_format(root) == "labelme"
    samples = LabelmeData(root, "train")
    assert samples.classes == CLASSES and [samples[place].name for place in range(3)] == ["im0", "im1", "im2"]
    assert all(np.array_equal(samples[place].labels, labels_of(place)) for place in range(3))
    assert check_data("labelme", root).problems == []


def test_circle_ignored_and_background(root):
    with_shape(root, shape_type="circle", points=[[20, 20], [20, 28]])
    area = (LabelmeData(root, "train")[0].labels == 1).sum()
    assert area == pytest.approx(np.pi * 8**2, rel=0.1)
    for label, value in (("__ignore__", 255), ("_background_", 0)):
        with_shape(root, label=label)
        assert LabelmeData(root, "train")[0].labels.max() == value
    ignoring = LabelmeData(root, "train", background="ignore")
    assert ignoring.classes == CLASSES and ignoring[1].labels[0, 0] == 255 and ignoring[1].labels[15, 15] == 2
    assert "background='no'; choose class or ignore" in refusal(root, background="no")


def test_classes_as_found(root):
    (root / "labels.txt").unlink()
    samples = LabelmeData(root, "train")
    assert samples.classes == CLASSES and "classes as found, sorted: mug, plate" in samples.notes[0]
    assert LabelmeData(root, "train", classes=["plate", "mug"])[0].labels.max() == 2
    assert "im0.json: shape 0: class 'mug' is not in the list: background, plate" in refusal(root, classes=["plate"])


def test_splits_and_pictures_elsewhere(tmp_path):
    for split in ("train", "val"):
        write_labelme(tmp_path, split)
    assert splits_of(tmp_path, "labelme") == ["train", "val"] and len(LabelmeData(tmp_path, "val")) == 3
    (tmp_path / "pictures").mkdir()
    (tmp_path / "val/im0.jpg").rename(tmp_path / "pictures/im0.jpg")
    assert "1 val samples lack a file. First: " in refusal(tmp_path, "val")
    assert len(LabelmeData(tmp_path, "val", unpaired="skip").unpaired) == 1
    path = tmp_path / "val/im0.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "imagePath": "..\\pictures\\im0.jpg"}))
    assert len(LabelmeData(tmp_path, "val")) == 3
    file = io.BytesIO()
    image_of(0).save(file, format="JPEG")
    path.write_text(json.dumps({**content, "imagePath": "/etc/passwd", "imageData": text(file.getvalue())}))
    assert LabelmeData(tmp_path, "val")[0].image.shape == (SIDE, SIDE + 8, 3)


def test_pictures_in_one_folder(tmp_path):
    write_labelme(tmp_path / "images")
    save(image_of(0), tmp_path / "images/untouched.jpg")
    assert splits_of(tmp_path, "labelme") == ["train"]
    assert "1 pictures have no JSON file: left out" in LabelmeData(tmp_path, "train").notes[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape_type": "line"}, "shape 0: 'line' is no area; polygons"),
        ({"points": [[1, 1], [2, 2]]}, "shape 0: needs 3 points or more"),
        ({"points": [[1, 1], [2, 2], [1e9, 3]]}, "is no place in or near a 48x40 picture"),
        ({"points": [[1, 1], [2, 2], [None, 3]]}, "is no place in or near"),
        ({"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "AAAA"}, "its mask is no PNG"),
        ({"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "A"}, "not base64"),
    ],
)
def test_odd_shapes_cost_themselves(changes, message, root):
    shapes = json.loads((root / "im0.json").read_text())["shapes"]
    path = root / "im0.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "shapes": [*shapes, {**shapes[0], **changes}]}))
    assert np.array_equal(LabelmeData(root, "train")[0].labels, labels_of(0))
    (problem,) = check_data("labelme", root).problems
    assert problem.startswith("train/im0: left out: shape 1") and message.replace("shape 0", "shape 1") in problem


def test_damaged_files(root):
    content = json.loads((root / "im0.json").read_text())
    for changes, message in (
        ({"shapes": {"a": []}, "flags": {"shapes": []}}, "'shapes' is missing or of the wrong type"),
        ({"imageHeight": 41}, "label size 48x41 differs from the image's 48x40"),
        ({"imageHeight": "40"}, "must be whole numbers"),
        ({"imageHeight": 10**6, "imageWidth": 10**6}, "megapixels"),
    ):
        (root / "im0.json").write_text(json.dumps({**content, **changes}))
        assert message in refusal(root)
    (root / "im0.json").write_text(json.dumps({**content, "imageHeight": None}))
    assert LabelmeData(root, "train")[0].labels[START, END] == 1
    assert "no split 'val'; there are: train" in refusal(root, "val")
    for path in root.glob("*.json"):
        path.write_text(json.dumps({**content, "shapes": []}))
    (root / "labels.txt").unlink()
    assert "have no shape with a label" in refusal(root)


def test_json_files_in_a_folder_of_their_own(root):
    for split in ("train", "val"):
        for index in range(3):
            for kind, end in (("pictures", ".jpg"), ("json", ".json")):
                (root / split / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(root / f"im{index}{end}", root / split / kind)
    for path in (*root.glob("*.json"), *root.glob("*.jpg")):
        path.unlink()
    assert splits_of(root, "labelme") == ["train", "val"]
    samples = LabelmeData(root, "val")
    assert [np.array_equal(samples[place].labels, labels_of(place)) for place in range(3)] == [True, True, True]
    assert not any("no JSON file" in note for note in samples.notes)


def test_a_damaged_file_costs_its_picture(root):
    (root / "labels.txt").unlink()
    (root / "im2.json").write_text('{"shapes": [')
    assert np.array_equal(LabelmeData(root, "train")[1].labels, labels_of(1))
    (problem,) = check_data("labelme", root).problems
    assert "im2.json: not JSON" in problem


def test_spaces_round_a_label_mean_nothing(root):
    with_shape(root, label=" mug ")
    assert np.array_equal(LabelmeData(root, "train")[0].labels > 0, labels_of(0) > 0)
    (root / "labels.txt").unlink()
    assert LabelmeData(root, "train").classes[0] == "background" and LabelmeData(root, "train")[0].labels.any()


def test_one_folder_makes_no_groups(tmp_path):
    write_labelme(tmp_path / "images")
    assert {sample.group for sample in LabelmeData(tmp_path, "train")} == {None}


def test_a_list_is_no_file_of_labelme(root):
    (root / "im0.json").write_text('[{"shapes": []}]')
    for list_of_classes in (True, False):
        if not list_of_classes:
            (root / "labels.txt").unlink()
        assert "im0.json: must be an object" in refusal(root)
    assert "classes: must be a list of class names" in refusal(root, classes="mug")


def test_what_is_left_out_is_told_once(root, caplog):
    with_shape(root, shape_type="line", points=[[1, 1], [5, 5]])
    samples = open_data(root, "segment")
    stream = iter(SampleStream(samples, lambda sample, _: sample, seed=0, batch_size=3))
    next(stream), next(stream), stream.close()
    assert [line for line in caplog.messages if "left out" in line] == [
        "im0: left out: shape 0: 'line' is no area; polygons, rectangles, circles and masks are read"
    ]


@pytest.mark.parametrize("odd", [None, "mug", {"points": []}, {"label": None, "points": []}])
def test_a_shape_without_label_costs_itself(odd, root):
    path = root / "im0.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "shapes": [odd, *content["shapes"]]}))
    sample = LabelmeData(root, "train")[0]
    assert np.array_equal(sample.labels, labels_of(0)) and sample.left_out == ("shape 0: has no label",)
    (root / "labels.txt").unlink()
    assert len(LabelmeData(root, "train")) == 3, "names are found without it, too"


def test_one_odd_file_does_not_hide_the_others(root):
    for name in ("0.json", "im9.json", "zz.json"):
        (root / name).write_text('["x"]')
    assert detect_format(root) == "labelme"


def test_what_is_ignored_is_no_value_of_a_list(root):
    for index in range(3):
        whole = [[0, 0], [SIDE + 8, SIDE]]
        with_shape(root, index, label="__ignore__", shape_type="rectangle", points=whole)
    problems = " ".join(check_data("labelme", root).problems)
    assert "objects called __ignore__" in problems and "classes.json" not in problems
