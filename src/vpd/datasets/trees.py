"""Where pictures and what belongs to them lie: kinds outermost, splits outermost, or both in one name.

```
images/{split}/   labels/{split}/        img_dir/{split}/   ann_dir/{split}/        images/   masks/
{split}/images/   {split}/masks/         {split}/           {split}_labels/         images_{split}/   masks_{split}/
{split}/NAME.jpg  {split}/NAME_mask.png
```
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpd.datasets.name_lists import USUAL_SPLITS
from vpd.errors import UsageError
from vpd.files.images import IMAGE_SUFFIXES
from vpd.files.walk import first_file, some_names, subfolders

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "img_dir", "rgb", "pictures", "photos")
"""What folders of pictures are called, in any case."""
LABEL_FOLDERS = (
    *("labels", "label", "masks", "mask", "annotations", "annotation", "ann_dir", "ann", "annot"),
    *("gt", "gts", "ground_truth", "groundtruth", "segmentations", "segmentation", "targets"),
)
"""What folders of label pictures are called; the first one counts where several are there."""
DEPTH_FOLDERS = ("depth", "depths", "depth_maps", "depth_map", "depth_dir")
"""What folders of depth are called; likewise."""


@dataclass(frozen=True)
class Tree:
    """Folders of pictures and of what belongs to them."""

    folders: dict[str, tuple[Path, Path]]
    """Of each split that is told by folders."""
    whole: tuple[Path, Path] | None
    """Of all splits together, where kinds are outermost."""
    form: str
    """How they lie, for people."""
    ending: str = ""
    """What partners' names end in where they lie among the pictures."""

    def of(self, split: str) -> tuple[Path, Path]:
        """Folders of a split: its own, or those of all."""
        own = self.folders.get(split, self.whole)
        if own is None:
            raise UsageError(f"no folders of a split {split!r}; there are: {', '.join(self.folders)}")
        return own


def find_tree(
    root: Path,
    partners: Sequence[str],
    suffixes: Sequence[str],
    *,
    image_folder: str | None = None,
    partner_folder: str | None = None,
    is_strict: bool = True,
) -> Tree | None:
    """The folders of a data set, or none where no two of them belong together; big folders are not read.

    Args:
        root: Folder of the data set.
        partners: What folders of the pictures' partners are called.
        suffixes: What partners end in.
        image_folder: The one folder of pictures that counts, by its name.
        partner_folder: The one folder of partners, likewise.
        is_strict: Refuse where several folders could be meant; else any of them will do.

    Raises:
        UsageError: If several folders could be meant.
    """
    images = (image_folder,) if image_folder else IMAGE_FOLDERS
    wanted = (partner_folder,) if partner_folder else tuple(partners)
    if pair := _kinds(root, images, wanted, suffixes, is_strict):
        of_split = {}
        for folder in subfolders(pair[0]):
            partner = pair[1] / folder.name
            of_split[folder.name] = (folder, partner if partner.is_dir() else pair[1])
        form = "/SPLIT and ".join(folder.name for folder in pair) + "/SPLIT"
        return Tree(of_split, pair, form if of_split else f"{pair[0].name} and {pair[1].name}")
    inside = {split.name: _kinds(split, images, wanted, suffixes, is_strict) for split in subfolders(root)}
    found = {name: pair for name, pair in inside.items() if pair}
    if _has_usual(found):
        first, second = next(iter(found.values()))
        for split in subfolders(root):  # that one has pictures only is said when it is opened
            if split.name not in found and (split / first.name).is_dir():
                found[split.name] = (split / first.name, split / second.name)
        return Tree(found, None, f"SPLIT/{first.name} and SPLIT/{second.name}")
    return _siblings(root, images, wanted, suffixes) or _together(root, wanted, suffixes)


def _kinds(
    root: Path, images: Sequence[str], partners: Sequence[str], suffixes: Sequence[str], is_strict: bool
) -> tuple[Path, Path] | None:
    """The folder of pictures and that of partners among the folders in one, if there are both."""
    present = subfolders(root)
    pictures = [folder for folder in present if folder.name.lower() in {name.lower() for name in images}]
    if not pictures:
        return None
    picture = _the_one(root, pictures, images[0], "image_folder", is_strict)
    named = [folder for folder in present if folder.name.lower() in {name.lower() for name in partners}]
    fitting = [folder for folder in named if _is_partner(folder, picture, partners[0], suffixes)]
    option = "label_folder or depth_folder"
    return (picture, _the_one(root, fitting, partners[0], option, is_strict)) if fitting else None


