import json

import numpy as np
import pytest
from PIL import Image

from data_layouts import write_ade20k
from vpd.datasets.ade20k import Ade20k, ade20k_classes
from vpd.errors import UsageError


@pytest.fixture
def root(tmp_path):
    return write_ade20k(tmp_path / "ADEChallengeData2016")


def test_zero_is_ignored_and_150_is_the_last_class(root):
    train = Ade20k(root, "train")
    assert [train[n].name for n in range(5)] == [f"ADE_train_{n:08d}" for n in range(1, 6)]
    labels = train[0].labels
    assert labels is not None and labels.dtype == np.uint8
    assert np.unique(labels).tolist() == [0, 149, 255]
    raw = np.asarray(Image.open(root / "annotations/training/ADE_train_00000001.png"))
    assert (labels[raw == 0] == 255).all() and (labels[raw == 1] == 0).all() and (labels[raw == 150] == 149).all()
    assert len(Ade20k(root, "val")) == 3


def test_classes_are_the_published_ones(test_data):
    published = json.loads((test_data / "formats/ade150_classes.json").read_text())["classes"]
    assert list(ade20k_classes()) == [entry["name"].strip() for entry in published]
    assert list(Ade20k.label_values) == [entry["png_value"] for entry in published]


def test_grey_and_cmyk_pictures_become_rgb(root):
    folder = root / "images/training"
    assert [Image.open(folder / f"ADE_train_0000000{n}.jpg").mode for n in (2, 3)] == ["L", "CMYK"]
    train = Ade20k(root, "train")
    grey, cmyk = train[1].image, train[2].image
    assert grey.shape == (64, 48, 3) and (grey[..., 0] == grey[..., 2]).all()
    expected = np.asarray(Image.open(folder / "ADE_train_00000003.jpg").convert("RGB"))
    assert (cmyk == expected).all() and cmyk.std() > 10


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        Ade20k(root, split, **options)
    return str(error.value)


def test_wrong_folders(root, tmp_path):
    assert "no split 'test'; there are: train, val" in refusal(root, "test")
    assert "no folder images/training/, which ADE20K's train needs" in refusal(tmp_path)
    for path in (root / "annotations/validation").iterdir():
        path.unlink()
    message = refusal(root, "val")
    assert "the val split has no sample with all its files. First: " in message and "no annotation" in message
    assert "the val split has no sample with all its files" in refusal(root, "val", unpaired="skip")
    assert "unpaired='drop'; choose error or skip" in refusal(root, unpaired="drop")


def test_files_without_partner(root):
    (root / "images/training/ADE_train_00000002.jpg").unlink()
    (root / "annotations/training/ADE_train_00000003.png").unlink()
    message = refusal(root)
    assert "2 train samples lack a file" in message
    assert "ADE_train_00000003.jpg: no annotation" in message and "ADE_train_00000002.png: no image" in message
    left = Ade20k(root, "train", unpaired="skip")
    assert len(left) == 3 and len(left.unpaired) == 2 and left[1].name == "ADE_train_00000004"


def test_class_list_of_another_length(root):
    path = root / "objectInfo150.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert "objectInfo150.txt: lists 149 classes; ADE20K SceneParsing has 150" in refusal(root)


def test_labels_that_are_none_of_ade20k_s(root, grey):
    train = Ade20k(root, "train")
    path = root / "annotations/training/ADE_train_00000001.png"
    wrong = np.ones((48, 64), np.uint8)
    wrong[7, 3] = 151
    grey(path, wrong)
    with pytest.raises(
        UsageError, match=r"ADE_train_00000001\.png: value 151 at row 7, column 3; ADE20K's are 0\.\.150"
    ):
        train[0]
    grey(path, np.ones((48, 63), np.uint8))
    with pytest.raises(UsageError, match=r"label size 63x48 differs from the image's 64x48 .*ADE_train_00000001\.jpg"):
        train[0]


def test_folders_inside_are_no_part_of_the_benchmark(root):
    for kind in ("images", "annotations"):
        folder = root / kind / "training"
        (folder / "old").mkdir()
        for path in folder.glob("*.*"):
            (folder / "old" / path.name).write_bytes(b"")
    assert Ade20k(root, "train")[0].labels is not None and len(Ade20k(root, "train")) == 5
