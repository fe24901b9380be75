import logging
import shutil

import pytest

from vpd.data import check_data, detect_format, open_data
from vpd.data.folder import FolderData
from vpd.data.nyu import NyuDepth
from vpd.data.refer import ReferData
from vpd.errors import UsageError


def test_the_layout_is_detected_and_said(folder_root, nyu_root, refer_root, caplog):
    caplog.set_level(logging.INFO)
    assert isinstance(open_data(folder_root, "segment"), FolderData)
    assert isinstance(open_data(nyu_root, "depth", split="test"), NyuDepth)
    assert isinstance(open_data(refer_root, "refer", split="val"), ReferData)
    assert [message.split(": ")[1] for message in caplog.messages] == ["folder layout", "nyu layout", "refcoco layout"]
    assert [detect_format(root) for root in (folder_root, nyu_root, refer_root)] == ["folder", "nyu", "refcoco"]


def test_options_reach_the_layout(refer_root, folder_root):
    assert len(open_data(refer_root, "refer", format="refcoco", per_sentence=True, overlap="background")) == 4
    assert open_data(folder_root, "segment", classes=("a", "b", "c")).classes == ("a", "b", "c")
    with pytest.raises(UsageError, match=r"unknown option of the folder layout: overlap\. Known: classes, unpaired"):
        open_data(folder_root, "segment", overlap="union")


def test_wrong_folders(folder_root, nyu_root, refer_root, tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        open_data(tmp_path / "gone", "segment")
    with pytest.raises(UsageError) as error:
        open_data(folder_root, "depth")
    assert "no data set for depth. Looked for nyu: sync/ or official_splits/" in str(error.value)
    assert "Found: classes.json, images, labels, train.txt. It looks like folder, which is for segment" in str(
        error.value
    )
    with pytest.raises(UsageError, match="Found: nothing"):
        (tmp_path / "hollow").mkdir()
        detect_format(tmp_path / "hollow")
    with pytest.raises(UsageError, match="format 'nyu' is not for segment; choose one of: folder"):
        open_data(nyu_root, "segment", format="nyu")
    shutil.copytree(refer_root / "refcoco", refer_root / "refcocog")
    with pytest.raises(UsageError, match=r"several layouts fit: refcoco, refcocog\. Choose one with --format"):
        open_data(refer_root, "refer")


# Checking


def test_a_good_folder(folder_root):
    report = check_data("folder", folder_root)
    assert report.problems == []
    train = next(split for split in report.splits if split.split == "train")
    assert train.samples == 2 and train.sizes == {(6, 8): 2}
    assert train.pixels_of_class == {"sky": 46, "road": 0, "car": 48, "(ignored)": 2}
    assert train.lines()[0] == "train: 2 samples, 0 problems"
    assert "car 50.0 %" in "\n".join(train.lines())


def test_everything_wrong_is_named_once(folder_root, picture):
    picture(folder_root / "images/val/lone.jpg")
    (folder_root / "labels/train/b2.png").write_text("text")
    (folder_root / "images/train/b10.jpg").write_bytes(b"")
    problems = check_data("folder", folder_root).problems
    assert len(problems) == 3
    for name in ("lone: no label", "labels/train/b2.png: not an image", "images/train/b10.jpg: the file is empty"):
        assert sum(name in problem for problem in problems) == 1


def test_content_that_teaches_nothing(folder_root, nyu_root, refer_root, grey, edit_json):
    import numpy as np

    grey(folder_root / "labels/val/v1.png", np.full((6, 8), 255, dtype=np.uint8))
    assert check_data("folder", folder_root).problems == ["val/v1: every pixel is ignored"]
    grey(nyu_root / "sync/study_room_0004/sync_depth_00045.png", np.zeros((6, 8), dtype=np.uint16))
    assert check_data("nyu", nyu_root).problems == ["train/study_room_0004/rgb_00045: no pixel has a depth"]
    edit_json(
        refer_root / "refcoco/instances.json",
        lambda content: content["annotations"][2].update(segmentation=[[20, 0, 24, 0, 24, 4]]),
    )
    assert check_data("refcoco", refer_root).problems == ["val/ref_3: the mask is empty"]


def test_depth_and_referring_figures(nyu_root, refer_root):
    train = check_data("nyu", nyu_root).splits[0]
    assert train.depth_m == pytest.approx((1.045, 1.046)) and train.scenes == {"study": 1, "kitchen": 1}
    assert "depth: 1.045 to 1.046 m; measured: 97.9 % of pixels" in "\n".join(train.lines())
    splits = {split.split: split for split in check_data("refcoco", refer_root).splits}
    assert (splits["train"].samples, splits["train"].sentences, splits["train"].longest_words) == (2, 4, 6)
    assert "sentences: 4, the longest of 6 words" in "\n".join(splits["train"].lines())


def test_a_split_that_cannot_be_opened_is_a_problem(refer_root):
    (refer_root / "refcoco/instances.json").write_text("{")
    report = check_data("refcoco", refer_root)
    assert len(report.problems) == 4 and "not JSON" in report.problems[0]


def test_wrong_requests(folder_root, tmp_path):
    with pytest.raises(UsageError, match="unknown data format 'kitti'; choose one of: folder, nyu, refcoco"):
        check_data("kitti", folder_root)
    with pytest.raises(UsageError, match=r"not the nyu layout\. Looked for sync/ or official_splits/\. Found: classes"):
        check_data("nyu", folder_root)
    with pytest.raises(UsageError, match="no such folder"):
        check_data("folder", tmp_path / "gone")


def run(*words: str) -> int:
    from vpd.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["data", "check", *words])
    return int(stop.value.code or 0)


def test_command(folder_root, capfd):
    assert run("folder", str(folder_root)) == 0
    assert "All files are right." in capfd.readouterr().out
    (folder_root / "images/val/v1.jpg").write_bytes(b"\xff\xd8")
    assert run("folder", str(folder_root)) == 1
    captured = capfd.readouterr()
    assert "v1.jpg: " in captured.err and "1 problems." in captured.err and "train: 2 samples" in captured.out
    assert run("nyu", str(folder_root)) == 2
    error = capfd.readouterr().err
    assert error.startswith("vpd: ") and error.count("\n") == 1


def test_camvid_is_right(test_data):
    report = check_data("folder", test_data / "camvid")
    assert {split.split: split.samples for split in report.splits} == {"train": 367, "val": 101, "test": 233}
    assert report.problems == []
