"""Data that cannot teach, found by a check of all samples and by a first look at some."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vpd.data.sample import CountedDepth, Sample, SampleSet
from vpd.datasets.check import check_data, check_samples
from vpd.datasets.first_look import look_at_some, tell_of_range, tell_of_turns
from vpd.datasets.layouts import held_out_split, open_data
from vpd.errors import UsageError

IMAGE = np.zeros((4, 4, 3), np.uint8)


class Own(SampleSet):
    """Samples of one's own."""

    def __init__(self, samples: list[Sample], classes: tuple[str, ...] = ()) -> None:
        self.samples, self.classes, self.read = samples, classes, 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.read += 1
        return self.samples[index]


def labelled(*rows: int, name: str = "a") -> Sample:
    return Sample(name, IMAGE, labels=np.repeat(np.array(rows, np.uint8)[:, None], 4, axis=1))


def deep(*values_m: float, name: str = "a") -> Sample:
    return Sample(name, IMAGE, depth_m=np.array(values_m, np.float32).reshape(4, 4))


def masked(value: bool, name: str = "a") -> Sample:
    return Sample(name, IMAGE, mask=np.full((4, 4), value), texts=("the cup",))


CANNOT_TEACH = {
    "one class": (Own([labelled(0, 0, 255, 255)], ("polyp",)), "one class only, 'polyp'.* 50.0 % .*label_map"),
    "one class, nothing ignored": (Own([labelled(0, 0, 0, 0)], ("polyp",)), "one class only.*name that too"),
    "all ignored": (Own([labelled(255, 255, 255, 255)], ("sky", "road")), "every pixel is ignored"),
    "the rest ignored": (
        Own([labelled(0, 0, 255, 255)], ("ground", "box")),
        "all pixels that count are 'ground'; none is of box, while 50.0 % .*label_map.*255.*box",
    ),
    "one class in all": (Own([labelled(0, 0, 0, 0)], ("ground", "box")), "all pixels are of one class, 'ground'"),
    "no depth": (Own([deep(*[0] * 16)]), "no pixel has a depth"),
    "empty masks": (Own([masked(False)]), "every mask is empty"),
}


@pytest.mark.parametrize("case", CANNOT_TEACH)
def test_what_cannot_teach_is_refused_and_a_problem(case: str):
    samples, words = CANNOT_TEACH[case]
    with pytest.raises(UsageError, match=f"1 of 1 training samples were looked at: .*{words}"):
        look_at_some(samples)
    problems = check_samples(samples).problems
    assert sum(problem.startswith("train: ") for problem in problems) == 1
    assert look_at_some(Own([labelled(0, 0, 1, 255)], ("ground", "box"))).samples == 1


def test_what_is_measured_on_may_have_one_class_in_all_pixels(caplog: pytest.LogCaptureFixture):
    samples = Own([labelled(0, 0, 255, 255)], ("ground", "box"))
    with caplog.at_level(logging.WARNING):
        look_at_some(samples, "val", is_to_learn=False)
    assert "1 of 1 val samples were looked at: all pixels that count are 'ground'" in caplog.text
    with pytest.raises(UsageError, match="every pixel is ignored"):
        look_at_some(Own([labelled(255, 255, 255, 255)], ("ground", "box")), is_to_learn=False)


def test_others_can_refute_what_a_dozen_show(caplog: pytest.LogCaptureFixture):
    samples = [labelled(0, 0, 0, 255, name=str(number)) for number in range(1000)]
    samples[15] = labelled(1, 1, 1, 1, name="15")
    found = Own(samples, ("ground", "box"))
    with caplog.at_level(logging.INFO):
        look_at_some(found)
    assert found.read == 15 and "The 12 training samples looked at are odd: looking at up to 196 more." in caplog.text
    samples[15] = samples[14]
    with pytest.raises(UsageError, match="^208 of 1,000 training samples were looked at: all pixels that count"):
        look_at_some(Own(samples, ("ground", "box")))
    rare = Own([labelled(0, 0, 0, 0, name=str(number)) for number in range(1000)], ("ground", "scratch"))
    assert look_at_some(rare).samples == 208  # a warning only: one in a thousand may have it


