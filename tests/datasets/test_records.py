import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vpd.datasets.check import check_data
from vpd.datasets.layouts import detect_format, open_data
from vpd.datasets.records import RecordsData, record_splits
from vpd.errors import UsageError

RUNS = {"size": [6, 8], "counts": [0, 6, 42]}
SQUARE = [[2, 1, 6, 1, 6, 4, 2, 4]]


def write(root: Path, split: str, *records: Any) -> None:
    (root / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def root(tmp_path, picture, grey) -> Path:
    """Two pictures, with a mask, a label picture and a depth picture."""
    folder = tmp_path / "mine"
    for name in ("a", "b"):
        picture(folder / f"pictures/{name}.jpg")
    grey(folder / "mask.png", np.eye(6, 8, dtype=np.uint8) * 255)
    grey(folder / "labels.png", np.eye(6, 8, dtype=np.uint8))
    grey(folder / "depth.png", np.full((6, 8), 1500, dtype=np.uint16))
    return folder


@pytest.fixture
def refer(root) -> Path:
    """Masks in all three forms; expressions as list and as text; a blank line."""
    write(
        root,
        "train",
        {"image": "pictures/a.jpg", "mask": "mask.png", "expressions": ["the diagonal", "a line on the left"]},
        {"image": "pictures/a.jpg", "mask": SQUARE, "expression": "Quadrat: квадрат", "group": "room 1"},
        {"image": "pictures/b.jpg", "mask": RUNS, "expressions": ["left edge"], "id": 12},
    )
    path = root / "train.jsonl"
    path.write_text(path.read_text().replace("\n", "\n\n", 1), encoding="utf-8-sig")
    return root


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        RecordsData(root, split, **options)
    return str(error.value)


def test_masks_in_all_forms(refer):
    samples = RecordsData(refer, "train")
    assert (len(samples), samples.parts, samples.classes, samples.scenes) == (3, ("mask",), (), ())
    first, second, third = (samples[place] for place in range(3))
    assert (first.name, first.texts) == ("a_1", ("the diagonal", "a line on the left"))
    assert np.array_equal(first.mask, np.eye(6, 8, dtype=bool))
    assert (second.name, second.texts, second.group) == ("a_3", ("Quadrat: квадрат",), "room 1")
    assert second.mask.sum() == 12 and second.mask[1:4, 2:6].all()
    assert (third.name, third.group) == ("12", "pictures/b.jpg")
    assert third.mask[:, 0].all() and third.mask.sum() == 6


def test_evaluation_takes_every_expression(refer):
    (refer / "train.jsonl").rename(refer / "val.jsonl")
    samples = RecordsData(refer, "val")
    assert [(samples[place].name, samples[place].texts) for place in range(4)] == [
        ("a_1_0", ("the diagonal",)),
        ("a_1_1", ("a line on the left",)),
        ("a_3_0", ("Quadrat: квадрат",)),
        ("12_0", ("left edge",)),
    ]
    assert len(RecordsData(refer, "val", per_sentence=False)) == 3


def test_workers_read_the_same(refer):
    samples = RecordsData(refer, "train")
    again = pickle.loads(pickle.dumps(samples))
    assert np.array_equal(again[2].mask, samples[2].mask)


def test_labels(root):
    write(root, "train", {"image": "pictures/a.jpg", "labels": "labels.png"})
    assert "no class list" in refusal(root)
    samples = RecordsData(root, "train", classes=["sky", "line"])
    assert (samples.classes, samples.parts) == (("sky", "line"), ("labels",))
    assert np.array_equal(samples[0].labels, np.eye(6, 8, dtype=np.uint8))
    (root / "classes.txt").write_text("sky\nline\ncar\n")
    assert RecordsData(root, "train").classes == ("sky", "line", "car")
    assert "classes names 2 classes, but the list in" in refusal(root, classes=["a", "b"])
    assert set(np.unique(RecordsData(root, "train", ignore_index=0)[0].labels)) == {1, 255}
    (root / "classes.txt").write_text("sky\n")
    with pytest.raises(UsageError, match=r"train\.jsonl, line 1: .*labels\.png: label 1 at row 0, column 0 is outside"):
        RecordsData(root, "train")[0]


def test_depth(root):
    write(
        root,
        "train",
        {"image": "pictures/a.jpg", "depth": "depth.png", "scene": "kitchen "},
        {"image": "pictures/b.jpg", "depth": "depth.png", "scene": None},
    )
    samples = RecordsData(root, "train", depth_scale=500, max_depth_m=20)
    assert (samples.parts, samples.scenes, samples.counted.max_depth_m) == (("depth",), ("kitchen",), 20)
    assert [samples[place].scene for place in range(2)] == ["kitchen", None]
    assert (samples[1].depth_m == 3).all()


def test_several_truths_serve_several_tasks(root):
    write(root, "train", {"image": "pictures/a.jpg", "depth": "depth.png", "labels": "labels.png"})
    (root / "classes.txt").write_text("sky\nline\n")
    assert RecordsData(root, "train").parts == ("labels", "depth")
    assert RecordsData(root, "train").scenes == ("scene",)
    assert len(open_data(root, "depth")) == len(open_data(root, "segment")) == 1
    with pytest.raises(UsageError, match="its train split is for segment and depth, not for refer"):
        open_data(root, "refer")


REFER = {"image": "pictures/a.jpg", "mask": SQUARE, "expressions": ["x"]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("nonsense", "'image' is missing or of the wrong type"),
        ({"mask": "mask.png"}, "'image' is missing or of the wrong type; it must be text"),
        ({**REFER, "image": "/etc/passwd"}, "'/etc/passwd' leads out of the data folder"),
        ({**REFER, "mask": "../mask.png"}, r"'\.\./mask\.png' leads out of the data folder"),
        ({**REFER, "mask": 7}, "'mask' must be a path or a segmentation"),
        ({"image": "pictures/a.jpg", "mask": SQUARE}, "expressions must be a text or a list of texts"),
        ({**REFER, "expressions": ["x", " "]}, "expression 2 of 2 is ' '"),
        ({**REFER, "expressions": []}, "and at least one"),
        ({**REFER, "scene": 3}, "'scene' is 3; it must be a text, or left out"),
        ({**REFER, "group": ""}, "'group' is ''; it must be a text, or left out"),
        ({**REFER, "id": "../x"}, "leads out"),
        ({**REFER, "id": 1.5}, "id 1.5 must be a whole number or a text"),
        ({"image": "pictures/a.jpg", "labels": "labels.png"}, "has labels where the lines before have mask; all lines"),
        ({"image": "pictures/a.jpg"}, "has nothing where the lines before have mask"),
    ],
)
def test_wrong_lines_are_named(root, record, message):
    write(root, "train", REFER, record)
    with pytest.raises(UsageError, match=rf"train\.jsonl, line 2: .*{message}"):
        RecordsData(root, "train")


