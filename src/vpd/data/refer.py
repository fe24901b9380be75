"""RefCOCO, RefCOCO+ and RefCOCOg in REFER's layout, for referring segmentation.

```
refcoco/instances.json   refcoco/refs(unc).p or refs(unc).json     likewise refcoco+ (unc), refcocog (umd, google)
images/mscoco/images/train2014/COCO_train2014_*.jpg
```
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vpd.data.coco_masks import Overlap, decode_mask
from vpd.data.refer_files import Reference, read_instances, read_references
from vpd.data.samples import Sample
from vpd.errors import UsageError
from vpd.images import read_image

DATASETS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
"""Name of the sub-folder -> the split that is usual for it."""

PICTURE_FOLDERS = ("images/mscoco/images/train2014", "images/train2014", "images/mscoco", "train2014")
"""Where the COCO pictures may lie below the root."""


class ReferData:
    """Samples with `mask` and `texts`.

    Args:
        root: Folder with the data set's sub-folder and the pictures.
        split: `train`, `val`, `test`, `testA` or `testB`; `test` means all test splits, as in REFER.
        dataset: `refcoco`, `refcoco+` or `refcocog`.
        split_by: Whose split: `unc`, `umd` or `google`; none = the usual one of the data set.
        overlap: What pixels are where two polygons of one object overlap: `union` (object) or `background`, as
            in the reference.
        per_sentence: One sample per sentence (evaluation) or one per reference with all its sentences
            (training); none = per reference in the train split only.

    Raises:
        UsageError: If files are missing or damaged, there is no such split, or records contradict each other.
    """

    classes: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        dataset: str = "refcoco",
        split_by: str | None = None,
        overlap: Overlap = "union",
        per_sentence: bool | None = None,
    ) -> None:
        self.root = Path(root)
        self.overlap: Overlap = overlap
        if dataset not in DATASETS:
            raise UsageError(f"unknown data set {dataset!r}; choose one of: {', '.join(DATASETS)}")
        if overlap not in ("union", "background"):
            raise UsageError(f"overlap={overlap!r}; choose union or background")
        folder = self.root / dataset
        self._refs_path = find_references(folder, split_by or DATASETS[dataset])
        self._pictures_folder = find_pictures(self.root)
        all_references = read_references(self._refs_path)
        references = [reference for reference in all_references if _is_in(reference.split, split)]
        if not references:
            present = ", ".join(sorted({reference.split for reference in all_references}))
            raise UsageError(f"{self._refs_path}: no split {split!r}; there are: {present}")
        pictures, segmentations = read_instances(folder / "instances.json")
        for reference in references:
            if reference.image_id not in pictures or reference.ann_id not in segmentations:
                raise UsageError(
                    f"{folder / 'instances.json'}: lacks image {reference.image_id} or annotation "
                    f"{reference.ann_id} of reference {reference.ref_id} in {self._refs_path.name}"
                )
        self.pictures = {reference.image_id: pictures[reference.image_id] for reference in references}
        self._segmentations = {reference.ann_id: segmentations[reference.ann_id] for reference in references}
        if per_sentence is None:
            per_sentence = split != "train"
        self.items = [item for reference in references for item in _items(reference, per_sentence)]
        """Name, reference and texts of each sample."""

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and draw the mask of one reference.

        Raises:
            UsageError: If the picture cannot be read, its size is not the annotated one, or the mask is damaged.
        """
        name, reference, texts = self.items[index]
        picture = self.pictures[reference.image_id]
        path = self._pictures_folder / picture.file_name
        image = np.array(read_image(path))
        if image.shape[:2] != (picture.height, picture.width):
            raise UsageError(
                f"{path}: picture size {image.shape[1]}x{image.shape[0]} differs from the annotated "
                f"{picture.width}x{picture.height}"
            )
        mask = decode_mask(
            self._segmentations[reference.ann_id],
            height=picture.height,
            width=picture.width,
            overlap=self.overlap,
            name=f"{self.root}, annotation {reference.ann_id} on {picture.file_name}",
        )
        return Sample(name, image, mask=mask, texts=texts)


def find_references(folder: Path, split_by: str) -> Path:
    """The reference file of a data set's folder; JSON is preferred to the pickle.

    Raises:
        UsageError: If there is none; what is there is named.
    """
    for suffix in (".json", ".p"):
        path = folder / f"refs({split_by}){suffix}"
        if path.is_file():
            return path
    present = ", ".join(sorted(path.name for path in folder.glob("refs(*)*"))) or "none"
    raise UsageError(f"{folder}: no refs({split_by}).p or refs({split_by}).json; reference files there: {present}")


def find_splits(folder: Path, split_by: str) -> list[str]:
    """Names of the splits that a data set's reference file has."""
    return sorted({reference.split for reference in read_references(find_references(folder, split_by))})


def find_pictures(root: Path) -> Path:
    """The folder of COCO pictures below `root`.

    Raises:
        UsageError: If there is none.
    """
    for name in PICTURE_FOLDERS:
        if (root / name).is_dir() and any((root / name).glob("*.jpg")):
            return root / name
    raise UsageError(f"{root}: no COCO pictures; looked for *.jpg in {', '.join(PICTURE_FOLDERS)}")


def _is_in(split: str, wanted: str) -> bool:
    """REFER's own rule: `testA` wants an A anywhere, `test` any test split, the rest equality."""
    if wanted in ("testA", "testB", "testC"):
        return wanted[-1] in split
    return "test" in split if wanted == "test" else split == wanted


def _items(reference: Reference, per_sentence: bool) -> list[tuple[str, Reference, tuple[str, ...]]]:
    if not per_sentence:
        return [(f"ref_{reference.ref_id}", reference, reference.sentences)]
    return [
        (f"ref_{reference.ref_id}_{place}", reference, (sentence,))
        for place, sentence in enumerate(reference.sentences)
    ]
