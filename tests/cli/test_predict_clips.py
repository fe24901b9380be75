"""`vpd predict` on clips: data, lines and a video, whatever stops it on the way."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vpd.cli.predict_clips import _stopping, check_clips
from vpd.errors import UsageError
from vpd.loading import load
from vpd.prediction_jobs import clip_job
from vpd.prediction_jobs.clip_job import ClipJob
from vpd.prediction_jobs.worker import Predictor

pytestmark = pytest.mark.extras
small_clips = pytest.importorskip("small_clips", reason="PyAV is not installed: pip install 'vpd-perception[video]'")
av, level_frames, write_clip = small_clips.av, small_clips.level_frames, small_clips.write_clip

Command = Callable[..., "object"]
Models = dict[str, Path]


def noisy_frames(count: int, *, height: int = 48, width: int = 64) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    frames = level_frames(count, height=height, width=width)
    return [np.clip(each + random.integers(-15, 15, each.shape), 0, 255).astype(np.uint8) for each in frames]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "street.mp4", noisy_frames(12), options={"g": "4", "bf": "0"})


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]


def video_frames(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as video:
        return [(frame.time, np.asarray(frame.to_image())) for frame in video.decode(video=0)]


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_a_clip_becomes_data_lines_and_a_video(
    vpd_command: Command, models: Models, clip: Path, tmp_path: Path, task: str
):
    out = tmp_path / "out"
    words = ["--text", "a dog"] if task == "refer" else []
    result = vpd_command("predict", task, clip, "--model", models[task], "--out", out, "--size", 32, *words)
    assert (result.status, "12 frames predicted, 0 skipped" in result.out) == (0, True)
    lines = lines_of(out / "street.frames")
    assert [line["frame"] for line in lines] == list(range(12))
    assert [line["time_s"] for line in lines] == pytest.approx(np.arange(12) / 25, abs=1e-3)
    model = load(models[task])
    with av.open(str(clip)) as source:
        images = [frame.to_image() for frame in source.decode(video=0)]
    options = {"size": 32, **({"text": "a dog"} if task == "refer" else {})}
    for line, image in zip(lines, images, strict=True):
        model.predict(image, **options).save(tmp_path / "alone.png")
        assert (out / "street.frames" / line["data"]).read_bytes() == (tmp_path / "alone.png").read_bytes()
    shown = video_frames(out / "street.overlay.mp4")
    assert [time for time, _ in shown] == pytest.approx(np.arange(12) / 25, abs=1e-3)
    assert shown[0][1].shape[0] > 4 * 48  # enlarged, above what the colours mean
    assert not (out / "street.frames" / "parts").exists()
    again = vpd_command("predict", task, clip, "--model", models[task], "--out", out, "--size", 32, *words)
    assert again.status == 0 and again.out == result.out
    other = vpd_command("predict", task, clip, "--model", models[task], "--out", out, *words)
    assert other.status == 2 and "made differently (options)" in other.err


def test_depth_has_one_scale_for_the_whole_clip(vpd_command: Command, models: Models, tmp_path: Path):
    clip = write_clip(tmp_path / "a.mp4", noisy_frames(60))
    for name, options in (("looked", ()), ("given", ("--near-m", 1, "--far-m", 3))):
        out = tmp_path / name
        command = ["predict", "depth", clip, "--model", models["depth"], "--out", out, "--size", 32, *options]
        assert vpd_command(*command).status == 0
        keys = {image[-40:].tobytes() for _, image in video_frames(out / "a.overlay.mp4")[:1]}
        assert len(keys) == 1
        told = json.loads((out / "a.frames" / "clip.json").read_text())["told"]
        lines = lines_of(out / "a.frames")
        near, far = min(line["nearest_m"] for line in lines), max(line["farthest_m"] for line in lines)
        if not options:
            assert near - 0.01 <= told["words"]["near_m"] < told["words"]["far_m"] <= far + 0.01 + 0.05 * near


@pytest.mark.parametrize("smooth", [None, 3])
def test_what_was_stopped_or_killed_goes_on_as_if_nothing_had_been(
    models: Models, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smooth: int | None
):
    if smooth:
        pytest.importorskip("cv2", reason="OpenCV is not installed")
    monkeypatch.setattr(clip_job, "PART_FRAMES", 4)

    def job(out: str) -> ClipJob:
        predictor = Predictor(load(models["segment"]), tmp_path / out, model_name="m", options={"size": 32})
        return ClipJob(str(clip), predictor, smooth=smooth, view="side")

    whole = job("whole")
    assert len(list(whole.run())) == 12 and whole.record.is_complete
    stopped = job("parts")
    done = 0
    for _ in stopped.run():
        done += 1
        if done == 5:
            stopped.stop()
    assert stopped.was_stopped and 5 <= stopped.record.num_done == done < 12
    killed = job("parts")
    assert killed.num_done == done
    run = killed.run()
    next(run)
    run.close()  # as a kill: what was begun is not a part
    last = job("parts")
    assert last.num_done == done
    assert len(list(last.run())) == 12 - done and last.record.is_complete
    folders = [tmp_path / name / "street.frames" for name in ("whole", "parts")]
    assert lines_of(folders[0]) == lines_of(folders[1])
    for line in lines_of(folders[0]):
        assert (folders[0] / line["data"]).read_bytes() == (folders[1] / line["data"]).read_bytes()
    videos = [video_frames(tmp_path / name / "street.overlay.mp4") for name in ("whole", "parts")]
    assert [time for time, _ in videos[0]] == [time for time, _ in videos[1]]
    for (_, one), (_, other) in zip(*videos, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 3


@pytest.mark.parametrize("is_finishing", [False, True])
def test_the_first_signal_stops_gently_and_the_next_at_once_unless_all_is_nearly_done(
    capsys: pytest.CaptureFixture[str], is_finishing: bool
):
    stopped: list[bool] = []
    before = signal.getsignal(signal.SIGINT)
    job = SimpleNamespace(stop=lambda: stopped.append(True), is_finishing=is_finishing)
    with pytest.raises(KeyboardInterrupt), _stopping(job) as came:
        signal.raise_signal(signal.SIGINT)
        assert (stopped, came) == ([True], [signal.SIGINT])
        assert "finishing the frames under way" in capsys.readouterr().err
        if is_finishing:
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_clip_that_changed_begins_anew(
    vpd_command: Command, models: Models, clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    command = ["predict", "segment", clip, "--model", models["segment"], "--out", tmp_path / "out", "--size", 32]
    assert vpd_command(*command).status == 0
    clip.chmod(0o600)
    assert "12 frames predicted" in vpd_command(*command).out and "begins anew" not in caplog.text
    write_clip(clip, noisy_frames(7))
    assert "7 frames predicted" in vpd_command(*command).out and "begins anew" in caplog.text
    assert len(lines_of(tmp_path / "out" / "street.frames")) == 7


def test_broken_frames_are_named_and_the_status_says_so(
    vpd_command: Command, models: Models, clip: Path, tmp_path: Path
):
    small_clips.damage(clip, start=0.6, stop=0.64)
    out = tmp_path / "out"
    result = vpd_command("predict", "segment", clip, "--model", models["segment"], "--out", out, "--size", 32)
    assert result.status == 1
    skipped = [line for line in lines_of(out / "street.frames") if "skipped" in line]
    assert skipped and all(f"vpd: skipped {line['skipped']}" in result.err for line in skipped)
    assert f"{clip}, frame {skipped[0]['frame']} at" in skipped[0]["skipped"]
    assert len(video_frames(out / "street.overlay.mp4")) == 12 - len(skipped)


def test_odd_and_turned_clips_and_animations(vpd_command: Command, models: Models, tmp_path: Path):
    clips = [
        write_clip(tmp_path / "odd.mkv", noisy_frames(3, height=35, width=51), codec="ffv1", pixels="yuv444p"),
        write_clip(tmp_path / "turned.mp4", noisy_frames(3, height=36, width=64), turn=(90, False)),
        tmp_path / "moving.gif",
    ]
    pictures = [Image.fromarray(each) for each in noisy_frames(3)]
    pictures[0].save(clips[2], save_all=True, append_images=pictures[1:], duration=[50, 200, 50])
    end = ["--model", models["segment"], "--out", tmp_path / "out", "--size", 32]
    assert vpd_command("predict", "segment", *clips, *end).status == 0
    for clip, size in zip(clips, ((35, 51), (64, 36), (48, 64)), strict=True):
        line = lines_of(tmp_path / "out" / f"{clip.stem}.frames")[-1]
        assert (line["frame"], line["height"], line["width"]) == (2, *size)
        height, width, _ = video_frames(tmp_path / "out" / f"{clip.stem}.overlay.mp4")[0][1].shape
        assert height % 2 == width % 2 == 0
    times = [time for time, _ in video_frames(tmp_path / "out" / "moving.overlay.mp4")]
    assert times == pytest.approx([0, 0.05, 0.25], abs=1e-3)


def test_pictures_of_a_folder_are_frames_where_the_user_says_so(vpd_command: Command, models: Models, tmp_path: Path):
    (tmp_path / "shots").mkdir()
    for number, image in enumerate(noisy_frames(4)):
        Image.fromarray(image).save(tmp_path / "shots" / f"{number}.png")
    end = ["--model", models["segment"], "--size", 32, "--fps", 5, "--frames", 3]
    for source, name, option in (
        (tmp_path / "shots", "shots", "--clip"),
        (tmp_path / "shots/%d.png", "shots", "--clip"),
    ):
        out = tmp_path / f"out-{source.name}"
        assert vpd_command("predict", "segment", source, option, "--out", out, *end).status == 0
        assert [line["time_s"] for line in lines_of(out / f"{name}.frames")] == [0, 0.2, 0.4]
    result = vpd_command("predict", "segment", tmp_path / "shots" / "0.png", "--clip", "--out", tmp_path / "x", *end)
    assert result.status == 2 and "--clip takes the pictures of a folder" in result.err


@pytest.mark.parametrize("pattern", ["", "*.png", "**/*.png"])
def test_frames_are_not_searched_for_in_the_output_folder(tmp_path: Path, pattern: str):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    with pytest.raises(UsageError, match="holds the frames and cannot take the output"):
        check_clips([str(tmp_path / pattern)], tmp_path, smooth=None, is_shared=False)


def test_what_cannot_be_done_with_clips_is_told(vpd_command: Command, models: Models, clip: Path, tmp_path: Path):
    end = ["--model", models["segment"], "--out", tmp_path / "out"]
    (tmp_path / "damaged.mp4").write_bytes(b"nothing of a video")
    for words, said in (
        ([clip, "--shard", "1/2"], "A clip is predicted by one process"),
        ([tmp_path / "damaged.mp4"], "no video that can be read here"),
        ([clip, "--fps", 0], "fps=0"),
    ):
        result = vpd_command("predict", "segment", *words, *end)
        assert (result.status, said in result.err, "Traceback" in result.err) == (2, True, False)
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    result = vpd_command("predict", "segment", tmp_path / "one.png", "--view", "side", *end)
    assert result.status == 2 and "belong to clips" in result.err
    result = vpd_command("predict", "segment", tmp_path / "damaged.mp4", clip, "--size", 32, *end)
    assert result.status == 1 and "vpd: skipped" in result.err and "12 frames predicted" in result.out


def test_pictures_and_clips_go_together(vpd_command: Command, models: Models, clip: Path, tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    out = tmp_path / "out"
    command = ["predict", "segment", tmp_path / "one.png", clip, "--model", models["segment"], "--size", 32]
    assert vpd_command(*command, "--out", out).status == 0
    assert (out / "one.png").exists() and (out / "street.overlay.mp4").exists()
    shutil.rmtree(out)
