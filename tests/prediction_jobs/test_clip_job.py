"""Clips that are stopped near their end, in the midst of a batch, or that cannot be had again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from clip_jobs import QuickModel, job_of, stopped_after
from live_camera import LiveCamera
from vpd.prediction_jobs import clip_job
from vpd.prediction_jobs.clip_job import ClipJob
from vpd.prediction_jobs.clip_record import ClipRecord
from vpd.video.frames import Frame, whole

pytestmark = pytest.mark.extras
small_clips = pytest.importorskip("small_clips", reason="PyAV is not installed: pip install 'vpd-perception[video]'")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def number_of_frames(video: Path) -> int:
    with small_clips.av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.mark.parametrize(("count", "stop"), [(9, 2), (40, 28), (5, 4)])
def test_a_clip_stopped_while_its_last_frames_are_under_way_goes_on(tmp_path: Path, count: int, stop: int):
    clip, out = small_clips.write_clip(tmp_path / "a.mp4", small_clips.level_frames(count)), tmp_path / "out"
    job = job_of(clip, out)
    assert stopped_after(job, stop) == stop
    assert (job.was_stopped, job.record.is_complete, job.record.num_done) == (True, False, stop)
    again = job_of(clip, out)
    assert (again.num_done, len(list(again.run()))) == (stop, count - stop)
    assert again.record.is_complete and not again.was_stopped
    assert [line["frame"] for line in lines_of(out / "a.frames")] == list(range(count))
    assert number_of_frames(out / "a.overlay.mp4") == count


def test_a_clip_whose_last_frame_is_done_when_it_is_stopped_is_complete(tmp_path: Path):
    job = job_of(small_clips.write_clip(tmp_path / "a.mp4", small_clips.level_frames(5)), tmp_path / "out")
    assert stopped_after(job, 5) == 5
    assert job.record.is_complete and not job.was_stopped


def test_a_stop_in_the_midst_of_a_batch_cuts_the_same_batches(tmp_path: Path):
    clip, out = small_clips.write_clip(tmp_path / "a.mp4", small_clips.level_frames(14)), tmp_path / "out"
    job = job_of(clip, out, batch_size=4)
    assert stopped_after(job, 6) == 8  # what went through the network together is finished
    assert job.was_stopped and job.record.num_done == 8
    model = QuickModel()
    again = job_of(clip, out, model=model, batch_size=4)
    assert len(list(again.run())) == 6 and again.record.is_complete
    assert model.batches == [4, 2]
    assert [line["frame"] for line in lines_of(out / "a.frames")] == list(range(14))


class Camera(SimpleNamespace):
    """Stands for a camera whose frames come while we work: of each three, one is seen."""

    def frames(self) -> Iterator[Frame]:
        for number in range(0, 60, 3):
            yield whole(number, number / 25, "webcam", lambda: Image.new("RGB", (32, 32), "white"))


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Camera:
    camera = Camera(name="webcam", fps=25.0, about_frames=None, is_live=False, pixel_aspect=Fraction(1), note="")
    monkeypatch.setattr(clip_job, "open_clip", lambda source, **_: nullcontext(camera))
    monkeypatch.setattr(clip_job, "PART_FRAMES", 4)
    return camera


def has_frames(job: ClipJob, count: int) -> bool:
    """Whether so many frames are there as lines and in the video, and no parts any more."""
    numbers = [line["frame"] for line in lines_of(job.record.folder)]
    is_whole = numbers == [3 * place for place in range(count)] and number_of_frames(job.record.video) == count
    return is_whole and not (job.record.folder / "parts").exists()


@pytest.mark.usefixtures("camera")
@pytest.mark.parametrize("stop", [7, 99])
def test_of_a_camera_all_frames_are_kept_whichever_were_passed_over(tmp_path: Path, stop: int):
    job = job_of("webcam", tmp_path / "out")
    done = stopped_after(job, stop)
    assert job.record.is_complete and done == min(stop, 20)
    assert has_frames(job, done)


class FailingModel(QuickModel):
    """Fails at the sixth frame."""

    def predict(self, images: list[Any], **options: Any) -> list[Any]:
        if len(self.batches) == 6:
            raise OSError(28, "No space left on device")
        return super().predict(images, **options)


@pytest.mark.usefixtures("camera")
def test_of_a_camera_what_was_done_before_an_error_is_put_together(tmp_path: Path):
    job = job_of("webcam", tmp_path / "out", model=FailingModel())
    with pytest.raises(OSError, match="No space left"):
        list(job.run())
    assert job.record.is_complete and has_frames(job, 6)


@pytest.mark.usefixtures("camera")
def test_of_a_camera_what_was_done_before_a_hard_stop_is_put_together(tmp_path: Path):
    job = job_of("webcam", tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        for number, _ in enumerate(run := job.run()):
            if number == 6:
                run.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert job.record.is_complete and has_frames(job, 7)


@pytest.mark.usefixtures("camera")
def test_what_a_killed_run_of_a_camera_left_is_put_together_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    left = job_of("webcam", out, model=FailingModel())
    with monkeypatch.context() as patch:
        patch.setattr(ClipRecord, "finish", lambda record, note: (_ for _ in ()).throw(OSError("no room here either")))
        with pytest.raises(OSError, match="No space left"):
            list(left.run())
    other = job_of("webcam:1", out)
    list(other.run())
    assert (left.record.folder / "parts").exists() and not left.record.video.exists()  # not of that camera
    again = job_of("webcam", out)
    run = again.run()
    list(islice(run, 6))
    assert has_frames(left, 6)
    third = job_of("webcam", out)
    assert len(list(third.run())) == 20  # and the second, which is under way, is left alone
    assert len(list(run)) == 14 and has_frames(again, 20) and has_frames(third, 20)


def test_of_a_live_camera_the_frame_that_came_last_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    camera, model = LiveCamera(), QuickModel()
    camera.plug_in(monkeypatch, clip_job)
    monkeypatch.setattr(model, "predict", camera.watching(model.predict))
    job = job_of("webcam", tmp_path / "out", model=model, frames=25)
    assert len(list(job.run())) == 25 and job.record.is_complete
    assert max(camera.ages) <= 1  # no frame waits while others are predicted


def test_a_live_camera_that_is_stopped_keeps_all_that_was_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    camera, model = LiveCamera(), QuickModel()
    camera.plug_in(monkeypatch, clip_job)
    monkeypatch.setattr(model, "predict", camera.watching(model.predict))
    job = job_of("webcam", tmp_path / "out", model=model)
    done = stopped_after(job, 5)
    assert done == len(model.batches) == len(lines_of(job.record.folder)) == number_of_frames(job.record.video)
    assert len(list(job.record.folder.glob("0*.png"))) == done
