import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vpd.datasets.check import check_data
from vpd.datasets.coco_files import annotation_files
from vpd.datasets.coco_panoptic import CocoPanoptic
from vpd.datasets.layouts import detect_format, open_data
from vpd.errors import UsageError

IDS = {1: 7, 300: 90, 70_000: 1}
"""Segment -> category; the ids need one, two and three bytes."""


def panoptic(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)).save(path)


def content(names: list[str]) -> dict[str, Any]:
    segments = [{"id": number, "category_id": category, "iscrowd": number == 300} for number, category in IDS.items()]
    images = [{"id": place, "file_name": f"{name}.jpg", "height": 6, "width": 8} for place, name in enumerate(names)]
    annotations = [
        {"image_id": place, "file_name": f"{name}.png", "segments_info": segments} for place, name in enumerate(names)
    ]
    categories = [{"id": 90, "name": "sky"}, {"id": 7, "name": "dog "}, {"id": 1, "name": "person"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def segments() -> np.ndarray:
    ids = np.zeros((6, 8), dtype=np.int64)
    ids[:2], ids[2:4], ids[4, :4] = 1, 300, 70_000
    return ids


@pytest.fixture(params=["coco", "sample"])
def root(request, tmp_path, picture) -> Path:
    """COCO's own layout and a simpler one, each with a train and a val split."""
    folder = tmp_path / "coco"
    for split, name in (("train", "a"), ("val", "b")):
        if request.param == "coco":
            file = folder / f"annotations/panoptic_{split}2017.json"
            pictures, pngs = folder / f"{split}2017", folder / f"annotations/panoptic_{split}2017"
        else:
            file = folder / f"panoptic_{split}.json"
            pictures, pngs = folder / f"images/{split}", folder / f"panoptic/{split}"
        picture(pictures / f"{name}.jpg")
        panoptic(pngs / f"{name}.png", segments())
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content([name])))
    return folder


@pytest.fixture
def file(root) -> Path:
    (path,) = annotation_files(root, "panoptic")["train"]
    return path


def test_ids_of_three_bytes_become_classes(root):
    samples = CocoPanoptic(root, "train")
    assert samples.classes == ("sky", "dog", "person"), "in the order of the file, not of the ids"
    sample = samples[0]
    expected = np.full((6, 8), 255)
    expected[:2], expected[2:4], expected[4, :4] = 1, 0, 2
    assert sample.name == "a" and np.array_equal(sample.labels, expected)
    assert CocoPanoptic(root, "val")[0].name == "b"


def test_detection_and_check(root):
    assert detect_format(root, "segment") == "coco_panoptic"
    assert len(open_data(root, "segment")) == 1
    report = check_data("coco_panoptic", root)
    assert report.problems == [] and {split.split for split in report.splits} == {"train", "val"}


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        CocoPanoptic(root, split, **options)
    return str(error.value)


def extra_categories(data: Any) -> None:
    data["categories"] += [{"id": 1000 + n, "name": f"c{n}"} for n in range(252)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("categories"), "'categories' is missing or of the wrong type; it must be a list"),
        (lambda data: data["categories"][0].update(id=7), "category 1: id 7 stands twice"),
        (lambda data: data["categories"][0].update(name="person"), "categories: class names stand twice: person"),
        (lambda data: data["categories"][0].update(name=" "), "categories: must be a list of class names, none empty"),
        (extra_categories, "categories: 255 classes; 8-bit labels hold 1 to 254"),
        (lambda data: data["images"][0].pop("file_name"), "'file_name' is missing"),
        (lambda data: data["images"][0].pop("height"), "image 0: 'height' is missing"),
        (lambda data: data["images"][0].update(id=True), "image 0: 'id' is missing or of the wrong type"),
        (lambda data: data["annotations"][0].update(file_name="/a.png"), "annotation 0: '/a.png' leads out"),
        (lambda data: data["annotations"].clear(), "has no annotation; the train split is empty"),
    ],
)
def test_wrong_annotations(root, file, edit_json, change, message):
    edit_json(file, change)
    told = refusal(root)
    assert told.startswith(str(file)) and message in told


