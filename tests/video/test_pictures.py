from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vpd.errors import UsageError
from vpd.video.frames import Clock
from vpd.video.opening import clip_name, is_clip, open_clip, shown_name


def colours(clip: object) -> list[int]:
    return [round(float(np.asarray(frame.read().convert("L")).mean())) for frame in clip.frames()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng"])
def test_an_animation_keeps_its_frames_and_times(tmp_path: Path, suffix: str):
    pictures = [Image.new("RGB", (20, 10), (30 * number,) * 3) for number in range(5)]
    path = tmp_path / f"moving.{suffix}"
    options = {"save_all": True, "append_images": pictures[1:], "duration": [40, 80, 120, 40, 40]}
    pictures[0].save(path, format="PNG" if suffix == "apng" else None, **options)
    assert is_clip(str(path))
    with open_clip(path) as clip:
        assert clip.about_frames == 5
        assert [round(float(np.asarray(image).mean())) // 10 for image in clip.glimpses(2)] == pytest.approx(
            [3, 9], abs=1
        )
        frames = list(clip.frames())
    assert [round(frame.time_s, 3) for frame in frames] == [0, 0.04, 0.12, 0.24, 0.28]
    assert [round(float(np.asarray(frame.read()).mean()) / 30) for frame in frames] == list(range(5))


def test_what_a_transparent_animation_does_not_paint_is_white(tmp_path: Path):
    frames = [Image.new("RGBA", (8, 8), (0, 0, 0, alpha)) for alpha in (255, 0)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True, duration=50)
    with open_clip(tmp_path / "a.webp") as clip:
        assert colours(clip) == [0, 255]


def test_an_animation_that_breaks_off_says_so(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), np.uint8)
    pictures = [Image.fromarray(each) for each in noise]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=50)
    content = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(content[: len(content) * 2 // 3])
    with open_clip(tmp_path / "a.gif") as clip:
        frames = list(clip.frames())
        assert 2 < len(frames) <= 5
        with pytest.raises(UsageError, match=r"a\.gif, frame \d at .*: cannot be decoded"):
            frames[-1].read()
        assert "breaks off" in clip.note


def test_numbered_pictures_come_by_their_numbers(tmp_path: Path):
    for number in (2, 10, 1, 33):
        Image.new("L", (4, 4), number).save(tmp_path / f"shot_{number}.png")
    (tmp_path / "shot_3.png").write_bytes(b"damaged")
    pattern = str(tmp_path / "shot_%d.png")
    assert is_clip(pattern) and clip_name(pattern) == "shot"
    with open_clip(pattern, fps=10) as clip:
        frames = list(clip.frames())
    assert [Path(frame.name).name for frame in frames] == [f"shot_{number}.png" for number in (1, 2, 3, 10, 33)]
    assert [frame.time_s for frame in frames] == [0, 0.1, 0.2, 0.3, 0.4]
    with pytest.raises(UsageError, match=r"shot_3\.png"):
        frames[2].read()
    for wrong, message in (
        (tmp_path / "none_%06d.png", "no such picture"),
        (tmp_path / "%d_%d.png", "no such picture"),
    ):
        with pytest.raises(UsageError, match=message):
            open_clip(str(wrong))


def test_a_folder_of_pictures_is_no_clip_unless_it_is_opened_as_one(tmp_path: Path):
    for number in range(3):
        Image.new("L", (4, 4), 50 * number).save(tmp_path / f"{number}.png")
    assert not is_clip(str(tmp_path)) and not is_clip(str(tmp_path / "0.png"))
    with open_clip(tmp_path) as clip:
        assert colours(clip) == [0, 50, 100]


def test_times_begin_at_nought_and_never_go_back():
    clock = Clock(fps=10)
    told = [5.0, 5.1, None, 5.3, 2.0, 2.1, 1e9, 1e9 + 0.1, float("nan")]
    assert np.allclose([clock.at(each) for each in told], [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])


def test_names_do_not_tell_secrets():
    address = "rtsp://me:secret@10.0.0.7:554/live/1?key=secret"
    assert is_clip(address) and shown_name(address) == "rtsp://10.0.0.7:554/live/1"
    assert clip_name(address) == "10.0.0.7_554_live_1"
    assert is_clip("webcam") and is_clip("webcam:1") and clip_name("webcam:1") == "webcam_1"


@pytest.mark.parametrize("wrong", [3, b"bytes", {"a": 1}, None])
def test_what_is_no_clip_is_refused(wrong: object):
    with pytest.raises(UsageError, match="A clip is a video file"):
        open_clip(wrong)
