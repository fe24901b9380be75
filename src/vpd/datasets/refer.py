"""RefCOCO, RefCOCO+ and RefCOCOg in REFER's layout, for referring segmentation.

```
refcoco/instances.json   refcoco/refs(unc).p or refs(unc).json     likewise refcoco+ (unc), refcocog (umd, google)
images/mscoco/images/train2014/COCO_train2014_*.jpg
```
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from vpd.data.sample import Sample, SampleSet
from vpd.datasets.coco_files import LeftOut
from vpd.datasets.coco_masks import Overlap, decode_mask, outline_fault
from vpd.datasets.coco_pictures import CocoPicture, find_pictures, read_picture
from vpd.datasets.layout import Layout
from vpd.datasets.pairs import Unpaired, refuse_unpaired
from vpd.datasets.refer_files import Outline, Reference, read_instances, read_references
from vpd.errors import UsageError

DATASETS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
"""Name of the sub-folder -> the split that is usual for it."""

PICTURE_FOLDERS = ("images/mscoco/images/train2014", "images/train2014", "images/mscoco", "train2014", "images")
"""Where the COCO pictures may lie below the root."""

_STRAY_PX = 2
"""Annotators' points may lie a little outside of the picture."""


class ReferData(SampleSet):
    """Samples with `mask` and `texts`; the picture is their `group`. Expressions without a word are left out.

    So are references whose object is not among the annotations, is on another picture, or has an impossible outline;
    `unpaired` and `notes` tell of them.

    Args:
        root: Folder with the data set's sub-folder and the pictures.
        split: `train`, `val`, `test`, `testA` or `testB`; `test` means all test splits, as in REFER.
        dataset: `refcoco`, `refcoco+` or `refcocog`.
        split_by: Whose split: `unc`, `umd` or `google`; none = the usual one of the data set.
        overlap: What pixels are where two polygons of one object overlap: `union` (object) or `background`, as
            in the reference.
        per_sentence: One sample per sentence (evaluation) or one per reference with all its sentences
            (training); none = per reference in the train split only.
        unpaired: What to do about references whose picture is not there: refuse the data set, or leave them out.

    Raises:
        UsageError: If files are missing or damaged, there is no such split, or nothing of it can be used.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        dataset: str = "refcoco",
        split_by: str | None = None,
        overlap: Overlap = "union",
        per_sentence: bool | None = None,
        unpaired: Unpaired = "error",
    ) -> None:
        self.root = Path(root)
        self.overlap: Overlap = overlap
        if dataset not in DATASETS:
            raise UsageError(f"unknown data set {dataset!r}; choose one of: {', '.join(DATASETS)}")
        if overlap not in ("union", "background"):
            raise UsageError(f"overlap={overlap!r}; choose union or background")
        folder = self.root / dataset
        self._refs_path = find_references(folder, split_by or DATASETS[dataset])
        all_references = read_references(self._refs_path)
        references = [reference for reference in all_references if _is_in(reference.split, split)]
        if not references:
            present = ", ".join(sorted({reference.split for reference in all_references}))
            raise UsageError(f"{self._refs_path}: no split {split!r}; there are: {present}")
        self._instances_path = folder / "instances.json"
        instances = read_instances(self._instances_path)
        left_out = LeftOut(self._refs_path, f"of {len(references)} references")
        whole = [one for one in references if _is_whole(one, instances, self._instances_path, left_out)]
        if not whole:
            raise UsageError(f"{self._refs_path}: no {split} reference can be used. First: {left_out.lines[0]}")
        listed, outlines = instances
        found = find_pictures(
            {reference.image_id: listed[reference.image_id] for reference in whole},
            self.root,
            PICTURE_FOLDERS,
            self._instances_path,
            what="COCO pictures",
        )
        self.pictures: dict[int, CocoPicture] = found.pictures
        """By image id."""
        self._segmentations = {
            reference.ann_id: outline.segmentation for reference in whole if (outline := outlines[reference.ann_id])
        }
        if per_sentence is None:
            per_sentence = split != "train"
        shown = [reference for reference in whole if reference.image_id in found.pictures]
        refuse_unpaired(self.root, split, found.missing, shown, unpaired)
        self.items = [item for reference in shown for item in _items(reference, per_sentence)]
        """Name, reference and texts of each sample."""
        if not self.items:
            raise UsageError(f"{self._refs_path}: no expression of the {split} split has a word")
        self.unpaired = [*found.missing, *left_out.lines]
        train = [reference for reference in all_references if reference.split == "train"]
        self.notes = [*_notes(self._refs_path, references, train), *found.notes, *left_out.notes]

    def __len__(self) -> int:
        return len(self.items)

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return (name for name, _, _ in self.items)

    def files(self) -> Iterable[Path]:
        """The pictures."""
        pictures = (self.pictures[reference.image_id] for _, reference, _ in self.items)
        return (picture.path for picture in pictures)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture and draw the mask of one reference.

        Raises:
            UsageError: If the picture cannot be read, its size is not the annotated one, or the mask is damaged.
        """
        name, reference, texts = self.items[index]
        picture = self.pictures[reference.image_id]
        image, turn = read_picture(picture, self._instances_path, self.exif)
        mask = decode_mask(
            self._segmentations[reference.ann_id],
            height=picture.height,
            width=picture.width,
            overlap=self.overlap,
            name=f"{self._instances_path}, annotation {reference.ann_id} on {picture.file_name}",
        )
        return Sample(name, image, mask=mask, texts=texts, group=picture.file_name.as_posix(), exif_turn=turn)

    def complaint(self, index: int) -> str | None:
        """That a sample's polygons reach out of the picture, if they do."""
        name, reference, _ = self.items[index]
        picture = self.pictures[reference.image_id]
        parts = self._segmentations[reference.ann_id]
        for part in (part for part in parts if isinstance(part, list) and len(part) > 1):
            farthest = max(-min(part), max(part[0::2]) - picture.width, max(part[1::2]) - picture.height)
            if farthest > _STRAY_PX:
                return f"{name}: a polygon reaches {farthest:.0f} px out of {picture.file_name}"
        return None