@pytest.mark.parametrize(
    ("change", "message", "ignored"),
    [
        (lambda a: a.append({**a[0], "image_id": 5}), "annotation 1: image 5 is not among the images", None),
        (lambda a: a.append(a[0]), "annotation 1: image 0 has an annotation already", None),
        (lambda a: a.append({"image_id": 9}), "annotation 1: image 9 is not among the images", None),
        (lambda a: a.append(None), "annotation 1: image None is not among the images", None),
        (lambda a: a[0]["segments_info"].append({"id": 300, "category_id": 1}), "segment id 300 stands twice", None),
        (lambda a: a[0]["segments_info"].append({"id": 0, "category_id": 1}), "or is not 1..16777215", None),
        (lambda a: a[0]["segments_info"].append("x"), "segment id None stands twice, or is not 1", None),
        (lambda a: a[0]["segments_info"][0].update(category_id=8), "category 8 of segment 1 is not among", 1),
        (lambda a: a[0]["segments_info"][0].update(category_id=[8]), "category None of segment 1 is not among", 1),
    ],
)
def test_odd_annotations_and_segments_cost_only_themselves(root, file, edit_json, change, message, ignored):
    expected = CocoPanoptic(root, "train")[0].labels
    edit_json(file, lambda data: change(data["annotations"]))
    samples = CocoPanoptic(root, "train")
    expected[segments() == ignored] = 255
    assert len(samples) == 1 and np.array_equal(samples[0].labels, expected)
    (line,) = samples.unpaired
    assert line.startswith(str(file)) and message in line and line.endswith(": left out")
    assert f"1 annotations or segments of {file.name} are left out: " in samples.notes[0]
    assert check_data("coco_panoptic", root).problems == [line]


def test_missing_files_are_left_out_on_request(root, file, edit_json, picture):
    def more(data):
        data["images"] += [{"id": n, "file_name": f"{n}.jpg", "height": 6, "width": 8} for n in (5, 6)]
        data["annotations"] += [{**data["annotations"][0], "image_id": n, "file_name": f"{n}.png"} for n in (5, 6)]

    edit_json(file, more)
    (png,), (jpg,) = root.rglob("a.png"), root.rglob("a.jpg")
    picture(jpg.with_name("5.jpg"))
    shutil.copy(png, png.with_name("6.png"))
    told = refusal(root)
    assert f"2 train samples lack a file. First: {file}, image 6: no {jpg.with_name('6.jpg')}" in told
    assert f"{file}, image 5: no {png.with_name('5.png')}. Add the files, or set unpaired=skip" in told
    samples = CocoPanoptic(root, "train", unpaired="skip")
    assert [sample.name for sample in samples] == ["a"] and len(samples.unpaired) == 2
    assert samples.notes == [
        f"1 of 3 {what} of {file.name} are not there: left out" for what in ("pictures", "panoptic PNGs")
    ]
    assert check_data("coco_panoptic", root).problems == samples.unpaired
    png.unlink()
    assert "the train split has no sample with all its files" in refusal(root, unpaired="skip")


def test_wrong_files(root, file, tmp_path):
    assert "no split 'test'; looked for annotations/panoptic_test.json" in refusal(root, "test")
    assert "Splits there: train, val" in refusal(root, "test")
    (root / "panoptic_train2014.json").write_text("{}")
    assert "several files for train: " in refusal(root)
    (root / "panoptic_train2014.json").unlink()
    file.write_text("[]")
    assert "'images' is missing or of the wrong type" in refusal(root)
    file.write_text("{")
    assert "not JSON" in refusal(root)


def test_missing_folders(root, file):
    (pngs,) = [path.parent for path in root.rglob("a.png")]
    pngs.rename(root / "elsewhere")
    assert "no folder of panoptic PNGs of train; looked for" in refusal(root)
    (pictures,) = [path.parent for path in root.rglob("a.jpg")]
    pictures.rename(root / "pictures")
    told = refusal(root)
    assert "no folder of pictures of train; looked for" in told and "images/train" in told


def test_pictures_without_annotation_are_noted(root, file, edit_json):
    edit_json(file, lambda data: data["images"].append({"id": 9, "file_name": "z.jpg", "height": 6, "width": 8}))
    samples = CocoPanoptic(root, "train")
    assert len(samples) == 1 and "1 of 2 pictures of" in samples.notes[0]


def test_wrong_pictures(root, picture):
    samples = CocoPanoptic(root, "train")
    (png,) = root.rglob("a.png")
    ids = segments()
    ids[3, 5] = 301
    panoptic(png, ids)
    with pytest.raises(UsageError, match=r"a\.png: segment 301 at row 3, column 5 is not in its annotation"):
        samples[0]
    panoptic(png, segments()[:, :7])
    with pytest.raises(UsageError, match=r"a\.png: panoptic size 7x6 differs from the image's 8x6 \(.*a\.jpg\)"):
        samples[0]
    Image.new("L", (8, 6)).save(png)
    with pytest.raises(UsageError, match=r"a\.png: panoptic PNGs have 8-bit RGB; .* has one channel of 8 bits"):
        samples[0]


def test_real_annotations_agree_with_the_semantic_pictures(test_data):
    """The same pictures come with category ids already painted: every pixel must agree."""
    root = test_data / "coco_panoptic"
    samples = CocoPanoptic(root, "train")
    assert len(samples) == 100 and len(samples.classes) == 133
    categories = json.loads((root / "panoptic_train.json").read_text())["categories"]
    id_of_class = np.array([category["id"] for category in categories] + [0] * 123)
    for place in range(len(samples)):
        sample = samples[place]
        semantic = np.asarray(Image.open(root / f"semantic/train/{sample.name}.png"))
        assert np.array_equal(id_of_class[sample.labels], semantic), sample.name
