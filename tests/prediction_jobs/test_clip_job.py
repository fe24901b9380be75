"""Clips that are stopped near their end, in the midst of a batch, or that cannot be had again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from clip_jobs import QuickModel, job_of, stopped_after
from live_camera import LiveCamera
from vpd.prediction_jobs import clip_job
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


@pytest.mark.parametrize("stop", [7, 99])
def test_of_a_camera_all_frames_are_kept_whichever_were_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
):
    camera = Camera(name="webcam", fps=25.0, about_frames=None, is_live=False, pixel_aspect=Fraction(1), note="")
    monkeypatch.setattr(clip_job, "open_clip", lambda source, **_: nullcontext(camera))
    monkeypatch.setattr(clip_job, "PART_FRAMES", 4)
    job = job_of("webcam", tmp_path / "out")
    done = stopped_after(job, stop)
    assert job.record.is_complete and done == min(stop, 20)
    assert [line["frame"] for line in lines_of(job.record.folder)] == [3 * place for place in range(done)]
    assert number_of_frames(job.record.video) == done


def test_of_a_live_camera_the_frame_that_came_last_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    camera, model = LiveCamera(), QuickModel()
    camera.plug_in(monkeypatch, clip_job)
    monkeypatch.setattr(model, "predict", camera.watching(model.predict))
    job = job_of("webcam", tmp_path / "out", model=model, frames=25)
    assert len(list(job.run())) == 25 and job.record.is_complete
    assert max(camera.ages) <= 1  # no frame waits while others are predicted