def find_references(folder: Path, split_by: str) -> Path:
    """The reference file of a data set's folder; JSON is preferred to the pickle.

    Raises:
        UsageError: If there is none; what is there is named.
    """
    for suffix in (".json", ".p"):
        path = folder / f"refs({split_by}){suffix}"
        if path.is_file():
            return path
    there = split_names(folder)
    hint = f"; split_by={there[0]} takes another" if there else ""
    present = ", ".join(f"refs({name})" for name in there) or "none"
    raise UsageError(
        f"{folder}: no refs({split_by}).p or refs({split_by}).json; reference files there: {present}{hint}"
    )


def split_names(folder: Path) -> list[str]:
    """Whose splits a data set's folder holds, such as `google`, `umd`."""
    return sorted({path.stem[5:-1] for suffix in ("p", "json") for path in folder.glob(f"refs(?*).{suffix}")})


def find_splits(folder: Path, split_by: str | None = None) -> list[str]:
    """Names of the splits that a data set's reference file has, train first.

    Args:
        folder: The data set's folder, such as `refcoco`.
        split_by: Whose split; none = the usual one of the data set, or whatever is there instead.
    """
    if split_by is None:
        there, usual = split_names(folder), DATASETS[folder.name]
        split_by = there[0] if there and usual not in there else usual
    splits = {reference.split for reference in read_references(find_references(folder, split_by))}
    return sorted(splits, key=lambda split: (split != "train", split != "val", split))


def _is_whole(
    reference: Reference,
    instances: tuple[dict[int, CocoPicture], dict[int, Outline | None]],
    path: Path,
    left_out: LeftOut,
) -> bool:
    """Whether a reference has a picture and an outline; else it is counted."""
    pictures, outlines = instances
    outline, picture = outlines.get(reference.ann_id), pictures.get(reference.image_id)
    whose = f"of reference {reference.ref_id}"
    if outline is None and reference.ann_id in outlines:
        told = f"{path}: annotation id {reference.ann_id} {whose} stands twice, with different content"
        left_out.add(told, "annotation id stands twice")
    elif outline is None or picture is None:
        told = f"{path}: lacks image {reference.image_id} or annotation {reference.ann_id} {whose}"
        left_out.add(told, "image or annotation missing")
    elif outline.image_id != reference.image_id:
        told = f"{path}: annotation {reference.ann_id} is on image {outline.image_id}, not on image "
        left_out.add(f"{told}{reference.image_id} {whose}", "annotation of another image")
    elif fault := outline_fault(
        outline.segmentation,
        height=picture.height,
        width=picture.width,
        name=f"{path}, annotation {reference.ann_id} on {picture.file_name} {whose}",
        inside=False,
    ):
        left_out.add(fault, "impossible outline")
    else:
        return True
    return False


def _is_in(split: str, wanted: str) -> bool:
    """REFER's own rule: `testA` wants an A anywhere, `test` any test split, the rest equality."""
    if wanted in ("testA", "testB", "testC"):
        return wanted[-1] in split
    return "test" in split if wanted == "test" else split == wanted


def _items(reference: Reference, per_sentence: bool) -> list[tuple[str, Reference, tuple[str, ...]]]:
    if per_sentence:
        named = ((f"ref_{reference.ref_id}_{place}", text) for place, text in enumerate(reference.sentences))
        return [(name, reference, (text,)) for name, text in named if text.strip()]
    texts = tuple(text for text in reference.sentences if text.strip())
    return [(f"ref_{reference.ref_id}", reference, texts)] if texts else []


def _notes(path: Path, references: list[Reference], train: list[Reference]) -> list[str]:
    """What is worth knowing of a split."""
    others = [f"refs({name})" for name in split_names(path.parent) if f"refs({name})" != path.stem]
    notes = [f"references: {path.name}" + (f"; there is {', '.join(others)} too" if others else "")]
    blank = sum(not text.strip() for reference in references for text in reference.sentences)
    if blank:
        notes.append(f"{blank} expressions without a word are left out")
    pictures = {reference.image_id for reference in references}
    shared = len(pictures & {reference.image_id for reference in train})
    if references[0].split != "train" and shared:
        notes.append(f"{shared} of its {len(pictures)} pictures are in train too: {path.name} divides objects")
    return notes


def refer_layout(name: str, full: dict[str, int]) -> Layout:
    """The layout of one of the `DATASETS`; `full`: expressions of each split."""
    return Layout(
        parts=("mask",),
        signs=f"{name}/instances.json",
        is_here=lambda root: (root / name / "instances.json").is_file(),
        splits=lambda root: find_splits(root / name),
        open=partial(ReferData, dataset=name),
        full=full,
        as_published={"overlap": "background"},  # where two polygons of an object overlap
    )


LAYOUTS = {
    "refcoco": refer_layout("refcoco", {"train": 120_624, "val": 10_834, "testA": 5_657, "testB": 5_095}),
    "refcoco+": refer_layout("refcoco+", {"train": 120_191, "val": 10_758, "testA": 5_726, "testB": 4_889}),
    "refcocog": refer_layout("refcocog", {"train": 80_512, "val": 4_896, "test": 9_602}),
}
