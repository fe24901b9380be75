import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tar_archives import LABELS, colours, write, write_shards
from vpd.datasets import shard_index as indexing
from vpd.datasets.shard_index import build_index
from vpd.datasets.shards import ShardData
from vpd.errors import UsageError


@pytest.fixture
def root(tmp_path) -> Path:
    return write_shards(tmp_path / "shards")


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        ShardData(root, split, **options)
    return str(error.value)


def test_the_index_is_kept_and_made_anew_when_archives_change(root, monkeypatch):
    before = ShardData(root, "train")
    kept = root / ".vpd-index-train.npz"
    assert kept.is_file() and len(list(root.iterdir())) == 4, "no unfinished file is left"
    with monkeypatch.context() as patch:
        patch.setattr(indexing.tarfile, "open", lambda *_, **__: pytest.fail("the archives were read again"))
        again = ShardData(root, "train")
    assert np.array_equal(again.index.places, before.index.places) and again.index.name(1) == before.index.name(1)
    path = write(root / "train-000001.tar", {"0009": {"jpg": colours(3), "labels.png": LABELS}})
    os.utime(path, ns=(1, 1))
    assert ShardData(root, "train")[2].name == "train-000001/0009"


@pytest.mark.parametrize("damage", ["torn", "other", "wrong shapes", "wrong shard", "names", "places", "bomb"])
def test_a_damaged_index_is_made_anew(root, damage):
    names = [ShardData(root, "train")[place].name for place in range(3)]
    kept = root / ".vpd-index-train.npz"
    with np.load(kept) as stored:
        arrays = dict(stored)
    if damage == "torn":
        kept.write_bytes(kept.read_bytes()[:300])
    elif damage == "other":
        kept.write_bytes(pickle.dumps(["not", "ours"]))
    elif damage == "bomb":
        np.savez_compressed(kept, **{**arrays, "keys": np.zeros(10**6, dtype=np.bytes_)})
    else:
        wrong = {
            "wrong shard": {"shard_of": arrays["shard_of"] + 5},
            "wrong shapes": {"shard_of": arrays["shard_of"][:1]},
            "names": {"keys": np.array([b"../../x"] * 3)},
            "places": {"places": arrays["places"] - 5},
        }
        np.savez(kept, **{**arrays, **wrong[damage]})
    assert [ShardData(root, "train")[place].name for place in range(3)] == names


def test_a_folder_that_cannot_be_written(root, monkeypatch, caplog):
    root.chmod(0o555)
    assert len(ShardData(root, "train")) == 3 and not (root / ".vpd-index-train.npz").exists()
    root.chmod(0o755)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(indexing.np, "savez", full)
    caplog.set_level("INFO")
    assert len(ShardData(root, "train")) == 3
    assert "The index of the archives is not kept" in caplog.text and len(list(root.iterdir())) == 3


def test_an_archive_that_shrinks_after_indexing(root):
    samples = ShardData(root, "train")
    path = root / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(UsageError, match=r"train-000000\.tar, sub/0002, image: cut short; the archive has changed"):
        samples[1]
    path.unlink()
    with pytest.raises(UsageError, match=r"train-000000\.tar, sub/0002, image: cannot be read \(No such file"):
        samples[1]


# Damaged and hostile archives


def test_torn_archives(root):
    path = root / "train-000000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:700])
    assert "train-000000.tar: damaged; 0001.png would end at byte" in refusal(root)
    path.write_bytes(b"")
    assert "train-000000.tar: not a whole tar archive" in refusal(root)
    path.write_bytes(b"x" * 2000)
    assert "train-000000.tar: not a whole tar archive" in refusal(root)
    second = whole.index(b"0001.labels.png")
    path.write_bytes(whole[:second] + b"\xff" * 512 + whole[second + 512 :])
    assert f"train-000000.tar: damaged after byte {second:,}; write or download it anew" in refusal(root)


def hostile(path: Path, **fields: Any) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("a.png")
        for name, value in fields.items():
            setattr(member, name, value)
        archive.addfile(member)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 10**12}, "damaged; a.png would end at byte 1,000,000,000,512 of"),
        ({"size": -512}, "damaged; a.png would end at byte 0 of"),
        ({"name": "../a.png"}, "'../a' cannot be the name of a sample"),
        ({"name": "/a.png"}, "'/a' cannot be the name of a sample"),
        ({"name": "a\nb.png"}, "cannot be the name of a sample"),
        ({"name": "a" * 2000 + ".png"}, "cannot be the name of a sample"),
    ],
)
def test_headers_are_not_trusted(tmp_path, fields, message):
    hostile(tmp_path / "train-0.tar", **fields)
    assert message in refusal(tmp_path) and "train-0.tar: " in refusal(tmp_path)


def test_names_that_are_no_text(tmp_path):
    path = write(tmp_path / "train-0.tar", {"abc": {"png": colours(1)}})
    with tarfile.open(path, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("\xff\xfe.png"))
    assert "train-0.tar: not a whole tar archive" in refusal(tmp_path)


def test_large_files_are_refused(root, monkeypatch):
    monkeypatch.setattr(indexing, "_MOST_PICTURE_BYTES", 10)
    assert "train-000000.tar: 0001.png has" in refusal(root) and "bytes; the limit is 10" in refusal(root)


def test_links_and_folders_are_passed_over(root):
    with tarfile.open(root / "train-000000.tar", "a") as archive:
        link = tarfile.TarInfo("evil.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        folder = tarfile.TarInfo("folder.png")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert len(ShardData(root, "train")) == 3


def test_a_key_has_each_part_once(root):
    write(root / "train-000001.tar", {"a": {"png": colours(1), "jpg": colours(1), "labels.png": LABELS}})
    assert "train-000001.tar: a has two files for image; keys must differ within an archive" in refusal(root)


def test_index_of_nothing(tmp_path):
    index = build_index([], tmp_path / "index.npz")
    assert index.keys.shape == (0,) and len(build_index([], tmp_path / "index.npz").keys) == 0
