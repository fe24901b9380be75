"""Parts of the service and the page that need no other package."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from serving_models import picture_bytes
from vpd.errors import UsageError
from vpd.serving.page.batch import safe_names, write_archive
from vpd.serving.page.scratch import PREFIX, Scratch, scratch_folder
from vpd.serving.point_cloud import MOST_POINTS, point_cloud
from vpd.serving.schemas import DepthRequest, ReferRequest, SegmentRequest
from vpd.serving.served import Asked, Served, load_served
from vpd.serving.settings import ServiceSettings, check_reach, is_loopback


def read_ply(content: bytes) -> np.ndarray:
    head, _, rest = content.partition(b"end_header\n")
    assert b"format binary_little_endian 1.0" in head
    points = np.frombuffer(rest, [("place", "<f4", 3), ("colour", "u1", 3)])
    assert f"element vertex {len(points)}\n".encode() in head
    return points


def test_points_lie_where_a_pinhole_camera_saw_them() -> None:
    depth_m = np.full((2, 4), 2.0, np.float32)
    depth_m[0, 0] = 0  # unknown
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    points = read_ply(point_cloud(depth_m, image, fov_deg=90))
    assert len(points) == 7
    # 90 degrees: at 2 m the picture is 4 m wide, a pixel 1 m
    np.testing.assert_allclose(points["place"][:, 0], [-0.5, 0.5, 1.5, -1.5, -0.5, 0.5, 1.5], atol=1e-6)
    np.testing.assert_allclose(points["place"][:, 1], [0.5] * 3 + [-0.5] * 4, atol=1e-6)
    np.testing.assert_allclose(points["place"][:, 2], -2.0)
    assert points["colour"][0].tolist() == [3, 4, 5]


def test_points_keep_to_limits_and_number() -> None:
    depth_m = np.array([[1.0, 2.0, 3.0, math.nan]], np.float32)
    image = Image.new("RGB", (4, 1))
    assert len(read_ply(point_cloud(depth_m, image, fov_deg=60, near_m=1.5, far_m=2.5))) == 1
    big = np.ones((2000, 3000), np.float32)
    assert MOST_POINTS / 4 < len(read_ply(point_cloud(big, Image.new("RGB", (3000, 2000)), fov_deg=60))) <= MOST_POINTS
    with pytest.raises(UsageError, match="between 0 and 180"):
        point_cloud(depth_m, image, fov_deg=180)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["../../etc/passwd.png"], ["passwd.png"]),
        (["..\\..\\x.jpg", "a/x.png"], ["x.jpg", "x_2.png"]),
        (["", "..", "a\x00\nb.png"], ["picture", "picture_2", "a__b.png"]),
        (["n" * 500 + ".jpeg"], ["n" * 80 + ".jpeg"]),
        (["A.png", "a.PNG"], ["A.png", "a_2.PNG"]),
    ],
)
def test_names_from_outside_become_plain_ones(given: list[str], wanted: list[str]) -> None:
    assert safe_names(given) == wanted


class Pictures:
    """Uploaded files, and what comes of asking for each: an answer, an accident, or nothing."""

    def __init__(self, served: Served, folder: Path, *fates: str) -> None:
        (self.answer,) = served.answer_all([Asked(picture_bytes(), {})], words={}, size=None)
        self.fates, self.asked = dict(enumerate(fates)), list[Future[Any]]()
        self.paths = [folder / f"{number}.png" for number in self.fates]
        for number, path in enumerate(self.paths):
            path.write_bytes(bytes([number]))

    def ask(self, content: bytes) -> Future[Any]:
        self.asked.append(Future())
        match self.fates[content[0]]:
            case "good":
                self.asked[-1].set_result(self.answer)
            case "accident":
                self.asked[-1].set_exception(RuntimeError("inner"))
        return self.asked[-1]


def test_one_of_many_pictures_costs_no_other(served: dict[str, Served], tmp_path: Path) -> None:
    many = Pictures(served["depth"], tmp_path, "good", "accident", "nothing", "good")
    archive, failed = tmp_path / "made.zip", list[str]()
    steps = write_archive(archive, many.paths, many.ask, timeout_s=0.05, failed=failed, say=lambda e: type(e).__name__)
    assert list(steps) == [0, 1, 2, 3]
    assert failed == ["1.png: RuntimeError", "2.png: TimeoutError"]
    assert many.asked[2].cancelled()  # nobody waits for it
    names = zipfile.ZipFile(archive).namelist()
    assert names == ["0.png", "0.overlay.jpg", "3.png", "3.overlay.jpg", "predictions.jsonl"]


def test_no_archive_is_left_that_is_not_finished(served: dict[str, Served], tmp_path: Path) -> None:
    many, archive = Pictures(served["depth"], tmp_path, "good", "good", "good"), tmp_path / "made.zip"
    steps = write_archive(archive, many.paths, many.ask, timeout_s=20, failed=[])
    assert [next(steps), next(steps)] == [0, 1] and archive.exists()
    steps.close()  # the browser's tab was closed
    assert len(many.asked) == 1 and not archive.exists()
    many = Pictures(served["depth"], tmp_path, "accident")
    with pytest.raises(UsageError, match="None of the pictures could be predicted. 0.png: inner"):
        list(write_archive(archive, many.paths, many.ask, timeout_s=20, failed=[]))
    assert not archive.exists()


def test_names_of_models_end_at_the_first_sign(served: dict[str, Served], tmp_path: Path) -> None:
    folder = tmp_path / "lr=1e-4"
    served["depth"].model.save(folder)
    for given, name in ((f"rooms={folder}", "rooms"), (str(folder), "lr=1e-4")):
        (loaded,) = load_served([given], device="cpu", max_px=1000)
        assert loaded.name == name


def test_a_sweep_is_of_other_things_too() -> None:
    scratch, swept = Scratch(every_s=0.01), threading.Event()
    scratch.sweep_too(swept.set)
    assert swept.wait(20)
    scratch.close()


def test_uploads_are_swept_and_examples_stay() -> None:
    with scratch_folder() as scratch:
        assert scratch.folder.stat().st_mode & 0o077 == 0  # nobody else's to read
        example = scratch.folder / "examples" / "a.png"
        example.parent.mkdir()
        example.write_bytes(b"x")
        scratch.keep_all()
        upload = scratch.folder / "hash" / "photo.jpg"
        upload.parent.mkdir()
        upload.write_bytes(b"12345")
        assert scratch.bytes_used() == 6
        scratch.sweep(time.time() + 10)
        assert upload.exists()
        scratch.sweep(time.time() + 10_000)
        assert example.exists() and not upload.exists() and not upload.parent.exists()
    assert not scratch.folder.exists()


def test_what_is_swept_meanwhile_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with scratch_folder() as scratch:
        for name in ("a", "b"):
            (scratch.folder / name).mkdir()
            (scratch.folder / name / "photo.jpg").write_bytes(b"12345")

        def swept_as_it_is_looked_at(path: Path) -> bool:
            path.unlink()
            path.parent.rmdir()
            return False

        monkeypatch.setattr(Path, "is_symlink", swept_as_it_is_looked_at)
        assert scratch.bytes_used() == 0


@pytest.mark.parametrize(
    "name", ["", "a.png", "../a.png", "/etc/hostname", "\0", "a" * 5000, "http://example.org/a.png"]
)
def test_what_was_not_uploaded_is_no_picture(name: str) -> None:
    with scratch_folder() as scratch:
        inside = f"{scratch.folder}/{name}"
        for given in (name, inside, {"path": name}, {"path": inside}, {"path": 3}, {}, None):
            with pytest.raises(UsageError):
                scratch.uploaded(given)


def test_what_a_killed_process_left_is_removed() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{gone.stdout.strip()}-"))
    running = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    try:
        Scratch().close()
        assert not left.exists() and running.exists()
    finally:
        running.rmdir()


def test_other_machines_are_let_in_with_a_token_only() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.2", "example.org", "")))
    check_reach(ServiceSettings())
    check_reach(ServiceSettings(host="0.0.0.0", token="a long word"))
    with pytest.raises(UsageError, match="--token"):
        check_reach(ServiceSettings(host="0.0.0.0"))
    with pytest.raises(ValidationError, match="8 letters"):
        ServiceSettings(token="short")
    for origin in ("*", "example.org", "https://example.org/path"):
        with pytest.raises(ValidationError, match="origin"):
            ServiceSettings(origins=(origin,))


def test_names_count_as_often_as_they_are_read(served: dict[str, Served], monkeypatch: pytest.MonkeyPatch) -> None:
    model = served["segment"].model
    known, names = list(model.config.classes), ["zebra", *model.config.classes]
    served["segment"].check({"classes": names}, None, max_new_classes=1)
    monkeypatch.setattr(model, "is_optimised", True)  # its own prompts lie ready for the network alone
    served["segment"].check({"classes": known}, None, max_new_classes=0)
    with pytest.raises(UsageError, match="4 names must be read"):
        served["segment"].check({"classes": names}, None, max_new_classes=1)


def test_requests_are_read_from_words_and_unknown_ones_refused() -> None:
    of_phrases = SegmentRequest.model_validate({"classes": "red, round things; cubes"})
    assert of_phrases.words() == {"classes": ["red, round things", "cubes"]}
    asked = SegmentRequest.model_validate({"classes": "sky, road", "size": "64"})
    assert asked.words() == {"classes": ["sky", "road"]} and asked.size == 64
    assert DepthRequest.model_validate({"fov_deg": "65", "format": "ply"}).words() == {}
    assert ReferRequest.model_validate({"text": "a", "threshold": "0.3"}).words() == {"text": "a", "threshold": 0.3}
    wrong = (
        (SegmentRequest, {"text": "a"}),
        (SegmentRequest, {"classes": "a,,b"}),
        (SegmentRequest, {"format": "exe"}),
        (ReferRequest, {}),
        (ReferRequest, {"text": " "}),
        (ReferRequest, {"text": "a" * 501}),
        (DepthRequest, {"fov_deg": "nan"}),
        (DepthRequest, {"size": "1e9"}),
    )
    for kind, words in wrong:
        with pytest.raises(ValidationError):
            kind.model_validate(words)
