from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vpd.errors import UsageError
from vpd.video.arriving import arriving
from vpd.video.frames import Frame
from vpd.video.opening import open_clip

pytestmark = pytest.mark.extras
small_clips = pytest.importorskip("small_clips", reason="PyAV is not installed: pip install 'vpd-perception[video]'")
number_of, level_frames, write_clip = small_clips.number_of, small_clips.level_frames, small_clips.write_clip
_PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n"


def read_all(path: Path) -> tuple[list[Frame], list[int | str], str]:
    """Frames, the number or error of each, and the note."""
    with open_clip(path) as clip:
        frames, found = [], list[int | str]()
        for frame in clip.frames():
            frames.append(frame)
            try:
                found.append(number_of(frame.read()))
            except UsageError as error:
                found.append(str(error))
        return frames, found, clip.note


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.ts"])
def test_all_frames_come_in_order_and_sound_does_not(tmp_path: Path, name: str):
    frames, found, note = read_all(write_clip(tmp_path / name, level_frames(30), with_sound=True))
    assert found == list(range(30)) and note == ""
    assert [frame.number for frame in frames] == found
    assert np.allclose([frame.time_s for frame in frames], np.arange(30) / 25, atol=2e-3)


def test_times_are_those_of_the_file(tmp_path: Path):
    ticks = [0, 3, 4, 20, 21, 60]
    frames, found, _ = read_all(write_clip(tmp_path / "phone.mp4", level_frames(6), ticks=ticks))
    assert found == list(range(6))
    assert np.allclose([frame.time_s for frame in frames], np.array(ticks) / 100, atol=1e-3)


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_frames_are_turned_as_the_file_says(tmp_path: Path, degrees: int, is_mirrored: bool):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    path = write_clip(tmp_path / "phone.mp4", [picture] * 2, turn=(degrees, is_mirrored))
    seen = np.rot90(picture, degrees // 90)
    seen = seen[:, ::-1] if is_mirrored else seen
    with open_clip(path) as clip:
        image = np.asarray(next(clip.frames()).read()).astype(int)
    assert image.shape == seen.shape
    assert np.abs(image - seen).mean() < 12


def test_interlaced_frames_lose_their_combs(tmp_path: Path):
    frames = []
    for number in range(12):  # a bar that moves from field to field
        image = np.zeros((64, 96, 3), np.uint8)
        for field in range(2):
            left = 8 + 4 * number + 2 * field
            image[field::2, left : left + 16] = 255
        frames.append(image)
    options = {"flags": "+ildct+ilme", "x264-params": "tff=1", "crf": "5"}
    path = write_clip(tmp_path / "tv.mp4", frames, options=options)

    def combs(image: np.ndarray) -> float:
        rows = image.astype(int).mean(-1)
        return float(np.abs(rows[1:-1] - (rows[:-2] + rows[2:]) / 2).mean())

    with open_clip(path) as clip:
        seen = [np.asarray(frame.read()) for frame in clip.frames()]
    assert len(seen) == 12
    assert combs(seen[5]) < 0.25 * combs(frames[5])


def test_odd_sizes_and_ten_bits_are_read(tmp_path: Path):
    frames = level_frames(5, height=37, width=53)
    path = write_clip(tmp_path / "odd.mkv", frames, codec="ffv1", pixels="yuv444p10le")
    with open_clip(path) as clip:
        images = [frame.read() for frame in clip.frames()]
    assert [image.size for image in images] == [(53, 37)] * 5
    assert list(map(number_of, images)) == list(range(5))


def test_a_damaged_frame_is_named_and_the_rest_goes_on(tmp_path: Path):
    noise = np.random.default_rng(0)
    frames = [
        np.clip(image + noise.integers(-9, 9, image.shape), 0, 255).astype(np.uint8) for image in level_frames(30)
    ]
    path = write_clip(tmp_path / "clip.mp4", frames, options={"g": "5", "bf": "0"})
    read, found, _ = read_all(small_clips.damage(path, start=0.62, stop=0.68))
    errors = {place: each for place, each in enumerate(found) if isinstance(each, str)}
    assert len(read) == 30 and 1 <= len(errors) <= 8
    for place, error in errors.items():
        assert error.startswith(f"{path}, frame {place} at {place / 25:.2f} s: ") and "damaged" in error
    assert found[0] == 0 and found[-5:] == [25, 26, 27, 28, 29]  # a key frame begins anew


def test_a_file_that_was_cut_off_says_so(tmp_path: Path):
    whole = write_clip(tmp_path / "clip.mkv", level_frames(60), options={"g": "5", "bf": "0"}).read_bytes()
    (tmp_path / "clip.mkv").write_bytes(whole[: len(whole) // 2])
    _, found, note = read_all(tmp_path / "clip.mkv")
    assert 1 < len(found) < 55 and found[0] == 0
    assert f"ends after {len(found)} of about 60 frames" in note
    whole = write_clip(tmp_path / "clip.mp4", level_frames(60)).read_bytes()
    (tmp_path / "clip.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"clip\.mp4: no video that can be read here, or its beginning or end"):
        open_clip(tmp_path / "clip.mp4")


def test_a_number_of_frames_need_not_be_known(tmp_path: Path):
    path = write_clip(tmp_path / "raw.mpg", level_frames(12), codec="mpeg1video", form="mpeg1video")
    _, found, _ = read_all(path)
    assert found == list(range(12))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"not a video", "no video that can be read here"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n", "no video that can be read"),
        (b"ffconcat version 1.0\nfile 'secret.mp4'\n", "no video that can be read"),
        (
            b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
            "no video that can be read",
        ),
    ],
)
def test_files_that_hold_no_video_or_lead_elsewhere_are_refused(tmp_path: Path, content: bytes, message: str):
    write_clip(tmp_path / "secret.mp4", level_frames(3))
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        open_clip(str(tmp_path / "clip.mp4"))


def test_what_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_clip(tmp_path / "large.mp4", level_frames(2, height=96, width=128))
    monkeypatch.setattr("vpd.files.decoding.MAX_PIXELS", 10_000)
    with pytest.raises(UsageError, match=r"large\.mp4: 128x96"):
        open_clip(path)


def test_random_bytes_anywhere_end_in_frames_or_a_message(tmp_path: Path):
    whole = write_clip(tmp_path / "clip.mp4", level_frames(20), options={"g": "5"}).read_bytes()
    generator = np.random.default_rng(1)
    for number in range(40):
        content = bytearray(whole)
        for place in generator.integers(0, len(content), 20):
            content[place] = generator.integers(256)
        (tmp_path / "fuzzed.mp4").write_bytes(
            content[: len(content) if number % 2 else generator.integers(len(content))]
        )
        try:
            frames, _, _ = read_all(tmp_path / "fuzzed.mp4")
        except UsageError as error:
            assert "fuzzed.mp4" in str(error)
        else:
            assert len(frames) < 100


def test_an_address_is_read_and_its_secrets_are_not_told(tmp_path: Path):
    write_clip(tmp_path / "clip.mkv", level_frames(10))
    with serving(tmp_path) as address:
        with open_clip(f"{address}/clip.mkv?token=secret") as clip:
            assert [number_of(frame.read()) for frame in clip.frames()] == list(range(10))
            assert clip.name == f"{address}/clip.mkv"
        with pytest.raises(
            UsageError, match=r"nothing\.mkv cannot be opened \(.*404.*\)\. Is the address right"
        ) as caught:
            open_clip(f"{address.replace('://', '://me:secret@')}/nothing.mkv?token=secret")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts", "ended.m3u8"])
def test_what_an_address_gives_with_a_length_is_a_file(tmp_path: Path, name: str):
    write_clip(tmp_path / name.replace("ended.m3u8", "0.ts"), level_frames(10))
    (tmp_path / "ended.m3u8").write_text(_PLAYLIST + "#EXTINF:0.4,\n0.ts\n#EXT-X-ENDLIST\n")
    with serving(tmp_path) as address, open_clip(f"{address}/{name}") as clip:
        assert not clip.is_live
        numbers = []
        for frame in arriving(clip, most=100):
            numbers.append(number_of(frame.read()))
            time.sleep(0.01)
        assert numbers == list(range(10))


def test_of_a_camera_that_pushes_pictures_the_newest_comes(tmp_path: Path):
    with (
        serving(tmp_path) as address,
        open_clip(f"{address}/camera") as clip,
        closing(arriving(clip, most=100)) as frames,
    ):
        assert clip.is_live and clip.about_frames is None
        first = next(frames).number
        time.sleep(0.5)
        assert next(frames).number > first + 10


def test_live_pieces_of_seconds_are_shown_frame_by_frame(tmp_path: Path):
    for number in range(3):
        write_clip(tmp_path / f"{number}.ts", level_frames(25))
    (tmp_path / "live.m3u8").write_text(_PLAYLIST + "".join(f"#EXTINF:1.0,\n{number}.ts\n" for number in range(3)))
    with (
        serving(tmp_path) as address,
        open_clip(f"{address}/live.m3u8") as clip,
        closing(arriving(clip, most=100)) as frames,
    ):
        assert clip.is_live and clip.about_frames is None
        began_s, numbers = time.monotonic(), []
        while not numbers or numbers[-1] < 12:
            numbers.append(next(frames).number)
            time.sleep(0.05)
        assert len(numbers) > 3 or time.monotonic() - began_s > 1  # and not the last of what came at once


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files, and of a `camera`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Server, directory=str(folder))) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Server(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/camera":
            with suppress(OSError):  # who looks has gone
                self._show_pictures()
        else:
            super().do_GET()

    def _show_pictures(self) -> None:
        picture = io.BytesIO()
        Image.new("RGB", (64, 48), "white").save(picture, "JPEG")
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture.getvalue())}\r\n\r\n"
        while True:
            self.wfile.write(head.encode() + picture.getvalue() + b"\r\n")
            time.sleep(0.01)

    def log_message(self, *_: object) -> None:
        pass


def test_glimpses_are_from_all_over_the_clip(tmp_path: Path):
    path = write_clip(tmp_path / "clip.mp4", level_frames(40), options={"g": "5"})
    with open_clip(path) as clip:
        numbers = [number_of(image) for image in clip.glimpses(4)]
        assert len(numbers) == 4 and numbers == sorted(numbers) and numbers[0] <= 5 and numbers[-1] >= 30
        assert len(list(clip.frames())) == 40


def test_a_camera_that_is_not_there_is_told():
    with pytest.raises(UsageError, match=r"webcam:97 cannot be opened .*webcam:1"):
        open_clip("webcam:97")
