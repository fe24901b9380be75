"""KITTI depth, Eigen split: raw pictures with the annotated depth of the depth benchmark.

```
raw_data/2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png          (raw_data/ may be left out)
data_depth_annotated/{train,val}/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png
train_list.txt, test_list.txt     "/raw_data/2011_09_26/... /data_depth_annotated/val/...", or the lists of BTS
```
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vpd.data.sample import CountedDepth, Sample
from vpd.datasets.annotations import shipped_json
from vpd.datasets.layout import Layout
from vpd.datasets.pair_lists import ListedDepth, ListedPair, find_list, read_listed
from vpd.datasets.sample_reader import PartReader
from vpd.errors import UsageError
from vpd.metrics.depth import crop_window

SPLITS = ("train", "test")
"""Splits of Eigen et al.; there is no val."""
LISTS = ("{}_list.txt", "eigen_benchmark/{}_list.txt", "eigen_{}_files_with_gt.txt", "kitti_eigen_{}_files_with_gt.txt")
"""Where the published lists of a split may lie below the root."""
IMAGE_FOLDERS = (".", "raw_data")
"""What a list's picture names may be relative to, below the root."""
DEPTH_FOLDERS = (".", "data_depth_annotated", "data_depth_annotated/train", "data_depth_annotated/val")
"""What a list's depth names may be relative to, below the root."""
SCENE = "street"
"""The one scene. Depth prompts are made of scenes; KITTI names none, and all of it was seen from one car."""

_HEIGHT, _WIDTH = 352, 1216
Crop = Literal["garg", "eigen", "none"]
CropOf = Literal["kb", "picture"]


class KittiDepth(ListedDepth):
    """Samples with `depth_m`; the drive is their `group`.

    Args:
        root: Folder with `data_depth_annotated/`, the raw pictures and the lists.
        split: `train` or `test`; `val` means `test`.
        list_file: Another list of pairs; default is the published list of the split if it lies in the root, and
            for `test` the 652 pictures of the Eigen split that have annotated depth.
        kb_crop: Cut picture and depth to the benchmark's 352x1216, bottom and centre.
        crop: Part that counts in evaluation; none = `none`.
        crop_of: What the fractions of `crop` are taken of: the `kb` cut, as GLPDepth and VPD do, or the whole
            `picture`, as BTS does. Without `kb_crop` they are one.

    Raises:
        UsageError: If there is no such split or no list, a list line is malformed, or an option is unknown.
    """

    scenes: tuple[str, ...] = (SCENE,)
    _reader = PartReader(depth_scale=256)

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        list_file: str | Path | None = None,
        kb_crop: bool = True,
        crop: Crop | None = "garg",
        crop_of: CropOf = "kb",
    ) -> None:
        self.root = Path(root)
        crop = crop or "none"
        split = "test" if split == "val" else split
        if split not in SPLITS:
            raise UsageError(f"{root}: no split {split!r}; there are: {', '.join(SPLITS)} (val means test)")
        for name, value, known in (("crop", crop, get_args(Crop)), ("crop_of", crop_of, get_args(CropOf))):
            if value not in known:
                raise UsageError(f"{name}={value!r}; choose one of: {', '.join(known)}")
        listed = self._take_list(self.root, list_file, _list_names(split))
        if not listed and split == "test":
            self.pairs = eigen_test_pairs()
            self.notes = ["list: the 652 pictures of the Eigen split with annotated depth"]
        elif not listed:
            raise UsageError(
                f"{root}: no list of the {split} split; looked for {', '.join(_list_names(split))}. Put it there, or "
                "set list_file"
            )
        if not self.pairs:
            raise UsageError(f"{listed}: has no picture with a depth")
        self._kb_crop = kb_crop
        # A part of the whole picture is no part of its cut that fractions can say, so the truth outside goes instead.
        self._truth_crop: Literal["garg", "eigen"] | None = None
        counted_crop: Literal["garg", "eigen"] | None = None if crop == "none" else crop
        if kb_crop and crop_of == "picture" and split == "test":
            self._truth_crop, counted_crop = counted_crop, None
        self.counted = CountedDepth(min_depth_m=1e-3, max_depth_m=80.0, crop=counted_crop)

    def files(self) -> Iterable[Path]:
        """Pictures and their depth."""
        folders = (IMAGE_FOLDERS, DEPTH_FOLDERS)
        return (self._find(name, places) for pair in self.pairs for name, places in zip(pair[:2], folders, strict=True))

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            UsageError: If a file is missing or cannot be read, sizes differ, or the picture is too small to cut.
        """
        pair = self.pairs[index]
        image_path = self._find(pair.image, IMAGE_FOLDERS)
        drive = re.search(r"[0-9_]+_drive_[0-9]+", pair.image)
        sample = read_listed(
            self._reader,
            str(PurePosixPath(pair.image).with_suffix("")).removeprefix("raw_data/"),
            image=image_path,
            depth=self._find(pair.depth, DEPTH_FOLDERS),
            origin=pair.origin,
            exif=self.exif,
            scene=SCENE,
            group=drive.group() if drive else None,
        )
        image, depth_m = sample.image, np.asarray(sample.depth_m)
        if self._truth_crop:
            rows, columns = crop_window(self._truth_crop, *depth_m.shape)
            inside = np.zeros_like(depth_m)
            inside[rows, columns] = depth_m[rows, columns]
            depth_m = inside
        if self._kb_crop:
            rows, columns = _kb_window(image, image_path)
            image, depth_m = image[rows, columns], depth_m[rows, columns]
        return replace(sample, image=image, depth_m=depth_m)

    def _find(self, name: str, folders: tuple[str, ...]) -> Path:
        """The file of a list's name; below the root where there is none."""
        paths = [self.root / folder / name for folder in folders]
        return next((path for path in paths if path.is_file()), paths[0])


def has_list(root: Path, split: str) -> bool:
    """Whether it is known which pictures a split has; of `test` it always is."""
    return split == "test" or find_list(root, None, _list_names(split)) is not None


def _list_names(split: str) -> list[str]:
    return [name.format(split) for name in LISTS]


def eigen_test_pairs() -> list[ListedPair]:
    """The 652 pictures of the Eigen test split that have annotated depth."""
    return [
        ListedPair(
            f"{drive[:10]}/{drive}/image_02/data/{frame:010d}.png",
            f"{drive}/proj_depth/groundtruth/image_02/{frame:010d}.png",
            "the Eigen test split",
        )
        for drive, frames in shipped_json("kitti_eigen_test.json").items()
        for frame in frames
    ]


def _kb_window(image: NDArray[np.uint8], path: Path) -> tuple[slice, slice]:
    """Rows and columns of the benchmark's cut."""
    height, width = image.shape[:2]
    if height < _HEIGHT or width < _WIDTH:
        raise UsageError(
            f"{path}: picture size {width}x{height}; KITTI's cut needs {_WIDTH}x{_HEIGHT} or more. "
            "Set kb_crop=false for other pictures"
        )
    left = (width - _WIDTH) // 2
    return slice(height - _HEIGHT, height), slice(left, left + _WIDTH)


LAYOUT = Layout(
    parts=("depth",),
    signs="data_depth_annotated/",
    is_here=lambda root: (root / "data_depth_annotated").is_dir(),
    splits=lambda root: [split for split in SPLITS if has_list(root, split)],
    open=KittiDepth,
    full={"train": 23_158, "test": 652},
)