def test_files_without_records(root):
    (root / "train.jsonl").write_text("\n\n")
    assert "train.jsonl: the file has no line; the train split is empty" in refusal(root)
    (root / "train.jsonl").write_text('{"image": ')
    assert "train.jsonl, line 1: not JSON" in refusal(root)
    write(root, "train", {"image": "pictures/a.jpg"})
    assert "line 1: has none of labels, mask, depth; an image alone teaches nothing" in refusal(root)
    write(root, "train", {"image": "pictures/a.jpg", "labels": ["labels.png"]})
    assert "line 1: 'labels' must be a path" in refusal(root)
    write(root, "val", REFER)
    assert "no split 'test', which would be test.jsonl; there are: train, val" in refusal(root, "test")
    assert "overlap='both'" in refusal(root, "val", overlap="both")


def test_ids_stand_once(root):
    write(root, "train", {**REFER, "id": 7}, REFER, {**REFER, "id": "7"})
    assert "train.jsonl, line 3: id '7' stands in line 1 already" in refusal(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "pictures/gone.jpg"}, r"pictures/gone\.jpg: no such file"),
        ({"mask": "gone.png"}, r"gone\.png: no such file"),
        ({"mask": {"size": [8, 6], "counts": [48]}}, r"run lengths are for size \[8, 6\], the picture has \[6, 8\]"),
        ({"mask": {"size": [6, 8], "counts": [47]}}, "run lengths do not add up"),
        ({"mask": [[20, 0, 24, 0, 24, 4]]}, "a polygon lies outside the 8x6 picture"),
        ({"mask": [[0, 0, 1e9, 0, 1e9, 4]]}, "is no place in or near a 8x6 picture"),
        ({"mask": [[0, 0, 1]]}, "a polygon of 3 numbers"),
        ({"mask": []}, "the segmentation is empty"),
    ],
)
def test_wrong_files_and_masks_name_their_line(root, change, message):
    write(root, "train", REFER, {**REFER, **change})
    with pytest.raises(UsageError, match=rf"train\.jsonl, line 2: .*{message}"):
        RecordsData(root, "train")[1]


def test_a_file_that_vanishes(refer):
    samples = RecordsData(refer, "train")
    (refer / "train.jsonl").unlink()
    with pytest.raises(UsageError, match=r"train\.jsonl, line 1: cannot be read \(No such file"):
        samples[0]


def test_files_elsewhere_need_trust(root, tmp_path, picture):
    picture(tmp_path / "elsewhere.jpg")
    write(root, "train", {**REFER, "image": str(tmp_path / "elsewhere.jpg")})
    assert "set allow_absolute=true" in refusal(root)
    assert RecordsData(root, "train", allow_absolute=True)[0].name == "elsewhere_1"


def test_detection(refer, tmp_path):
    (refer / "notes.jsonl").write_text('{"image": "x"}\n')
    assert record_splits(refer) == ["train"] and detect_format(refer, "refer") == "records"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"records: SPLIT\.jsonl with an image in each line"):
        detect_format(tmp_path / "empty", "refer")


def test_check(refer):
    report = check_data("records", refer)
    assert report.problems == [] and report.splits[0].samples == 3
    write(refer, "train", REFER, {**REFER, "mask": [[20, 0, 24, 0, 24, 4]]})
    (problem,) = check_data("records", refer).problems
    assert "line 2: " in problem and "a polygon lies outside" in problem


def test_slashes_of_windows_and_label_maps(root, grey):
    grey(root / "labels.png", np.eye(6, 8, dtype=np.uint8) * 7)
    (root / "classes.json").write_text('["sky", "road"]')
    write(root, "train", {"image": "pictures\\a.jpg", "labels": ".\\labels.png"})
    samples = RecordsData(root, "train", label_map={0: "sky", 7: "road"})
    assert np.array_equal(samples[0].labels, np.eye(6, 8))
    assert (RecordsData(root, "train", ignore_index=[0, 7])[0].labels == 255).all()
    (root / "._train.jsonl").write_bytes((root / "train.jsonl").read_bytes())
    assert record_splits(root) == ["train"]
