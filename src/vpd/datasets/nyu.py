"""NYU Depth v2 in the layout that the reference reads: list files or folders of `rgb_*.jpg`, `sync_depth_*.png`.

```
sync/kitchen_0028b/rgb_00045.jpg, sync_depth_00045.png              split train
official_splits/test/bathroom/rgb_00045.jpg, sync_depth_00045.png   split test; train/: split official_train
official_splits/rooms.json                                          optional: the room of each picture
train_list.txt, test_list.txt       "/kitchen_0028b/rgb_00045.jpg /kitchen_0028b/sync_depth_00045.png [focal]"
```
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vpd.data.sample import CountedDepth, Sample
from vpd.datasets.annotations import read_json, shipped_json
from vpd.datasets.layout import Layout
from vpd.datasets.pair_lists import ListedDepth, ListedPair, read_listed
from vpd.datasets.sample_reader import PartReader
from vpd.errors import UsageError
from vpd.files.walk import walk_files

logger = logging.getLogger(__name__)

FOLDERS = {"train": "sync", "test": "official_splits/test", "official_train": "official_splits/train"}
"""Where the pictures of each split lie."""

LISTS = ("{}_list.txt", "nyudepthv2_{}_files_with_gt.txt")
"""Names of the published lists of a split."""

OFFICIAL, ROOMS, UNFINISHED = "official_splits", "rooms.json", "UNFINISHED"
"""Folder of the official split; in it, the room of each picture, and a file that is there while it is extracted."""


def nyu_scenes() -> tuple[str, ...]:
    """The 27 scene classes, in the order of the published embeddings."""
    return tuple(shipped_json("nyu_scenes.json"))


class NyuDepth(ListedDepth):
    """Samples with `depth_m` and, where the name tells, `scene`; the room is their `group`.

    Args:
        root: Folder with `sync/` or `official_splits/`, and the list files if there are any.
        split: `train`, `test` or `official_train` (the 795 pictures of the labelled data set); there is no `val`:
            like the reference, `val` means `test`.
        list_file: Another list of pairs; default is the published list of the split if it lies in the root, and
            without it every pair in the folder counts.
        strict_scenes: Tell the scene from the folder's whole name, not by the reference's substring rule.

    Raises:
        UsageError: If the folder has another layout, was not extracted to the end, or a list line is malformed.
    """

    counted = CountedDepth(min_depth_m=1e-3, max_depth_m=10.0, crop="nyu")
    _reader = PartReader(depth_scale=1000)  # files hold millimetres

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
            raise UsageError(f"{root}: no split {split!r}; there are: {', '.join(FOLDERS)} (val means test)")
        self.folder = self.root / FOLDERS[split]
        if not self.folder.is_dir():
            raise UsageError(f"{root}: no folder {FOLDERS[split]}/, where the {split} pictures of NYU lie")
        if split != "train" and (self.root / OFFICIAL / UNFINISHED).exists():
            raise UsageError(
                f"{self.root / OFFICIAL}: was not extracted to the end; run `vpd data prepare nyu {root}` again"
            )
        self.scenes = nyu_scenes()
        self._strict_scenes = strict_scenes
        self._rooms = _read_rooms(self.root / OFFICIAL / ROOMS) if split != "train" else {}
        if not self._take_list(self.root, list_file, [name.format(split) for name in LISTS]):
            self.pairs = _find_pairs(self.folder)
        if not self.pairs:
            raise UsageError(f"{root}: the {split} split has no pair of rgb_*.jpg and sync_depth_*.png")

    def files(self) -> Iterable[Path]:
        """Pictures and their depth."""
        return (self.folder / name for pair in self.pairs for name in (pair.image, pair.depth))

    def __getitem__(self, index: int) -> Sample:
        """Read one pair.

        Raises:
            UsageError: If a file is missing or cannot be read, or sizes differ.
        """
        pair = self.pairs[index]
        name = PurePosixPath(pair.image).with_suffix("")
        room = self._rooms.get(name.name.removeprefix("rgb_"), name.parent.name)
        return read_listed(
            self._reader,
            str(name),
            image=self.folder / pair.image,
            depth=self.folder / pair.depth,
            origin=pair.origin,
            exif=self.exif,
            scene=scene_of(pair.image, self.scenes, strict=self._strict_scenes),
            # parts of one visit to a room are told apart by a letter: kitchen_0028a, kitchen_0028b
            group=re.sub(r"(?<=[0-9])[a-z]$", "", room),
        )


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


def _find_pairs(folder: Path) -> list[ListedPair]:
    found = (path.relative_to(folder) for path in map(Path, walk_files(folder)) if path.match("rgb_*.jpg"))
    images = sorted(path for path in found if len(path.parts) == 2)
    depths = (path.with_name(path.name.replace("rgb_", "sync_depth_").replace(".jpg", ".png")) for path in images)
    return [ListedPair(image.as_posix(), depth.as_posix()) for image, depth in zip(images, depths, strict=True)]


def _read_rooms(path: Path) -> dict[str, str]:
    """Number of a picture, as in its file name -> its room; empty where nothing says it."""
    if not path.is_file():
        return {}
    rooms = read_json(path)
    if not isinstance(rooms, dict) or not all(isinstance(room, str) for room in rooms.values()):
        raise UsageError(f"{path}: must map picture numbers to rooms. Delete it, or run `vpd data prepare nyu` again")
    return rooms


LAYOUT = Layout(
    parts=("depth",),
    signs="sync/ or official_splits/",
    is_here=lambda root: (root / "sync").is_dir() or (root / "official_splits").is_dir(),
    splits=lambda root: [split for split, folder in FOLDERS.items() if (root / folder).is_dir()],
    open=NyuDepth,
    full={"train": 24_231, "test": 654, "official_train": 795},
)
