"""Groups of samples by their names: recordings that are told, patterns that are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hand_made import Samples, labelled
from vpd.errors import UsageError
from vpd.evaluation.evaluate import evaluate
from vpd.evaluation.groups import groups_of, read_pattern, recordings_of
from vpd.tasks.segmentation import SegmentationModel


def named(*names: str) -> Samples:
    samples = labelled(len(names))
    return Samples(dataclasses.replace(sample, name=name) for sample, name in zip(samples, names, strict=True))


FILMS = {
    "one film, every 30th frame": [f"0016E5_{390 + 30 * number:05d}" for number in range(20)],
    "two films": [f"seq{film}VD_f{number:05d}" for film in ("05", "06") for number in range(0, 300, 30)],
    "a word": [f"video_{number:06d}" for number in range(123, 143)],
    "no break before the number": [f"frame{number}" for number in range(95, 105)],
    "letters alone, several": [f"{place}_{number}" for place in ("north", "south") for number in range(8)],
    "thinned out by chance": [f"day/clip2_{number}" for number in (1, 4, 5, 9, 12, 20, 31, 33, 38, 47)],
    "a frame is missing": [f"cam1_{number}" for number in (0, 1, 2, 3, 5, 6, 7)],
}
PICTURES = {
    "numbers alone": [f"{number:04d}" for number in range(30)],
    "numbers in a folder of letters": [f"seq/{number:04d}" for number in range(30)],
    "a camera's pictures": [f"IMG_{number}" for number in range(1234, 1264)],
    "a benchmark's": [f"ADE_val_{number:08d}" for number in range(1, 40)],
    "COCO's": [f"COCO_val2014_{number:012d}" for number in (42, 73, 74, 133, 136, 139, 143, 164, 192, 208, 241, 257)],
    "years": [f"{year}_{number:06d}" for year in (2007, 2008) for number in range(40)],
    "few of each": [f"{place}_{number}" for place in "abcdefgh" for number in range(3)],
    "no number": [f"video_{number}_left" for number in range(30)],
    "screenshots": [f"screenshot_{number}" for number in range(30)],
    "one of another kind": [*(f"video_{number}" for number in range(30)), "street"],
}


@pytest.mark.parametrize("kind", FILMS)
def test_frames_are_told(kind: str) -> None:
    recordings = recordings_of(FILMS[kind])
    assert recordings and set(recordings) == {name.rstrip("0123456789") for name in FILMS[kind]}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_stand_alone(kind: str) -> None:
    assert recordings_of(PICTURES[kind]) is None


def test_odd_names_are_no_frames() -> None:
    assert recordings_of([]) is None
    assert recordings_of(["9" * 5000, "video_" + "9" * 5000]) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("(.*", r"this is no regular expression \(missing \)"),
        (r".*_\d+", "in brackets"),
        ("(?:.*)_1", "in brackets"),
        ("", "in brackets"),
    ],
)
def test_wrong_patterns(given: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_pattern(given)


def test_groups_by_a_pattern() -> None:
    assert groups_of(["a/kitchen-3", "hall-1", "odd"], read_pattern(r"(\w+)-\d")) == ["kitchen", "hall", None]
    with pytest.raises(UsageError, match="no name of a sample matches; names are odd, other"):
        groups_of(["odd", "other"], read_pattern(r"(.*)_\d+"))


def test_long_names_are_seen_from_their_end() -> None:
    assert groups_of(["b" + "a" * 500 + "!"], read_pattern("(b?)a+!")) == [""]


@pytest.fixture(scope="module")
def segmenter(tiny_diffusion: Path) -> SegmentationModel:
    from vpd.config import Resize

    classes = ["sky", "tree", "car"]
    return SegmentationModel.from_diffusion(tiny_diffusion, classes=classes, head_channels=8, fit=Resize(size_px=64))


def test_recordings_are_drawn_unless_told_otherwise(segmenter: SegmentationModel) -> None:
    samples = named(*(f"{film}_{number}" for film in ("north", "south") for number in range(5)))
    own = evaluate(segmenter, samples)
    assert (own["groups"], own["grouped_by"]) == (2, "recording")
    alone = evaluate(segmenter, samples, group_by="none")
    assert (alone["groups"], alone["grouped_by"]) == (10, "")
    assert alone["metrics"] == own["metrics"] and alone["intervals"] != own["intervals"]
    pattern = evaluate(segmenter, samples, group_by=r"_(\d)")
    assert (pattern["groups"], pattern["grouped_by"]) == (5, r"_(\d)")


def test_groups_of_the_data_come_first(segmenter: SegmentationModel) -> None:
    samples = named(*(f"video_{number}" for number in range(5)))
    rooms = Samples(dataclasses.replace(sample, group=f"room {place // 2}") for place, sample in enumerate(samples))
    report = evaluate(segmenter, rooms)
    assert (report["groups"], report["grouped_by"]) == (3, "data")
    assert evaluate(segmenter, rooms, group_by="(video)")["groups"] == 1


def test_wrong_groups_are_told_before_anything_is_measured(segmenter: SegmentationModel) -> None:
    def fail(*_: Any) -> Callable[..., Any]:
        raise AssertionError("measured")

    for given, told in (("(.*", "no regular expression"), ("(x)", "names are a, b, c")):
        with pytest.raises(UsageError, match=told):
            evaluate(segmenter, named("a", "b", "c"), group_by=given, watch=fail)


def test_many_names_take_little_time() -> None:
    names = [f"video_{number * number}" for number in range(60_000)]  # no two steps are equal
    assert recordings_of(names) is None