def test_depth_beyond_the_range_is_told_or_refused(caplog: pytest.LogCaptureFixture):
    some = Own([deep(*[2.0] * 12, *[65.535] * 4)])
    with caplog.at_level(logging.INFO):
        tell_of_range(look_at_some(some, range_m=10.0))
        tell_of_range(look_at_some(some, range_m=10.0), counts_beyond=True)
        tell_of_range(look_at_some(some, range_m=80.0))
    told = "25.0 % of the measured pixels (1 training samples looked at) are beyond max_depth_m=10 and"
    assert caplog.messages == [f"{told} do not count.", f"{told} count in the loss, as published."]
    far = Own([deep(*range(11, 27))])
    with pytest.raises(UsageError, match=r"100.0 % .*max_depth_m=10 .*11.000 to 26.000 m.*depth_scale"):
        look_at_some(far, range_m=10.0)
    far.counted = CountedDepth(max_depth_m=80.0)
    look_at_some(far, "val", range_m=10.0, is_to_learn=False)  # the data say what counts
    assert any("beyond 10 m: 25.0 %" in line for line in check_samples(some).lines())
    caplog.clear()
    look_at_some(Own([deep(*[0.004] * 16)]), range_m=10.0)
    assert "Is depth_scale" in caplog.text


def test_labels_outside_the_list_name_the_sample():
    samples = Own([labelled(0, 1, 2, 3, name="street/7"), labelled(0, 1, 1, 1)], ("sky", "road"))
    assert check_samples(samples).problems == [
        "street/7: label 2 at row 2, column 0 is outside the class list (0..1, ignored: 255)"
    ]
    with pytest.raises(UsageError, match="Of 2 training samples .* 1 cannot be used: street/7: label 2"):
        look_at_some(samples)


def write_pair(root: Path, name: str, *, labels: np.ndarray, split: str = "train", exif: int = 1) -> None:
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.repeat((labels * 100).astype(np.uint8)[..., None], 3, axis=2))
    header = Image.Exif()
    header[0x0112] = exif
    image.save(root / "images" / split / f"{name}.png", exif=header)
    Image.fromarray(labels).save(root / "labels" / split / f"{name}.png")


def write_classes(root: Path, *names: str, **more: object) -> Path:
    (root / "classes.json").write_text(json.dumps({"classes": names, **more}))
    return root


def test_a_class_without_a_pixel_beside_ignored_ones_is_asked_about(tmp_path: Path):
    labels = np.zeros((8, 6), np.uint8)
    labels[:3], labels[6:] = 1, 255
    write_pair(write_classes(tmp_path, "ground", "cat", "dog"), "a", labels=labels)
    (problem,) = check_data(None, tmp_path).problems
    assert "classes without a pixel: dog" in problem and '"label_map": {"255": "dog"}' in problem
    write_classes(tmp_path, "ground", "cat", "dog", ignore_index=255)
    assert check_data("folder", tmp_path).problems == []


@pytest.mark.parametrize("exif", [3, 6])
def test_an_exif_turn_is_asked_about_once_and_an_option_answers(exif: int, tmp_path: Path, caplog):
    labels = np.zeros((8, 6), np.uint8)
    labels[:4] = 1
    write_pair(write_classes(tmp_path, "ground", "box"), "a", labels=labels, exif=exif)
    sample = open_data(tmp_path, "segment", exif="ignore")[0]
    assert np.array_equal(sample.image[..., 0], labels * 100) and sample.exif_turn == exif
    assert check_data("folder", tmp_path, options={"exif": "ignore"}).problems == []
    (problem,) = check_data("folder", tmp_path).problems
    if exif == 6:
        assert "differs from the image's 8x6" in problem and "turned by its EXIF orientation 6" in problem
        return
    assert "train: 1 picture carries an EXIF turn" in problem and "exif=ignore" in problem
    tell_of_turns(look_at_some(open_data(tmp_path, "segment")))
    assert "Of 1 samples that were looked at, 1 picture carries an EXIF turn" in caplog.text
    caplog.clear()
    tell_of_turns(look_at_some(open_data(tmp_path, "segment", exif="apply")))
    assert "EXIF" not in caplog.text
    with pytest.raises(UsageError, match="exif='turn'; choose one of: apply, ignore"):
        open_data(tmp_path, "segment", exif="turn")


