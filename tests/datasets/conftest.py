"""Small data sets in the true formats, traps included."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco


def picture(path: Path, height: int = 6, width: int = 8, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def grey(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture(name="picture")
def _picture() -> Callable[..., None]:
    """Writes a picture of random pixels."""
    return picture


@pytest.fixture(name="grey")
def _grey() -> Callable[..., None]:
    """Writes a one-channel picture."""
    return grey


@pytest.fixture
def folder_root(tmp_path: Path) -> Path:
    """CamVid's layout: two train pairs, one val pair, one pair outside the list."""
    root = tmp_path / "streets"
    for split, names in (("train", ("b2", "b10", "unlisted")), ("val", ("v1",))):
        for seed, name in enumerate(names):
            picture(root / "images" / split / f"{name}.jpg", seed=seed)
            labels = np.zeros((6, 8), dtype=np.uint8)
            labels[:, 4:] = 2
            labels[0, 0] = 255
            grey(root / "labels" / split / f"{name}.png", labels)
    (root / "train.txt").write_text("b2\nb10.jpg\n\n")
    (root / "classes.json").write_text(json.dumps({"classes": ["sky", "road ", "car"], "ignore_index": 255}))
    return root


@pytest.fixture
def nyu_root(tmp_path: Path) -> Path:
    """NYU as the reference reads it; the last line of a list lacks its newline."""
    root = tmp_path / "nyu_depth_v2"
    for folder, scene in (("sync", "study_room_0004"), ("sync", "kitchen_0028b"), ("official_splits/test", "bathroom")):
        for number in (45, 46):
            picture(root / folder / scene / f"rgb_{number:05d}.jpg", seed=number)
            depth = np.full((6, 8), 1000 + number, dtype=np.uint16)
            depth[0, 0] = 0
            grey(root / folder / scene / f"sync_depth_{number:05d}.png", depth)
    lines = [
        f"/{s}/rgb_{n}.jpg /{s}/sync_depth_{n}.png"
        for s, n in (("study_room_0004", "00045"), ("kitchen_0028b", "00046"))
    ]
    (root / "train_list.txt").write_text("\n".join(lines))
    (root / "test_list.txt").write_text("bathroom/rgb_00045.jpg bathroom/sync_depth_00045.png 518.8579\n")
    return root


SQUARE, OTHER, INSIDE = ([x, y, x + 3, y, x + 3, y + 3, x, y + 3] for x, y in ((0, 0), (5, 2), (1, 1)))
SENTENCES = {
    1: ("train", 11, ["the lady with the blue shirt", "lady on the left", "she"]),
    2: ("train", 12, ["cup"]),
    3: ("val", 13, ["dog", "the dog"]),
    4: ("testA", 11, ["woman"]),
    5: ("testB", 12, ["thing"]),
}


@pytest.fixture
def refer_root(tmp_path: Path) -> Path:
    """REFER's layout: disjoint polygons (11), overlapping polygons (12), run lengths (13), as Python 2 pickles them."""
    root = tmp_path / "refer"
    pictures = root / "images/mscoco/images/train2014"
    for image_id in (7, 8):
        picture(pictures / f"COCO_train2014_{image_id:012d}.jpg", 6, 9, seed=image_id)
    full = np.zeros((6, 9), dtype=np.uint8, order="F")
    full[2:4, 1:8] = 1
    runs = coco.encode(full)
    annotations: list[dict[str, Any]] = [
        {"id": 11, "image_id": 7, "segmentation": [SQUARE, OTHER]},
        {"id": 12, "image_id": 7, "segmentation": [SQUARE, INSIDE]},
        {"id": 13, "image_id": 8, "segmentation": {"size": [6, 9], "counts": runs["counts"].decode()}},
    ]
    (root / "refcoco").mkdir()
    images = [{"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": 6, "width": 9} for i in (7, 8)]
    (root / "refcoco" / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    refs = [
        {
            "ref_id": ref_id,
            "ann_id": ann_id,
            "image_id": 8 if ann_id == 13 else 7,
            "split": split,
            "category_id": 1,
            "file_name": f"COCO_train2014_000000000007_{ann_id}.jpg",
            "sent_ids": list(range(len(texts))),
            "sentences": [
                {"tokens": text.split(), "raw": text.upper(), "sent_id": number, "sent": text}
                for number, text in enumerate(texts)
            ],
        }
        for ref_id, (split, ann_id, texts) in SENTENCES.items()
    ]
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))
    return root


Edit = Callable[[Path, Callable[[Any], Any]], None]


@pytest.fixture
def edit_json() -> Edit:
    """Change the content of a JSON file in place."""

    def edit(path: Path, change: Callable[[Any], Any]) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit
