import pickle
from pathlib import Path

import numpy as np
import pytest

from tar_archives import LABELS, colours, write, write_shards
from vpd.datasets.check import check_data
from vpd.datasets.layouts import detect_format, open_data
from vpd.datasets.shard_index import shard_files
from vpd.datasets.shards import ShardData
from vpd.errors import UsageError

DEPTH_MM = np.full((6, 8), 1500, dtype=np.uint16)
RUNS = {"size": [6, 8], "counts": [0, 6, 42]}


@pytest.fixture
def root(tmp_path) -> Path:
    return write_shards(tmp_path / "shards")


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        ShardData(root, split, **options)
    return str(error.value)


def test_labels_of_several_archives(root):
    samples = ShardData(root, "train")
    assert (samples.parts, samples.classes, samples.scenes) == (("labels",), ("sky", "line"), ())
    names = [samples[place].name for place in range(len(samples))]
    assert names == ["train-000000/0001", "train-000000/sub/0002", "train-000001/0001"]
    assert np.array_equal(samples[1].image, colours(2)) and np.array_equal(samples[2].labels, LABELS)
    again = pickle.loads(pickle.dumps(samples))
    assert np.array_equal(again[0].image, colours(1)), "as workers read it"


def test_depth_with_and_without_scenes(tmp_path):
    write(tmp_path / "train/0.tar", {"a": {"webp": colours(1), "depth.png": DEPTH_MM, "json": {"scene": "attic "}}})
    write(tmp_path / "train/1.tar", {"b": {"jpg": colours(2), "depth.png": DEPTH_MM, "json": {"scene": None}}})
    samples = ShardData(tmp_path, "train", max_depth_m=20)
    assert (samples.parts, samples.scenes, samples.counted.max_depth_m) == (("depth",), ("attic",), 20)
    assert [samples[place].scene for place in range(2)] == ["attic", None] and (samples[1].depth_m == 1.5).all()
    write(tmp_path / "val/0.tar", {"a": {"png": colours(1), "depth.npy": np.full((6, 8), 2.5, dtype=np.float32)}})
    samples = ShardData(tmp_path, "val")
    assert samples.scenes == ("scene",) and (samples[0].depth_m == 2.5).all()


def test_expressions_from_text_and_json(tmp_path):
    parts = {"jpg": colours(1), "mask.png": LABELS * 255}
    write(tmp_path / "train-0.tar", {"a": {**parts, "txt": "the line\n\nчерта\n"}})
    write(tmp_path / "val-0.tar", {"a": {**parts, "json": {"expressions": ["the line", "diagonal"]}}})
    write(tmp_path / "test-0.tar", {"a": {"jpg": colours(1), "json": {"expression": "left edge", "mask": RUNS}}})
    train, val, test = (ShardData(tmp_path, split) for split in ("train", "val", "test"))
    assert (train.parts, train[0].texts) == (("mask",), ("the line", "черта"))
    assert np.array_equal(train[0].mask, LABELS.astype(bool))
    assert [(val[place].name, val[place].texts, val[place].group) for place in range(2)] == [
        ("val-0/a_0", ("the line",), "val-0/a"),
        ("val-0/a_1", ("diagonal",), "val-0/a"),
    ]
    assert len(ShardData(tmp_path, "val", per_sentence=False)) == 1
    assert test[0].mask[:, 0].all() and test[0].mask.sum() == 6


def test_splits_and_detection(root, tmp_path):
    write(root / "val/00000.tar", {"a": {"png": colours(1), "labels.png": LABELS}})
    (root / "sync.tar").touch()
    assert {split: len(files) for split, files in shard_files(root).items()} == {"train": 2, "val": 1}
    assert detect_format(root, "segment") == "shards" and len(open_data(root, "segment")) == 3
    with pytest.raises(UsageError, match="its train split is for segment, not for depth"):
        open_data(root, "depth")
    report = check_data("shards", root)
    assert report.problems == [] and {split.split for split in report.splits} == {"train", "val"}
    assert "no split 'test'; looked for test-000000.tar" in refusal(root, "test")
    assert "Splits there: train, val" in refusal(root, "test")
    write(root / "val-0.tar", {"a": {"png": colours(1), "labels.png": LABELS}})
    assert "has both val-*.tar and val/*.tar; which are meant?" in refusal(root, "val")


