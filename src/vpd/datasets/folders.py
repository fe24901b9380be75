"""A folder of images and of label pictures (CamVid's layout) or depth files, paired by name or by a table.

```
images/{split}/NAME.jpg   labels/{split}/NAME.png   classes.json   [{split}.txt: the names that count]
images/NAME.jpg           labels/NAME.png           classes.json   {split}.txt
                          depth instead of labels: for depth
{split}.csv               first line: image,depth[,scene][,group] or image,label; paths below the folder
```
`trees.py` says how else folders may lie and be called, `class_files.py` where class names are read from. Depth files
are PNG or TIFF of 16 bits, TIFF of floating point, `.npy`, `.npz` or `.exr`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpd.datasets.class_files import has_class_list, read_class_list
from vpd.datasets.file_pairs import Source, pairs_of
from vpd.datasets.layout import Layout, present_folders
from vpd.datasets.pairs import PairSamples, Unpaired
from vpd.datasets.sample_reader import PartReader, scene_names
from vpd.datasets.tables import Columns


class FolderData(PairSamples):
    """Samples with `labels` from a folder of images and label pictures.

    Args:
        root: Folder with `images/`, `labels/` and the class list, or with `{split}.csv`.
        split: Name of the sub-folder, of the list file or of the table.
        classes: Other names of the same classes; needed where the folder has no class list.
        unpaired: What to do about images without labels and labels without image: refuse the folder, or leave
            them out. Either way `unpaired` names them.
        ignore_index: Label value, or values, of pixels that do not count; none = what the class list says, else 255.
        label_map: Class (name or number) of each label value, where that is not its place in the list.
        reduce_zero_label: Label 0 does not count, and k means class k - 1.
        label_suffix: What names of labels have more than those of images, such as `_mask`; none = found out.
        image_folder: Name of the folder of images, where several could be meant.
        label_folder: Name of the folder of labels, likewise.
        image_column: Column of the images in a table; none = found by its name.
        label_column: Column of the labels, likewise.
        allow_absolute: Let a table name files outside the folder.

    Raises:
        UsageError: If the folder has another layout, no such split, no class list or one of another length than
            `classes`, or unpaired files.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        unpaired: Unpaired = "error",
        ignore_index: int | Sequence[int] | None = None,
        label_map: Mapping[Any, Any] | None = None,
        reduce_zero_label: bool | None = None,
        label_suffix: str | None = None,
        image_folder: str | None = None,
        label_folder: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        allow_absolute: bool = False,
    ) -> None:
        self.root = Path(root)
        columns = Columns(image_column, label_column)
        source = Source(self.root, "labels", image_folder, label_folder, label_suffix, columns, allow_absolute)
        self.pairs, self.unpaired, notes = pairs_of(source, split, unpaired=unpaired)
        listed = read_class_list(
            self.root, classes, ignore_index, label_map=label_map, reduce_zero_label=reduce_zero_label
        )
        self.classes = listed.names
        self.notes = (*notes, *listed.notes)
        self._reader = PartReader(classes=listed)


class DepthFolder(PairSamples):
    """Samples with `depth_m` from folders or a table of pairs.

    Args:
        root: Folder with `images/` and `depth/`, or with `{split}.csv`, which goes before the folders.
        split: Name of the sub-folders, of the list file, or of the table.
        depth_scale: Units of depth files in one metre; none = 1000 for whole numbers (millimetres), 1 for
            floating-point numbers (metres). KITTI's files have 256.
        max_depth_m: Larger depth counts as not measured, metres; none = all counts.
        unpaired: What to do about files of the folders without their partner: refuse the folder, or leave them out.
        depth_suffix: What names of depth files have more than those of images; none = found out.
        image_folder: Name of the folder of images, where several could be meant.
        depth_folder: Name of the folder of depth, likewise.
        image_column: Column of the images in a table; none = found by its name.
        depth_column: Column of the depth files, likewise.
        allow_absolute: Let a table name files outside the folder.

    Raises:
        UsageError: If there is no such split, files lack their partner, or a line of the table is malformed.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        depth_scale: float | None = None,
        max_depth_m: float | None = None,
        unpaired: Unpaired = "error",
        depth_suffix: str | None = None,
        image_folder: str | None = None,
        depth_folder: str | None = None,
        image_column: str | None = None,
        depth_column: str | None = None,
        allow_absolute: bool = False,
    ) -> None:
        self.root = Path(root)
        self._reader = PartReader(depth_scale=depth_scale, max_depth_m=max_depth_m)
        self.counted = self._reader.counted
        columns = Columns(image_column, depth_column)
        source = Source(self.root, "depth", image_folder, depth_folder, depth_suffix, columns, allow_absolute)
        self.pairs, self.unpaired, self.notes = pairs_of(source, split, unpaired=unpaired)
        self.scenes = scene_names(pair.scene for pair in self.pairs)


def _is_folder(root: Path) -> bool:
    """Whether a folder is of this layout; ADE20K's own tree is only where it has a class list of its own."""
    is_ade20k = bool(present_folders(root / "annotations", ("training", "validation"))) and not has_class_list(root)
    return not is_ade20k and Source(root, "labels").is_here()


LAYOUT = Layout(
    parts=("labels",),
    signs="images/ and labels/ (or masks/, annotations/, ..., also inside train/, val/), or SPLIT.csv: image,label",
    is_here=_is_folder,
    splits=lambda root: Source(root, "labels").splits(),
    open=FolderData,
)
DEPTH_LAYOUT = Layout(
    parts=("depth",),
    signs="images/ and depth/, or SPLIT.csv with the columns image,depth",
    is_here=lambda root: Source(root, "depth").is_here(),
    splits=lambda root: Source(root, "depth").splits(),
    open=DepthFolder,
)
