import logging
import pickle
import shutil

import pytest

from data_layouts import write_ade20k, write_cityscapes, write_kitti, write_nyu
from vpd.datasets.folders import FolderData
from vpd.datasets.layouts import LAYOUTS, detect_format, open_data, splits_of
from vpd.datasets.nyu import NyuDepth
from vpd.datasets.refer import ReferData
from vpd.errors import UsageError


def test_the_layout_is_detected_and_said(folder_root, nyu_root, refer_root, caplog):
    caplog.set_level(logging.INFO)
    assert isinstance(open_data(folder_root, "segment"), FolderData)
    assert isinstance(open_data(nyu_root, "depth", split="test"), NyuDepth)
    assert isinstance(open_data(refer_root, "refer", split="val"), ReferData)
    told = [message.split(": ")[1] for message in caplog.messages]
    assert [words for words in told if "layout" in words] == ["folder layout", "nyu layout", "refcoco layout"]
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
    assert "no data set for depth. Found: " in str(error.value) and " Looked for:\n" in str(error.value)
    assert "nyu: sync/ or official_splits/" in str(error.value)
    assert "Found: classes.json, images, labels, train.txt. It looks like folder, which is for segment" in str(
        error.value
    )
    with pytest.raises(UsageError, match="Found: nothing"):
        (tmp_path / "hollow").mkdir()
        detect_format(tmp_path / "hollow")
    with pytest.raises(UsageError, match="format 'nyu' is not for segment; choose one of: .*ade20k"):
        open_data(nyu_root, "segment", format="nyu")
    shutil.copytree(refer_root / "refcoco", refer_root / "refcocog")
    with pytest.raises(UsageError, match=r"several layouts fit: refcoco, refcocog\. Choose one with --format"):
        open_data(refer_root, "refer")


def test_benchmarks_are_told_apart(tmp_path):
    roots = {
        "ade20k": write_ade20k(tmp_path / "a"),
        "cityscapes": write_cityscapes(tmp_path / "c", width=32, height=16),
        "kitti": write_kitti(tmp_path / "k"),
    }
    for name, root in roots.items():
        assert [other for other, layout in LAYOUTS.items() if layout.is_here(root)] == [name]
        assert detect_format(root, LAYOUTS[name].tasks[0]) == name
    assert splits_of(roots["ade20k"], "ade20k") == ["train", "val"]
    assert splits_of(roots["cityscapes"], "cityscapes") == ["train", "val"]  # the labels of test are dummies
    assert splits_of(roots["kitti"], "kitti") == ["train", "test"]
    (roots["kitti"] / "train_list.txt").unlink()
    assert splits_of(roots["kitti"], "kitti") == ["test"]
    assert len(open_data(roots["kitti"], "depth", split="test", crop="eigen")) == 4
    with pytest.raises(
        UsageError, match=r"unknown option of the kitti layout: crops\. Known: list_file, kb_crop, crop,"
    ):
        open_data(roots["kitti"], "depth", split="test", crops="eigen")


def test_data_sets_can_be_handed_to_other_processes(folder_root, nyu_root, refer_root, tmp_path):
    sets = [
        open_data(folder_root, "segment"),
        open_data(nyu_root, "depth", split="test"),
        open_data(refer_root, "refer", split="val"),
        open_data(write_ade20k(tmp_path / "a"), "segment"),
        open_data(write_cityscapes(tmp_path / "c", width=32, height=16), "segment"),
        open_data(write_kitti(tmp_path / "k"), "depth", split="test"),
    ]
    for samples in sets:
        copy = pickle.loads(pickle.dumps(samples))
        assert len(copy) == len(samples) and copy[0].name == samples[0].name
        assert (copy[0].image == samples[0].image).all()


def test_hidden_copies_are_no_samples_of_benchmarks(tmp_path):
    """Jupyter's copies and what macOS packs beside files, wherever pictures lie."""
    roots = {
        "ade20k": write_ade20k(tmp_path / "a"),
        "cityscapes": write_cityscapes(tmp_path / "c", width=32, height=16),
        "nyu": write_nyu(tmp_path / "n"),
    }
    for path in roots["nyu"].glob("*_list.txt"):
        path.unlink()
    for name, root in roots.items():
        before = {split: len(open_data(root, None, format=name, split=split)) for split in splits_of(root, name)}
        folders = {path.parent for path in root.rglob("*.*") if path.suffix in (".jpg", ".png")}
        for folder in folders:
            shutil.copytree(folder, folder / ".ipynb_checkpoints")
            shutil.copytree(folder, folder.parent / "__MACOSX" / folder.name, dirs_exist_ok=True)
            for path in [path for path in folder.iterdir() if path.is_file()]:
                shutil.copy(path, folder / f"._{path.name}")
        after = {split: len(open_data(root, None, format=name, split=split)) for split in splits_of(root, name)}
        assert after == before and all(before.values()), name


def test_linked_cities_count(tmp_path):
    root = write_cityscapes(tmp_path / "c", width=32, height=16)
    before = len(open_data(root, "segment"))
    for kind in ("leftImg8bit", "gtFine"):
        (root / kind / "train/bochum").rename(tmp_path / f"{kind}_elsewhere")
        (root / kind / "train/bochum").symlink_to(tmp_path / f"{kind}_elsewhere")
    assert len(open_data(root, "segment")) == before == 4
