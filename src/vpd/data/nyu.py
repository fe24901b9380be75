"""NYU Depth v2 in the layout that the reference reads: list files or folders of `rgb_*.jpg`, `sync_depth_*.png`.

```
sync/kitchen_0028b/rgb_00045.jpg, sync_depth_00045.png              split train
official_splits/test/bathroom/rgb_00045.jpg, sync_depth_00045.png   split test
train_list.txt, test_list.txt       "/kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png [focal]"
```
"""

from __future__ import annotations

import json
import logging
import re
from importlib import resources
from pathlib import Path, PurePosixPath

import numpy as np

from vpd.data.samples import Sample
from vpd.errors import UsageError
from vpd.images import read_depth, read_image

logger = logging.getLogger(__name__)

FOLDERS = {"train": "sync", "test": "official_splits/test"}
"""Where the pictures of each split lie."""


def nyu_scenes() -> tuple[str, ...]:
    """The 27 scene classes, in the order of the published embeddings."""
    text = resources.files("vpd.data").joinpath("nyu_scenes.json").read_text(encoding="utf-8")
    return tuple(json.loads(text))


class NyuDepth:
    """Samples with `depth_m` and, where the name tells, `scene`.

    Args:
        root: Folder with `sync/` or `official_splits/`, and the list files if there are any.
        split: `train` or `test`; there is no `val`: like the reference, `val` means `test`.
        list_file: Another list of pairs; default is `{split}_list.txt` in the root, and without it every pair
            in the folder counts.
        strict_scenes: Tell the scene from the folder's whole name, not by the reference's substring rule.

    Raises:
        UsageError: If the folder has another layout or a list line is malformed.
    """

    classes: tuple[str, ...] = ()

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        list_file: str | Path | None = None,
        strict_scenes: bool = False,
    ) -> None:
        self.root = Path(root)
        if split == "val":
            logger.info("%s: NYU has no val split; using test, as the reference does", root)
            split = "test"
        if split not in FOLDERS:
            raise UsageError(f"{root}: no split {split!r}; there are: train, test (val means test)")
        self.folder = self.root / FOLDERS[split]
        if not self.folder.is_dir():
            raise UsageError(f"{root}: no folder {FOLDERS[split]}/, where the {split} pictures of NYU lie")
        self.scenes = nyu_scenes()
        self._strict_scenes = strict_scenes
        listed = Path(list_file) if list_file else self.root / f"{split}_list.txt"
        if listed.is_file():
            self.pairs = read_pair_list(listed)
        elif list_file:
            raise UsageError(f"{listed}: no such list file")
        else:
            self.pairs = _find_pairs(self.folder)
        if not self.pairs:
            raise UsageError(f"{root}: the {split} split has no pair of rgb_*.jpg and sync_depth_*.png")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            UsageError: If a file cannot be read or sizes differ.
        """
        image_name, depth_name = self.pairs[index]
        image = np.array(read_image(self.folder / image_name))
        depth_m = read_depth(self.folder / depth_name, scale=1000)  # files hold millimetres
        if depth_m.shape != image.shape[:2]:
            raise UsageError(
                f"{self.folder / depth_name}: depth size {depth_m.shape[1]}x{depth_m.shape[0]} differs from the "
                f"image's {image.shape[1]}x{image.shape[0]} ({image_name})"
            )
        scene = scene_of(image_name, self.scenes, strict=self._strict_scenes)
        return Sample(str(PurePosixPath(image_name).with_suffix("")), image, depth_m=depth_m, scene=scene)


def scene_of(name: str, scenes: tuple[str, ...], *, strict: bool = False) -> str | None:
    """Scene class of a file `folder/rgb_00045.jpg`, or none if its name tells nothing.

    Args:
        name: Path of the picture below the split's folder.
        scenes: Scene classes, in the order of the embeddings.
        strict: False: the first class that is a substring of the name, as the reference does, so that `study_room`
            becomes `study`, `office_kitchen` becomes `kitchen` and `nyu_office` becomes `office`. True: the class
            that equals the folder's name without its number.
    """
    if strict:
        whole = re.sub(r"_[0-9]+[a-z]?$", "", PurePosixPath(name).parent.name)
        return whole if whole in scenes else None
    joined = name.replace("/", "_")
    return next((scene for scene in scenes if scene in joined), None)


def read_pair_list(path: Path) -> list[tuple[str, str]]:
    """Image and depth names of a list file; two or three columns (the third is a focal length), slash or none.

    Raises:
        UsageError: If a line has another form; it is named.
    """
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) not in (2, 3):
            raise UsageError(f"{path}, line {number}: {len(columns)} columns; must be: image depth [focal]")
        image, depth = (column.strip("/") for column in columns[:2])  # a leading slash would drop the root
        if ".." in PurePosixPath(image).parts or ".." in PurePosixPath(depth).parts:
            raise UsageError(f"{path}, line {number}: names must stay inside the data folder, without '..'")
        pairs.append((image, depth))
    return pairs


def _find_pairs(folder: Path) -> list[tuple[str, str]]:
    images = sorted(path.relative_to(folder) for path in folder.glob("*/rgb_*.jpg"))
    return [(path.as_posix(), path.with_name(_depth_name(path.name)).as_posix()) for path in images]


def _depth_name(image_name: str) -> str:
    return image_name.replace("rgb_", "sync_depth_").replace(".jpg", ".png")
