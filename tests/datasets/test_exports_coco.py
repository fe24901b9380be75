"""COCO files as annotation tools export them, and every command of the page on it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tiny import write_tiny_diffusion
from vpd.datasets.check import check_data
from vpd.datasets.coco import CocoInstances
from vpd.datasets.layouts import detect_format, open_data, splits_of
from vpd.errors import UsageError

PAGE = Path(__file__).parents[2] / "docs" / "own-data.md"
SIZE = 64
SMALL = ("steps=1", "batch_size=2", "crop_px=64", "workers=0", "pictures=0", "model_options.head_channels=8")


def write_coco(
    path: Path, pictures: dict[str, Path], *, categories: list[dict[str, Any]] | None = None, first_id: int = 1
) -> None:
    """An annotation file with a square on each picture.

    Args:
        path: The file.
        pictures: `file_name` of each picture -> where it is written.
        categories: The last of them is the square's.
        first_id: Of images and annotations.
    """
    categories = categories or [{"id": 1, "name": "square", "supercategory": ""}]
    images, annotations = [], []
    for place, (name, file) in enumerate(pictures.items()):
        pixels = np.random.default_rng(place).integers(0, 128, (SIZE, SIZE, 3), dtype=np.uint8)
        pixels[8:40, 8:40] = 255
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
        number = first_id + place
        images.append({"id": number, "file_name": name, "height": SIZE, "width": SIZE})
        polygon = [8, 8, 40, 8, 40, 40, 8, 40]
        mark = {"id": number, "image_id": number, "category_id": categories[-1]["id"], "iscrowd": 0}
        annotations.append({**mark, "area": 1024, "bbox": [8, 8, 32, 32], "segmentation": [polygon]})
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))


def numbered(folder: Path, form: str, numbers: Iterable[int] = (1, 2)) -> dict[str, Path]:
    return {form.format(number): folder / f"{number}.jpg" for number in numbers}


def write_roboflow(root: Path) -> None:
    categories = [
        {"id": 0, "name": "fish", "supercategory": "none"},
        {"id": 1, "name": "fish", "supercategory": "fish"},
    ]
    for split in ("train", "valid", "test"):
        write_coco(root / split / "_annotations.coco.json", numbered(root / split, "{}.jpg"), categories=categories)


def write_cvat(root: Path) -> None:
    file = root / "annotations/instances_default.json"
    write_coco(file, numbered(root / "images/default", "{}.jpg", (1, 2, 3)))
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = []  # a rectangle
    file.write_text(json.dumps(content))


def write_label_studio(root: Path) -> None:
    write_coco(root / "result.json", numbered(root / "images", "images\\{}.jpg"), first_id=0)


def write_labelme(root: Path) -> None:
    """What labelme writes: a JSON file beside each picture."""
    for number in range(1, 21):
        write_coco(root / "unused.json", {"": root / f"{number}.jpg"})
        shape = {"label": "mug", "shape_type": "polygon", "points": [[8, 8], [40, 8], [40, 40]]}
        size = {"imageHeight": SIZE, "imageWidth": SIZE}
        (root / f"{number}.json").write_text(json.dumps({"shapes": [shape], "imagePath": f"{number}.jpg", **size}))
    (root / "unused.json").unlink()


def write_labelme2coco(root: Path) -> None:
    """What `labelme2coco` adds to that, paths as they were where it ran."""
    for split, numbers in (("train", range(1, 16)), ("val", range(16, 21))):
        write_coco(root / f"{split}.json", numbered(root, "elsewhere/mugs/{}.jpg", numbers))


def square_labels() -> np.ndarray:
    labels = np.zeros((SIZE, SIZE))
    labels[8:40, 8:40] = 1
    return labels


@pytest.mark.parametrize(
    ("write", "splits", "source"),
    [
        (write_roboflow, ["train", "valid", "test"], "train/_annotations.coco.json"),
        (write_cvat, ["train"], None),
        (write_label_studio, ["train"], "result.json"),
        (write_labelme2coco, ["train", "val"], "train.json"),
        (lambda root: write_coco(root / "annotations.json", numbered(root, "{}.jpg")), ["train"], "annotations.json"),
    ],
)
def test_an_export_is_detected_and_read(tmp_path, write, splits, source):
    write(tmp_path)
    assert detect_format(tmp_path, "segment") == "coco_instances" and splits_of(tmp_path, "coco_instances") == splits
    for split in splits:
        samples = open_data(tmp_path, "segment", split=split)
        assert len(samples) >= 2 and len(samples.classes) == 2 and len(set(samples.sample_keys())) == len(samples)
        np.testing.assert_array_equal(samples[len(samples) - 1].labels, square_labels())
    assert source is None or open_data(tmp_path, "segment").notes[0] == f"annotations: {source}"


@pytest.mark.parametrize(
    ("file", "form", "folder"),
    [
        ("annotations/instances_train.json", "images/{}.jpg", "images"),
        ("annotations/instances_train.json", "JPEGImages\\{}.jpg", "JPEGImages"),
        ("annotations/instances_train.json", "{}.jpg", "."),
        ("annotations/instances_train.json", "pictures/{}.jpg", "annotations/pictures"),
        ("annotations/instances_Train.json", "{}.jpg", "images/Train"),
        ("annotations/train.json", "{}.jpg", "images"),
        ("labels.json", "{}.jpg", "data"),
        ("annotations/coco_train_v2.json", "day1/{}.jpg", "train/day1"),
    ],
)
def test_where_pictures_may_lie(tmp_path, file, form, folder):
    write_coco(tmp_path / file, numbered(tmp_path / folder, form))
    samples = CocoInstances(tmp_path, "train")
    assert [sample.image.shape for sample in samples] == [(SIZE, SIZE, 3)] * 2 and not samples.unpaired


OUTSIDE = [
    "../../label-studio/data/media/upload/1/{}.jpg",
    "/home/me/project/images/{}.jpg",
    "C:\\Users\\me\\images\\{}.jpg",
    "https://host.example/upload/{}.jpg?token=1",
    "/data/local-files/?d=project/images/{}.jpg",
]


@pytest.mark.parametrize("form", OUTSIDE)
def test_pictures_that_lie_elsewhere_are_found_by_the_end_of_their_path(tmp_path, form):
    root = tmp_path / "data"
    write_coco(root / "result.json", numbered(root / "images", form))
    samples = CocoInstances(root, "train")
    note = "2 of 2 pictures of result.json are not where it has them: found by the last part of their path"
    assert note in samples.notes
    assert {sample.name.rpartition("/")[2] for sample in samples} == {"1", "2"}
    assert all(picture.path.is_relative_to(root / "images") for picture, _ in samples.items)


def test_as_much_of_the_end_as_there_is_counts(tmp_path):
    names = {f"/old/{day}/1.jpg": tmp_path / f"images/{day}/1.jpg" for day in ("monday", "friday")}
    write_coco(tmp_path / "result.json", {"/old/1.jpg": tmp_path / "images/1.jpg", **names})
    paths = [picture.path for picture, _ in CocoInstances(tmp_path, "train").items]
    assert paths == [tmp_path / f"images/{name}1.jpg" for name in ("", "monday/", "friday/")]


def test_names_that_fit_several_are_not_guessed(tmp_path):
    write_coco(tmp_path / "result.json", numbered(tmp_path / "images", "/a/{}.jpg"))
    content = json.loads((tmp_path / "result.json").read_text())
    content["images"].append({**content["images"][0], "id": 3, "file_name": "/b/1.jpg"})
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(
        UsageError, match=r"2 train samples lack a file\. First: .*2 images have a path that ends in 1\.jpg"
    ):
        CocoInstances(tmp_path, "train")
    assert [sample.name for sample in CocoInstances(tmp_path, "train", unpaired="skip")] == ["2"]


@pytest.mark.parametrize(
    "form", ["../secret/{}.jpg", "{}/../../secret/1.jpg", "file:///{}/secret/1.jpg", "\\..\\secret\\{}.jpg"]
)
def test_nothing_outside_is_opened(tmp_path, form):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    write_coco(root / "result.json", {form.format("1"): tmp_path / "secret/1.jpg"})
    with pytest.raises(UsageError, match=r"data: no folder of pictures of train; looked for result, images/result, "):
        CocoInstances(root, "train")
    write_coco(root / "result.json", {form.format("1"): tmp_path / "secret/1.jpg", "2.jpg": root / "images/2.jpg"})
    with pytest.raises(UsageError, match=r"no .*/images/1\.jpg; the path in the file leads out of the data folder"):
        CocoInstances(root, "train")


def test_a_picture_of_another_folder_does_not_stand_in(tmp_path):
    """Only where none is found as it stands the end of a path counts."""
    write_coco(
        tmp_path / "result.json", {"a/1.jpg": tmp_path / "images/a/1.jpg", "b/1.jpg": tmp_path / "images/b/1.jpg"}
    )
    shutil.move(tmp_path / "images/b/1.jpg", tmp_path / "images/1.jpg")
    with pytest.raises(UsageError, match=r"1 train samples lack a file\. First: .*no .*/images/b/1\.jpg"):
        CocoInstances(tmp_path, "train")


def test_several_files_are_not_guessed(tmp_path):
    for name in ("one.json", "two.json"):
        write_coco(tmp_path / name, numbered(tmp_path / "images", "{}.jpg"))
    with pytest.raises(UsageError, match=r"several files for train: .*one\.json, .*two\.json\. Keep one of them"):
        CocoInstances(tmp_path, "train")
    write_coco(tmp_path / "annotations/instances_train.json", numbered(tmp_path / "images", "{}.jpg"))
    samples = CocoInstances(tmp_path, "train")
    assert samples.notes == ["annotations: annotations/instances_train.json; not read: one.json, two.json"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"images": [], "annotations": [{"image_id": 1, "segments_info": []}], "categories": []}',
        '{"images": [], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}',
    ],
)
def test_other_json_files_are_no_instances(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    (tmp_path / "folder.json").mkdir()
    for hidden in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        write_coco(tmp_path / hidden / "_annotations.coco.json", numbered(tmp_path / hidden, "{}.jpg"))
    with pytest.raises(UsageError, match="no data set for segment"):
        detect_format(tmp_path, "segment")
    write_coco(tmp_path / "mine.json", numbered(tmp_path, "{}.jpg"))
    assert detect_format(tmp_path, "segment") == "coco_instances" and splits_of(tmp_path, "coco_instances") == ["train"]


def commands() -> dict[str, list[str]]:
    """The lines of the bash blocks about COCO files, by the name of the export."""
    section = re.split(r"^## ", PAGE.read_text(encoding="utf-8").partition("## COCO files\n")[2], flags=re.MULTILINE)[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)
    return {name: block.splitlines() for block in blocks for name in re.findall(r"--data (\w+)", block)[:1]}


EXPORTS: dict[str, Callable[[Path], None]] = {
    "fish": write_roboflow,
    "streets": write_cvat,
    "leaves": write_label_studio,
    "mugs": write_labelme,
}


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diffusion(tmp_path_factory.mktemp("diffusion"))


@pytest.mark.parametrize("name", EXPORTS)
def test_every_command_of_the_page_runs(tmp_path, monkeypatch, capsys, diffusion, name):
    lines = commands()[name]
    assert len(lines) <= 6
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    EXPORTS[name](tmp_path / name)
    if "zipfile" in lines[0]:
        shutil.make_archive(name, "zip", name)
        shutil.rmtree(name)
    for line in lines:
        run(shlex.split(line), diffusion, tmp_path / name)
        assert line.startswith("vpd data check") is ("layout" in capsys.readouterr().out)
    config = json.loads((tmp_path / "runs" / name / "model/config.json").read_text())
    assert len(config["classes"]) == 2 and any((tmp_path / "predictions").rglob("*.png"))


def run(words: list[str], diffusion: Path, root: Path) -> None:
    """One command of the page, with a tiny model and a step; what another program would do is written instead."""
    from vpd.cli import main

    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], check=True)
    elif words[0] == "labelme2coco":
        write_labelme2coco(root)
    elif words[0] != "pip":
        small = [str(diffusion) if word.startswith("stable-diffusion") else word for word in words[1:]]
        small += [word for setting in SMALL for word in ("-s", setting)] if words[1] == "train" else []
        small += ["--workers", "0"] if words[1] == "eval" else []
        with pytest.raises(SystemExit) as stop:
            main(small)
        is_odd = words[1:3] == ["data", "check"] and bool(check_data("coco_instances", root).problems)
        assert int(stop.value.code or 0) == is_odd, words
