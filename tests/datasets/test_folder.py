import numpy as np
import pytest

from vpd.datasets.folders import FolderData
from vpd.errors import UsageError


def test_pairs_of_a_split_in_the_order_of_the_list(folder_root):
    samples = FolderData(folder_root, "train")
    assert samples.classes == ("sky", "road", "car")
    assert [samples[place].name for place in range(len(samples))] == ["b2", "b10"]
    sample = samples[0]
    assert sample.image.shape == (6, 8, 3) and sample.image.dtype == np.uint8
    assert sample.labels is not None
    assert np.unique(sample.labels).tolist() == [0, 2, 255]
    assert [FolderData(folder_root, "val")[0].name] == ["v1"]


@pytest.mark.parametrize(
    ("file", "content", "classes"),
    [
        ("classes.json", '["sky", "road", "car"]', ("sky", "road", "car")),
        ("classes.txt", "sky\nroad\n\ncar\n", ("sky", "road", "car")),
    ],
)
def test_other_class_lists(folder_root, file, content, classes):
    (folder_root / "classes.json").unlink()
    (folder_root / file).write_text(content)
    assert FolderData(folder_root, "val").classes == classes


def test_own_class_names(folder_root):
    assert FolderData(folder_root, "val", classes=["a", "b", "c"]).classes == ("a", "b", "c")
    message = refusal(folder_root, classes=["a", "b"])
    assert "classes names 2 classes, but the list in" in message and "has 3: sky, road, car" in message
    (folder_root / "classes.json").unlink()
    assert FolderData(folder_root, "val", classes=["a ", "b", "c"]).classes == ("a", "b", "c")
    assert "classes: must be a list of class names, none empty; it is abc" in refusal(folder_root, classes="abc")
    assert "classes: must be a list of class names, none empty; it is 5" in refusal(folder_root, classes=5)
    assert "classes: class names stand twice: a" in refusal(folder_root, classes=["a", "b", "a"])


def test_own_names_keep_the_ignored_value_of_the_list(folder_root, grey):
    (folder_root / "classes.json").write_text('{"classes": ["sky", "road", "car"], "ignore_index": 9}')
    labels = np.full((6, 8), 9, dtype=np.uint8)
    grey(folder_root / "labels/val/v1.png", labels)
    for options in ({"classes": ["a", "b", "c"]}, {}):
        assert (FolderData(folder_root, "val", **options)[0].labels == 255).all()
    with pytest.raises(UsageError, match=r"label 9 at row 0, column 0 is outside .* ignored: 7"):
        FolderData(folder_root, "val", ignore_index=7)[0]
    assert "ignore_index: ignore_index is 300; it must be 0..255" in refusal(folder_root, ignore_index=300)


def test_frames_of_one_sub_folder_resemble_each_other(tmp_path, grey, picture):
    for name in ("seq1/a", "seq1/b", "lone"):
        picture(tmp_path / f"images/train/{name}.jpg")
        grey(tmp_path / f"labels/train/{name}.png", np.zeros((6, 8), dtype=np.uint8))
    samples = FolderData(tmp_path, "train", classes=["all"])
    groups = {samples[place].name: samples[place].group for place in range(3)}
    assert groups == {"seq1/a": "seq1", "seq1/b": "seq1", "lone": None}


def test_notes_beside_the_data_are_no_split(tmp_path, grey, picture):
    picture(tmp_path / "images/a.jpg")
    grey(tmp_path / "labels/a.png", np.zeros((6, 8), dtype=np.uint8))
    for name in ("README.txt", "LICENSE.txt", "classes.txt"):
        (tmp_path / name).write_text("all")
    assert len(FolderData(tmp_path, "train")) == 1


def test_another_ignored_value_becomes_255(folder_root, grey, picture):
    (folder_root / "classes.json").write_text('{"classes": ["sky", "road"], "ignore_index": 2}')
    labels = np.array([[0, 2], [1, 2]], dtype=np.uint8)
    picture(folder_root / "images/val/v1.jpg", 2, 2)
    grey(folder_root / "labels/val/v1.png", labels)
    read = FolderData(folder_root, "val")[0].labels
    assert read is not None and read.tolist() == [[0, 255], [1, 255]]