def test_files_that_a_list_names_are_looked_for(tmp_path: Path):
    image = np.zeros((4, 4, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "0.png")
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "depth.png")
    names = [0] * 1 + list(range(1, 40))
    lines = [f"{number}.png,depth.png" for number in names]
    (tmp_path / "train.csv").write_text("\n".join(["image,depth", *lines]))
    for number in names[1:-1]:
        (tmp_path / f"{number}.png").hardlink_to(tmp_path / "0.png")
    samples = open_data(tmp_path, "depth")
    with pytest.raises(UsageError, match=r"1 of 80 validation files are not there: .*39\.png"):
        look_at_some(samples, "validation")
    look_at_some(samples, max_share=0.01)  # one may always be missing in training


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train", "test", "Valid"), "Valid"),
        (("test", "train", "validation"), "validation"),
        (("DEV", "test", "train"), "DEV"),
        (("dev", "val", "train"), "val"),
        (("Test", "train"), "Test"),
        (("train",), None),
    ],
)
def test_test_never_stands_in_for_a_validation_split(splits: tuple[str, ...], expected: str | None, tmp_path: Path):
    for split in splits:
        write_pair(tmp_path, "a", labels=np.zeros((4, 4), np.uint8), split=split)
    assert held_out_split(tmp_path, "folder") == expected


def test_unpaired_files_come_first(tmp_path: Path):
    write_classes(tmp_path, "ground", "box")
    for split in ("train", "val"):
        write_pair(tmp_path, "a", labels=np.full((4, 4), 7, np.uint8), split=split)
    Image.new("RGB", (4, 4)).save(tmp_path / "images/val/lone.png")
    problems = check_data("folder", tmp_path).problems
    assert len(problems) == 3 and "lone" in problems[0]


def test_annotations_that_are_all_crowds_are_told_of(tmp_path: Path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train/a.png")
    crowd = {
        "id": 1,
        "image_id": 1,
        "category_id": 3,
        "iscrowd": 1,
        "segmentation": {"size": [8, 8], "counts": [8, 56]},
    }
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}],
        "categories": [{"id": 3, "name": "herd"}],
        "annotations": [crowd],
    }
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(content))
    samples = open_data(tmp_path, "segment")
    with pytest.raises(UsageError, match=r"none is of herd, while 87.5 % .* crowds \(crowd=class counts them\)"):
        look_at_some(samples)
    look_at_some(open_data(tmp_path, "segment", crowd="class"))


def test_records_have_turns_and_masks_too(tmp_path: Path):
    write_pair(tmp_path, "a", labels=np.ones((8, 6), np.uint8), exif=6)
    Image.fromarray(np.zeros((8, 6), np.uint8)).save(tmp_path / "mask.png")
    record = {"image": "images/train/a.png", "mask": "mask.png", "expression": "the box"}
    (tmp_path / "train.jsonl").write_text(json.dumps(record))
    (problem,) = check_data("records", tmp_path).problems
    assert "mask size 6x8 differs from the image's 8x6" in problem and "EXIF orientation 6" in problem
    overall, *_ = check_data("records", tmp_path, options={"exif": "ignore"}).problems
    assert overall.startswith("train: every mask is empty")
    with pytest.raises(UsageError, match="every mask is empty"):
        look_at_some(open_data(tmp_path, "refer", exif="ignore"))


def test_depth_that_an_option_leaves_out_is_not_blamed_on_zeros(tmp_path: Path):
    for kind in ("images", "depth"):
        (tmp_path / kind).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images/a.png")
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(tmp_path / "depth/a.png")
    with pytest.raises(UsageError, match=r"beyond max_depth_m=0\.1, the option"):
        look_at_some(open_data(tmp_path, "depth", max_depth_m=0.1))