def _is_partner(folder: Path, images: Path, canonical: str, suffixes: Sequence[str]) -> bool:
    """Whether a folder holds files that pictures have, not a tool's annotations; the canonical name alone does, too."""
    places = [folder, *(folder / split.name for split in subfolders(images))]
    if any(first_file(place, (*suffixes, *IMAGE_SUFFIXES)) for place in places):
        return True
    return folder.name.lower() == canonical and not any(first_file(place, (".json",)) for place in places)


def _the_one(root: Path, folders: list[Path], canonical: str, option: str, is_strict: bool) -> Path:
    named = [folder for folder in folders if folder.name == canonical] or folders
    if len(named) > 1 and is_strict:
        names = ", ".join(f"{folder.name}/" for folder in named)
        raise UsageError(f"{root}: which folder is meant, {names}? Set {option} to its name")
    return named[0]


def _siblings(root: Path, images: Sequence[str], partners: Sequence[str], suffixes: Sequence[str]) -> Tree | None:
    """Folders that tell split and kind in one name: `train` and `train_labels`, `images_val` and `masks_val`."""
    present = {folder.name: folder for folder in subfolders(root)}
    kinds = "|".join(re.escape(name) for name in sorted(partners, key=len, reverse=True))
    of_images = "|".join(re.escape(name) for name in sorted(images, key=len, reverse=True))
    found: dict[str, tuple[Path, Path]] = {}
    for name, folder in present.items():
        after = re.fullmatch(rf"(.+?)[_-]?(?:{kinds})", name, re.IGNORECASE)
        before = re.fullmatch(rf"(?:{kinds})[_-](.+)", name, re.IGNORECASE)
        for split in (match[1] for match in (after, before) if match):
            own = rf"{re.escape(split)}([_-]?(?:{of_images}))?|(?:{of_images})[_-]{re.escape(split)}"
            pictures = [other for title, other in present.items() if re.fullmatch(own, title, re.IGNORECASE)]
            pictures = [other for other in pictures if other != folder and first_file(other, IMAGE_SUFFIXES)]
            if pictures and split not in found and first_file(folder, (*suffixes, *IMAGE_SUFFIXES)):
                found[split] = (pictures[0], folder)
    if not _has_usual(found):
        return None
    split, (first, second) = next(iter(found.items()))
    return Tree(found, None, f"{first.name} and {second.name}".replace(split, "SPLIT"))


def _together(root: Path, partners: Sequence[str], suffixes: Sequence[str]) -> Tree | None:
    """Folders in which partners lie among the pictures, told by an ending: `0001.jpg` and `0001_mask.png`."""
    splits = {folder.name: _ending_in(folder, partners, suffixes) for folder in subfolders(root)}
    found = {name: (root / name, root / name) for name, ending in splits.items() if ending}
    if _has_usual(found):
        ending = next(filter(None, splits.values()))
        return Tree(found, None, f"SPLIT/NAME and SPLIT/NAME{ending}", ending)
    ending = _ending_in(root, partners, suffixes)
    return Tree({}, (root, root), f"NAME and NAME{ending}", ending) if ending else None


def _ending_in(folder: Path, partners: Sequence[str], suffixes: Sequence[str]) -> str:
    names = [os.path.splitext(name) for name in some_names(folder)]  # noqa: PTH122, Path objects take their time
    stems = {stem for stem, suffix in names if suffix.lower() in IMAGE_SUFFIXES}
    more = ("labelids", "seg", "l") if "labels" in partners else ()
    kinds = "|".join(re.escape(name) for name in (*partners, *more))
    shared = Counter(stems)  # names of pictures, and what stands before an ending of letters
    shared.update(stem[: mark.start()] for stem in stems for mark in re.finditer(r"[_-](?=[^\W\d]+$)", stem))
    ending = re.compile(rf"(.+?)([_-](?:{kinds}))", re.IGNORECASE)
    for stem, suffix in names:
        match = ending.fullmatch(stem) if suffix.lower() in suffixes else None
        if match and shared[match[1]] > (stem in stems):  # of another file than this one
            return match[2]
    return ""


def _has_usual(found: Mapping[str, object]) -> bool:
    """Whether one of some folders is called like a split: a folder of data sets is none."""
    return any(name.lower() in USUAL_SPLITS for name in found)