def test_without_split_folders(tmp_path, grey, picture):
    for name in ("a", "b"):
        picture(tmp_path / f"images/{name}.jpg")
        grey(tmp_path / f"labels/{name}.png", np.zeros((6, 8), dtype=np.uint8))
    picture(tmp_path / "images/.hidden.jpg")
    (tmp_path / "classes.txt").write_text("one")
    assert [pair[0] for pair in FolderData(tmp_path, "train").pairs] == ["a", "b"]
    (tmp_path / "val.txt").write_text("b")
    assert [pair[0] for pair in FolderData(tmp_path, "val").pairs] == ["b"]
    with pytest.raises(UsageError, match=r"no split 'train'; there are: val"):
        FolderData(tmp_path, "train")


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        FolderData(root, split, **options)
    return str(error.value)


def test_wrong_folders(folder_root, tmp_path):
    assert "no split 'dev'; there are: train, val" in refusal(folder_root, "dev")
    assert "no folder images/" in refusal(tmp_path)
    (folder_root / "classes.json").unlink()
    assert "looked for classes.json and classes.txt. Add one, or give the names" in refusal(folder_root)
    (folder_root / "classes.txt").write_bytes(b"\xff\xfe")
    assert "classes.txt: not UTF-8 text (byte 0)" in refusal(folder_root)
    assert "unpaired='keep'; choose error or skip" in refusal(folder_root, unpaired="keep")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "classes.json: not JSON"),
        ('{"labels": []}', 'classes.json: must be a list of class names, or {"classes": [names]}'),
        ("7", "classes.json: must be a list of class names, none empty; it is 7"),
        ('["a", 3]', "must be a list of class names"),
        ('["a", " "]', "must be a list of class names, none empty"),
        ('{"classes": ["a"], "ignore_index": true}', "ignore_index is True"),
        ('["a", "b", "a"]', "stand twice: a"),
        ('{"classes": ["a"], "ignore_index": 256}', "ignore_index is 256"),
        ("[]", "0 classes"),
        (str([f"c{n}" for n in range(255)]).replace("'", '"'), "255 classes; 8-bit labels hold 1 to 254"),
    ],
)
def test_wrong_class_lists(folder_root, content, message):
    (folder_root / "classes.json").write_text(content)
    assert message in refusal(folder_root)


def test_unpaired_files_are_named(folder_root, grey, picture):
    picture(folder_root / "images/val/lone.jpg")
    grey(folder_root / "labels/val/orphan.png", np.zeros((6, 8), dtype=np.uint8))
    message = refusal(folder_root, "val")
    assert "2 val samples lack a file" in message
    assert "lone: no labels/val/lone.png (or .tif, .tiff, .bmp)" in message and "orphan: no image" in message
    samples = FolderData(folder_root, "val", unpaired="skip")
    assert len(samples) == 1 and len(samples.unpaired) == 2


def test_listed_files_must_exist(folder_root):
    (folder_root / "train.txt").write_text("b2\ngone\n")
    assert "gone: no image" in refusal(folder_root)
    (folder_root / "train.txt").write_text("b2\nb2\n")
    assert "train.txt: 1 names stand twice" in refusal(folder_root)
    (folder_root / "train.txt").write_text("\n")
    assert "train.txt: the list has no name; the train split is empty" in refusal(folder_root)
    (folder_root / "train.txt").write_bytes(b"b2\n\xff")
    assert "train.txt: not UTF-8 text (byte 3)" in refusal(folder_root)


def test_same_name_twice(folder_root, picture):
    picture(folder_root / "images/val/v1.png")
    assert "have the same name" in refusal(folder_root, "val")


def test_split_without_pairs(folder_root):
    for kind in ("images", "labels"):
        next((folder_root / kind / "val").iterdir()).unlink()
    assert "the val split has no sample with all its files" in refusal(folder_root, "val")


def test_label_of_another_size(folder_root, grey):
    grey(folder_root / "labels/val/v1.png", np.zeros((6, 7), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"v1\.png: label size 7x6 differs from the image's 8x6 \(.*v1\.jpg\)"):
        FolderData(folder_root, "val")[0]


def test_label_outside_the_class_list(folder_root, grey):
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[2, 5] = 3
    grey(folder_root / "labels/val/v1.png", labels)
    with pytest.raises(UsageError, match=r"v1\.png: label 3 at row 2, column 5 is outside .*\(0\.\.2, ignored: 255\)"):
        FolderData(folder_root, "val")[0]


def test_camvid(test_data):
    for split, count in (("train", 367), ("val", 101), ("test", 233)):
        samples = FolderData(test_data / "camvid", split)
        assert len(samples) == count and len(samples.classes) == 11
        labels = samples[count - 1].labels
        assert labels is not None and labels.shape == (360, 480)
