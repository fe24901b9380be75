"""Predicting again: what changed, what was moved, what old manifests say."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from thresholder import Job, Thresholder
from vpd.errors import UsageError
from vpd.files.atomic import read_json_lines
from vpd.files.marks import is_marked
from vpd.prediction_jobs.job import Share
from vpd.prediction_jobs.manifest import MANIFEST
from vpd.prediction_jobs.source_state import SourceState


def write(path: Path, colour: str) -> None:
    """A picture whose size in bytes is the same in all colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), colour).save(path, "bmp")


def pending(photos: Path, out: Path, share: Share | None = None) -> list[str]:
    return Job(Thresholder(), photos, out, share=share).pending()


def is_bright(path: Path) -> bool:
    with Image.open(path) as labels:
        return bool(np.asarray(labels).all())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.bmp", "b.bmp", "sub/a.bmp"):
        write(tmp_path / "photos" / name, "black")
    return tmp_path / "photos"


@pytest.mark.parametrize("keeps_time", [False, True])
def test_a_picture_of_the_same_size_that_changed_is_predicted_anew(photos: Path, tmp_path: Path, keeps_time: bool):
    out = tmp_path / "out"
    Job(Thresholder(), photos, out).finish()
    before = (photos / "a.bmp").stat()
    write(photos / "a.bmp", "white")
    if keeps_time:  # as `cp -p` and archives do
        os.utime(photos / "a.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    again = Job(Thresholder(), photos, out)
    assert again.pending() == ["a"]
    again.finish()
    assert is_bright(out / "a.png") and not is_bright(out / "b.png")
    assert pending(photos, out) == [] and len(read_json_lines(out / MANIFEST)) == 3


def test_only_other_times_are_no_change(photos: Path, tmp_path: Path):
    Job(Thresholder(), photos, tmp_path / "out").finish()
    for path in (photos / "a.bmp", photos / "b.bmp"):
        path.write_bytes(path.read_bytes())
    os.utime(photos / "a.bmp", (0, 0))
    assert pending(photos, tmp_path / "out") == []


def test_what_was_not_touched_is_not_read(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Job(Thresholder(), photos, tmp_path / "out").finish()
    monkeypatch.setattr("vpd.prediction_jobs.source_state._digest", lambda path: pytest.fail(f"{path} was read"))
    assert pending(photos, tmp_path / "out") == []


def test_a_change_that_shards_predicted_counts_over_an_older_line(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    Job(Thresholder(), photos, out).finish()
    write(photos / "b.bmp", "white")
    for number in (1, 2):
        Job(Thresholder(), photos, out, batch_size=1, share=Share(number, 2)).finish()
    assert is_bright(out / "b.png") and pending(photos, out) == []


def test_manifests_of_older_versions_go_by_the_size(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    Job(Thresholder(), photos, out).finish()
    new = ("source_mtime_ns", "source_ctime_ns", "source_blake2b")
    lines = [{key: value for key, value in line.items() if key not in new} for line in read_json_lines(out / MANIFEST)]
    (out / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(photos / "a.bmp", "white")
    assert pending(photos, out) == []
    Image.new("RGB", (9, 9)).save(photos / "a.bmp")
    assert pending(photos, out) == ["a"]
    photos.rename(tmp_path / "elsewhere")  # whether it is the same cannot be told
    assert len(pending(tmp_path / "elsewhere", out)) == 3


@pytest.mark.parametrize("how", ["moved", "copied"])
@pytest.mark.parametrize("shares", [1, 2])
def test_a_folder_that_was_moved_is_known(photos: Path, tmp_path: Path, how: str, shares: int):
    out, moved = tmp_path / "out", tmp_path / "elsewhere" / "pictures"
    write(photos / "a.png", "white")  # its outputs are called a_png
    Job(Thresholder(), photos, out).finish()
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.name != MANIFEST}
    moved.parent.mkdir()
    if how == "moved":
        photos.rename(moved)
    else:
        shutil.copytree(photos, moved)  # with other times
        shutil.rmtree(photos)
    write(moved / "new.bmp", "white")
    for number in range(1, shares + 1):
        job = Job(Thresholder(), moved, out, batch_size=1, share=Share(number, shares) if shares > 1 else None)
        assert all(outcome.source.endswith("new.bmp") for outcome in job.finish())
    assert all(path.read_bytes() == content for path, content in before.items())
    lines = read_json_lines(out / MANIFEST)
    names = ("a.bmp", "a.png", "b.bmp", "new.bmp", "sub/a.bmp")
    assert [line["source"] for line in lines] == [str(moved / name) for name in names]
    assert pending(moved, out) == []
    moved.rename(photos)  # and back
    Job(Thresholder(), photos, out).finish()
    assert pending(photos, out) == [] and len(read_json_lines(out / MANIFEST)) == 5


def test_another_picture_of_the_same_name_takes_nobodys_place(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    Job(Thresholder(), photos, out).finish()
    shutil.rmtree(photos)
    write(tmp_path / "other" / "a.bmp", "white")
    Job(Thresholder(), tmp_path / "other", out).finish()
    (line,) = (line for line in read_json_lines(out / MANIFEST) if "/other/" in line["source"])
    assert not is_bright(out / "a.png") and is_bright(out / line["data"])
    assert len(read_json_lines(out / MANIFEST)) == 4


def test_a_copy_beside_the_first_is_a_picture_of_its_own(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    Job(Thresholder(), photos, out).finish()
    shutil.copytree(photos, tmp_path / "copy")
    assert len(Job(Thresholder(), tmp_path / "copy", out).finish()) == 3
    assert pending(photos, out) == pending(tmp_path / "copy", out) == []


def test_outputs_that_are_gone_are_made_again_where_the_picture_lies_now(photos: Path, tmp_path: Path):
    out, moved = tmp_path / "out", tmp_path / "moved"
    Job(Thresholder(), photos, out).finish()
    photos.rename(moved)
    (out / "a.png").unlink()
    assert len(Job(Thresholder(), moved, out).finish()) == 1
    assert (out / "a.png").is_file() and pending(moved, out) == []
    assert len(read_json_lines(out / MANIFEST)) == 3


@pytest.mark.parametrize("value", [None, 7, "zz", [1]])
def test_a_strange_state_in_a_line_is_none(value: object):
    assert SourceState.of_line({"source_bytes": 5, "source_blake2b": value}) == SourceState(5)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_the_state_of_a_pipe_takes_nothing_out_of_it(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    assert SourceState.of_file(str(tmp_path / "pipe")).digest is None  # nobody writes: reading would wait for ever


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_file_is_written_over_that_no_run_made(photos: Path, tmp_path: Path):
    masks = tmp_path / "masks"
    for name in ("a.png", "sub/a.png"):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 6), 3).save(masks / name)
    (masks / "b.overlay.jpg").symlink_to(photos / "b.bmp")
    (masks / "other.png").mkdir()  # in nobody's way
    before, model = contents(tmp_path), Thresholder()
    with pytest.raises(
        UsageError,
        match=f"^`vpd predict` would write over 3 files that it did not make: {masks}/a.png, {masks}/b.overlay.jpg, "
        f"{masks}/sub/a.png. Give another --out, or move them away.$",
    ):
        Job(model, photos, masks)
    assert contents(tmp_path) == before and model.batches == []
    (masks / "a.png").unlink(), (masks / "b.overlay.jpg").unlink()
    with pytest.raises(UsageError, match=f"would write over 1 file that it did not make: {masks}/sub/a.png. Give"):
        Job(model, photos, masks, share=Share(2, 2))
    Job(model, photos, masks, share=Share(1, 2)).finish()  # its share is a and b
    assert (masks / "sub/a.png").read_bytes() == before["masks/sub/a.png"]


def test_what_a_killed_run_wrote_and_did_not_list_is_its_own(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    Job(Thresholder(), photos, out).finish()
    assert all(is_marked(path) for suffix in ("png", "jpg") for path in out.rglob(f"*.{suffix}"))
    made = contents(out)
    lines = (out / MANIFEST).read_bytes().splitlines(keepends=True)
    for left in (lines[0] + lines[1][:40], lines[0][:5], b""):
        (out / MANIFEST).write_bytes(left)
        assert len(Job(Thresholder(), photos, out).finish()) == 3 - left.count(b"\n")
        assert contents(out) == made
    (out / MANIFEST).unlink()  # as is said of predictions that were made by another model
    Job(Thresholder(weight=2.0), photos, out).finish()
    assert contents(out).keys() == made.keys()


def test_a_prediction_that_was_changed_by_hand_is_no_longer_the_runs(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    Job(Thresholder(), photos, out).finish()
    (out / MANIFEST).unlink()
    with Image.open(out / "a.png") as picture:
        picture.load()
    picture.putpixel((0, 0), 1)
    texts = PngInfo()
    for key, value in picture.info.items():
        texts.add_text(key, value)  # as careful programs keep them, the mark too
    picture.save(out / "a.png", pnginfo=texts)
    with pytest.raises(UsageError, match=f"over 1 file that it did not make: {out}/a.png"):
        Job(Thresholder(), photos, out)


def test_files_of_runs_that_marked_none_count_where_they_are_listed(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    Job(Thresholder(), photos, out).finish()
    for path in (out / "a.png", out / "a.overlay.jpg"):
        with Image.open(path) as picture:
            picture.load()
        picture.info.clear()
        picture.save(path)
        assert not is_marked(path)
    write(photos / "a.bmp", "white")
    Job(Thresholder(), photos, out).finish()
    assert is_bright(out / "a.png") and is_marked(out / "a.png")


@pytest.mark.parametrize("content", ['{"name": "a", "file": "a.png"}\n', "my notes\n", "\n\n[3]\n"])
@pytest.mark.parametrize("name", [MANIFEST, "shards/1-of-2.jsonl"])
def test_a_manifest_of_something_else_is_left_alone(photos: Path, tmp_path: Path, name: str, content: str):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text(content)
    with pytest.raises(UsageError, match=f"{out / name} holds other lines than those of `vpd predict`.*another --out"):
        Job(Thresholder(), photos, out)
    assert contents(out) == {name: content.encode()}
