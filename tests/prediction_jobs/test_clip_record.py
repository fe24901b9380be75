"""What becomes of a clip's outputs where the clip changed, another run is at them, or they are somebody else's."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from clip_jobs import job_of, stopped_after
from vpd.errors import UsageError
from vpd.files.lock import only_run_in
from vpd.prediction_jobs.clip_record import ClipRecord

pytestmark = pytest.mark.extras
small_clips = pytest.importorskip("small_clips", reason="PyAV is not installed: pip install 'vpd-perception[video]'")


def video_of(path: Path, count: int) -> Path:
    return small_clips.write_clip(path, small_clips.level_frames(count))


def pictures_of(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the lock's, by their paths."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", [video_of, pictures_of])
@pytest.mark.parametrize("stop", [4, 99])
def test_a_clip_whose_times_changed_and_not_its_content_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: object, stop: int
):
    clip, out = kind(tmp_path / "a.mp4", 9), tmp_path / "out"
    done = stopped_after(job_of(clip, out), stop)
    for path in (clip, *clip.glob("*.png")):
        path.chmod(0o750)
        os.utime(path, (1e9, 1e9))
    for _ in range(2):  # the first remembers the new times where it writes
        again = job_of(clip, out)
        assert again.record.is_complete == (done == 9) and again.num_done == done % 9
    assert len(list(again.run())) == 9 - done and again.record.is_complete
    assert caplog.records == []


@pytest.mark.parametrize("kind", [video_of, pictures_of])
def test_a_clip_that_changed_begins_anew_and_leaves_nothing_of_what_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: object
):
    clip, out = kind(tmp_path / "a.mp4", 9), tmp_path / "out"
    name = "a" if clip.is_file() else "a.mp4"
    assert len(list(job_of(clip, out).run())) == 9
    (out / f"{name}.frames" / "notes.txt").write_text("mine")
    before = contents(out)
    for path in clip.glob("*.png"):
        path.unlink()
    kind(clip, 3)
    job = job_of(clip, out)
    assert (job.num_done, job.record.is_complete) == (0, False)
    assert contents(out) == before and caplog.records == []  # nothing is removed before the run has the lock
    with caplog.at_level(logging.WARNING):
        assert len(list(job.run())) == 3
    assert [record.getMessage() for record in caplog.records if "begins anew" in record.getMessage()]
    data = [f"{name}.frames/{number:06d}.png" for number in range(3)]
    others = [f"{name}.frames/{each}" for each in ("clip.json", "frames.jsonl", "key.png", "notes.txt")]
    assert sorted(contents(out)) == sorted([*data, *others, f"{name}.overlay.mp4"])


def test_a_record_of_an_early_version_is_of_the_same_pictures(tmp_path: Path):
    clip, out = pictures_of(tmp_path / "shots", 4), tmp_path / "out"
    stopped_after(job_of(clip, out), 2)
    path, digest = out / "shots.frames" / "clip.json", hashlib.blake2b(digest_size=16)
    for picture in sorted(clip.iterdir()):
        digest.update(f"{picture} {picture.stat().st_size} {picture.stat().st_mtime_ns}\n".encode())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source_state": {"pictures": digest.hexdigest()}}))
    assert job_of(clip, out).num_done == 2 and len(list(job_of(clip, out).run())) == 2
    Image.new("RGB", (16, 16), "red").save(clip / "1.png")
    assert job_of(clip, out).num_done == 0 and not job_of(clip, out).record.is_complete


def test_a_picture_that_changed_and_kept_its_size_and_time_is_noticed(tmp_path: Path):
    clip, out = pictures_of(tmp_path / "shots", 4), tmp_path / "out"
    stopped_after(job_of(clip, out), 2)
    found, image = (clip / "1.png").stat(), (clip / "1.png").read_bytes()
    (clip / "1.png").write_bytes(image[:-1] + b"\0")
    os.utime(clip / "1.png", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert job_of(clip, out).num_done == 0


def test_pictures_after_those_that_are_taken_do_not_count(tmp_path: Path):
    clip, out = pictures_of(tmp_path / "shots", 4), tmp_path / "out"
    stopped_after(job_of(clip, out, frames=3), 2)
    pictures_of(tmp_path / "more", 6).joinpath("5.png").rename(clip / "5.png")
    assert job_of(clip, out, frames=3).num_done == 2


def test_a_run_killed_while_it_removes_what_is_outdated_does_so_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clip, out = video_of(tmp_path / "a.mp4", 9), tmp_path / "out"
    stopped_after(job_of(clip, out), 7)
    video_of(clip, 4)
    with monkeypatch.context() as patch:
        patch.setattr(ClipRecord, "_remove_outputs", lambda record: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            list(job_of(clip, out).run())
    again = job_of(clip, out)
    assert again.num_done == 0 and len(list(again.run())) == 4
    assert not (out / "a.frames" / "000005.png").exists()


def test_what_another_run_did_since_the_job_was_made_is_gone_on_with(tmp_path: Path):
    clip, out = video_of(tmp_path / "a.mp4", 9), tmp_path / "out"
    early, late = job_of(clip, out), job_of(clip, out)
    assert stopped_after(job_of(clip, out), 4) == 4
    assert stopped_after(early, 3) == 3 and early.num_done == 4
    assert job_of(clip, out).num_done == 7
    assert len(list(job_of(clip, out).run())) == 2
    assert list(late.run()) == [] and late.record.is_complete
    assert json.loads((out / "a.frames" / "clip.json").read_text())["told"]["predicted"] == 9


def test_a_clip_that_another_run_is_at_is_refused_and_left_as_it_is(tmp_path: Path):
    clip, out = video_of(tmp_path / "a.mp4", 5), tmp_path / "out"
    stopped_after(job_of(clip, out), 2)
    video_of(clip, 6)
    before = contents(out)
    with only_run_in(out / "a.frames"), pytest.raises(UsageError, match="A run is under way"):
        list(job_of(clip, out).run())
    assert contents(out) == before


@pytest.mark.parametrize("theirs", ["a.frames/000000.png", "a.frames/clips/x.txt", "a.overlay.mp4", "a.frames"])
def test_what_no_record_tells_of_is_not_written_over(tmp_path: Path, theirs: str):
    clip, out = video_of(tmp_path / "a.mp4", 3), tmp_path / "out"
    (out / theirs).parent.mkdir(parents=True)
    (out / theirs).write_text("mine")
    with pytest.raises(UsageError, match="may be yours. Give another --out"):
        job_of(clip, out)
    assert contents(out) == {theirs: b"mine"}
    shutil.rmtree(out)
    job = job_of(clip, out)
    (out / theirs).parent.mkdir(parents=True)
    (out / theirs).write_text("mine")  # while others are predicted
    with pytest.raises(UsageError, match="may be yours. Give another --out"):
        list(job.run())
    assert contents(out) == {theirs: b"mine"}


def test_what_a_run_left_that_was_killed_as_it_began_is_no_hindrance(tmp_path: Path):
    clip, folder = video_of(tmp_path / "a.mp4", 3), tmp_path / "out" / "a.frames"
    folder.mkdir(parents=True)
    for name in (".lock", ".tmp-0123.json"):
        (folder / name).touch()
    assert len(list(job_of(clip, tmp_path / "out").run())) == 3


def test_a_video_that_was_removed_is_made_again(tmp_path: Path):
    clip, out = video_of(tmp_path / "a.mp4", 3), tmp_path / "out"
    assert len(list(job_of(clip, out).run())) == 3
    (out / "a.overlay.mp4").unlink()
    assert len(list(job_of(clip, out).run())) == 3 and (out / "a.overlay.mp4").exists()
    assert job_of(clip, out).record.is_complete


@pytest.mark.parametrize("pattern", ["", "**/*.png", "*/*.png"])
def test_outputs_inside_the_folder_of_frames_are_no_frames(tmp_path: Path, pattern: str):
    pictures_of(tmp_path / "frames" / "day", 5)
    out = tmp_path / "frames" / "out"
    pictures_of(out, 2)  # as of an earlier run
    for _ in range(2):
        job = job_of(tmp_path / "frames" / pattern, out)
        list(job.run())
        assert job.record.told["frames"] == 5
    with pytest.raises(UsageError, match="holds the frames and cannot take the output"):
        list(job_of(tmp_path / "frames" / pattern, tmp_path / "frames").run())
