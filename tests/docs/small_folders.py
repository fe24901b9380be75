"""Small folders of pictures with labels, as users have them, for the pages that train on "your own" pictures.

The pictures are rendered scenes, as JPEG; nothing in the folders says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from vpd.config import Task
from vpd.data.sample import Sample
from vpd.world.dataset import WorldSamples
from vpd.world.scenes import CLASSES

COUNTS = {"train": 24, "val": 8, "test": 8}
SIZE_PX = (64, 80)
"""Height and width: small, so that the training that a page asks for takes a minute."""
NEW = 3


def segmentation_folder(root: Path) -> None:
    """`my-data`: pictures, masks of class numbers and a list of classes; `new-photos`: 1.jpg to 3.jpg alone."""
    _write(root, "segment", lambda sample, split: _numbers(root, sample, split))
    (root / "my-data" / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def depth_folder(root: Path) -> None:
    """`my-data`: pictures and their depth, 16 bits in millimetres, with holes as a sensor leaves them."""
    _write(root, "depth", lambda sample, split: _millimetres(root, sample, split))


def referring_folder(root: Path) -> None:
    """`my-data`: pictures, a mask of one object of each, and lists that say what people call it."""
    lines: dict[str, list[str]] = {split: [] for split in COUNTS}
    _write(root, "refer", lambda sample, split: lines[split].append(_expressions(root, sample, split)))
    for split, its_lines in lines.items():
        (root / "my-data" / f"{split}.jsonl").write_text("\n".join(its_lines) + "\n")


def _write(root: Path, task: Task, write_truth: Callable[[Sample, str], None]) -> None:
    for split, count in COUNTS.items():
        for sample in WorldSamples(task, split, count, SIZE_PX):  # type: ignore[arg-type]
            _save(sample.image, root / "my-data" / "images" / split / f"{_short(sample)}.jpg", quality=95)
            write_truth(sample, split)
    new = WorldSamples(task, "test", COUNTS["test"] + NEW, SIZE_PX)
    for number in range(1, NEW + 1):
        _save(new[len(new) - number].image, root / "new-photos" / f"{number}.jpg", quality=95)


def _numbers(root: Path, sample: Sample, split: str) -> None:
    _save(sample.labels, root / "my-data" / "labels" / split / f"{_short(sample)}.png")


def _millimetres(root: Path, sample: Sample, split: str) -> None:
    depth_mm = (1000 * sample.depth_m).astype(np.uint16)
    depth_mm[: SIZE_PX[0] // 16] = 0
    _save(depth_mm, root / "my-data" / "depth" / split / f"{_short(sample)}.png")


def _expressions(root: Path, sample: Sample, split: str) -> str:
    mask = Path("masks", split, f"{_short(sample)}.png")
    _save(255 * sample.mask.astype(np.uint8), root / "my-data" / mask)
    image = Path("images", split, f"{_short(sample)}.jpg")
    return json.dumps({"image": image.as_posix(), "mask": mask.as_posix(), "expressions": list(sample.texts)})


def _short(sample: Sample) -> str:
    return sample.name.rsplit("-", 1)[1]


def _save(pixels: np.ndarray | Image.Image | None, path: Path, **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