def test_samples_that_lack_a_file(root):
    parts = {"png": colours(1), "labels.png": LABELS}
    write(root / "train-000001.tar", {"a": parts, "b": {"png": colours(1)}, "c": {"labels.png": LABELS}, "d": parts})
    message = refusal(root)
    assert "2 train samples lack a file. First: train-000001/b: no labels; train-000001/c: no image" in message
    samples = ShardData(root, "train", unpaired="skip")
    assert len(samples) == 4 and len(samples.unpaired) == 2
    assert len([line for line in check_data("shards", root).problems if "no labels" in line]) == 1
    assert "unpaired='keep'; choose error or skip" in refusal(root, unpaired="keep")


def test_archives_that_teach_nothing(tmp_path):
    write(tmp_path / "train-0.tar", {"a": {"png": colours(1), "cls": b"1"}})
    assert "the samples of train have image; needed beside an image: labels.png" in refusal(tmp_path)
    write(tmp_path / "train-0.tar", {"a": {"txt": "words"}})
    assert "the train split has no sample with all its files" in refusal(tmp_path)
    write(tmp_path / "train-0.tar", {})
    assert "no sample with all its files" in refusal(tmp_path)


REFER = {"jpg": colours(1), "mask.png": LABELS}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({**REFER, "txt": "\n \n"}, "a, txt: expressions must be a text or a list of texts, and at least one"),
        ({**REFER, "txt": b"\xff"}, r"a, txt: not UTF-8 text \(byte 0\)"),
        ({**REFER, "json": {"expressions": [""]}}, "a, json: expression 1 of 1 is ''"),
        ({**REFER, "json": {}}, "a, json: expressions must be a text"),
        ({**REFER, "json": []}, "a, json: must be an object"),
        ({**REFER, "json": b"{"}, "a, json: not JSON"),
        ({"jpg": colours(1), "json": {"mask": "a.png", "expressions": "x"}}, "a, json: 'mask' must be polygons or run"),
        (
            {"jpg": colours(1), "json": {"mask": {"size": [8, 6], "counts": [48]}, "expressions": "x"}},
            "run lengths are",
        ),
        ({"jpg": colours(1), "depth.png": DEPTH_MM, "json": {"scene": 3}}, "a, json: 'scene' is 3; it must be a text"),
        ({"jpg": colours(1), "depth.png": DEPTH_MM.astype(np.uint8)}, "a, depth: depth needs one channel of 16 bits"),
        ({"jpg": b"GIF89a", "depth.png": DEPTH_MM}, "a, image: holds GIF"),
        ({"jpg": colours(1), "depth.png": DEPTH_MM[:5]}, "a, depth: depth size 8x5 differs from the image's 8x6"),
    ],
)
def test_wrong_content_names_archive_and_key(tmp_path, parts, message):
    write(tmp_path / "train-0.tar", {"a": parts})
    with pytest.raises(UsageError, match=rf"train-0\.tar, {message}" if message[:3] == "a, " else message):
        ShardData(tmp_path, "train")[0]


def test_what_webdataset_writes(tmp_path):
    wds = pytest.importorskip("webdataset", reason="archives written by webdataset itself")
    with wds.ShardWriter(f"{tmp_path}/train-%06d.tar", maxcount=2, verbose=0) as writer:
        for place in range(5):
            writer.write({"__key__": f"{place:04d}", "png": colours(place), "seg.png": LABELS, "json": {"scene": "x"}})
    (tmp_path / "classes.txt").write_text("sky\nline\n")
    samples = ShardData(tmp_path, "train")
    assert len(samples) == 5 and len(samples.index.shards) == 3
    theirs = wds.WebDataset(sorted(str(path) for path in tmp_path.glob("*.tar")), shardshuffle=False)
    for place, sample in enumerate(theirs.decode("rgb8")):
        assert samples[place].name.endswith(sample["__key__"])
        assert np.array_equal(samples[place].image, sample["png"]) and np.array_equal(samples[place].labels, LABELS)
