"""Shards: tar archives in webdataset's manner, for all three tasks.

```
train-000000.tar, train-000001.tar, ...    or    train/000000.tar, ...
  0007.jpg  0007.labels.png (or .seg.png)                 segment, with classes.json beside the archives
  0007.jpg  0007.mask.png   0007.txt                      refer: an expression on each line
  0007.jpg  0007.depth.png (.depth.tif, .depth.npy)       depth
  0007.json                                               expressions, scene; mask as polygons or run lengths
```
Files that share what stands before the first dot make a sample. Only local archives, not compressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vpd.datasets.annotations import decode_text, expressions_of, parse_json
from vpd.datasets.class_files import read_class_list
from vpd.datasets.coco_masks import Overlap
from vpd.datasets.layout import Layout
from vpd.datasets.pairs import Unpaired, refuse_unpaired
from vpd.datasets.records import Record, RecordSamples, sentences_of
from vpd.datasets.sample_reader import scene_names
from vpd.datasets.shard_index import SLOTS, ShardIndex, build_index, shard_files
from vpd.errors import UsageError
from vpd.files.decoding import Encoded


class ShardData(RecordSamples):
    """Samples with `mask` and `texts`, `labels`, or `depth_m`: whichever most samples have, all must have.

    The archives are looked through once; where their files begin is kept beside them.

    Args:
        root: Folder of the archives, or of folders of them.
        split: Beginning of the archives' names, or name of their folder.
        classes: Names of the classes of labels; needed where the folder has no class list.
        ignore_index: Label value, or values, of pixels that do not count; none = what the class list says, else 255.
        label_map: Class of each label value, by name or number; none = what the class list says.
        reduce_zero_label: Label 0 does not count, and k means class k - 1; none = what the class list says.
        depth_scale: Units of depth files in one metre; none = 1000 for whole numbers (millimetres), 1 for
            floating-point numbers (metres).
        max_depth_m: Larger depth counts as not measured, metres; none = all counts.
        overlap: What pixels are where two polygons of one mask overlap: `union` (object) or `background`.
        per_sentence: One sample for each expression (evaluation), or one for each key with all its expressions
            (training); none = for each key in the train split only.
        unpaired: What to do about samples that lack a file: refuse the archives, or leave them out. Either way
            `unpaired` names them.

    Raises:
        UsageError: If there is no such split, an archive is damaged, samples lack files, or none is whole.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        classes: Sequence[str] | None = None,
        ignore_index: int | Sequence[int] | None = None,
        label_map: Mapping[Any, Any] | None = None,
        reduce_zero_label: bool | None = None,
        depth_scale: float | None = None,
        max_depth_m: float | None = None,
        overlap: Overlap = "union",
        per_sentence: bool | None = None,
        unpaired: Unpaired = "error",
    ) -> None:
        self.root = Path(root)
        files = shard_files(self.root)
        if split not in files:
            raise UsageError(
                f"{root}: no split {split!r}; looked for {split}-000000.tar, ... and {split}/000000.tar, ... "
                f"Splits there: {', '.join(files) or 'none'}"
            )
        if len({path.parent for path in files[split]}) > 1:
            raise UsageError(f"{root}: has both {split}-*.tar and {split}/*.tar; which are meant?")
        self.index = build_index(files[split], self.root / f".vpd-index-{split}.npz")
        """Where everything lies."""
        self._slots, samples, self.unpaired = _common_parts(self.index)
        self.notes = refuse_unpaired(self.root, split, self.unpaired, samples, unpaired)
        self._has_outline = "mask" not in self._slots and "mask" in self._json(int(samples[0]))
        parts = {*self._slots, *(["mask"] if self._has_outline else [])}
        listed = None
        if "labels" in parts:
            listed = read_class_list(
                self.root, classes, ignore_index, label_map=label_map, reduce_zero_label=reduce_zero_label
            )
            self.notes += listed.notes
        self._set_reader(parts, listed, depth_scale=depth_scale, max_depth_m=max_depth_m, overlap=overlap)
        if not self.parts:
            raise UsageError(
                f"{root}: the samples of {split} have {', '.join(self._slots)}; needed beside an image: labels.png, "
                "seg.png, depth.png, mask.png, or a json with a mask"
            )
        if "depth" in parts:
            has_scenes = "json" in self._slots
            self.scenes = scene_names(self._scene(sample, self._json(sample)) for sample in samples if has_scenes)
        self._has_text = "mask" in parts
        is_split = self._has_text and (split != "train" if per_sentence is None else per_sentence)
        self._items = np.array(
            [
                (sample, sentence)
                for sample in samples
                for sentence in (sentences_of(len(self._texts(sample, self._json(sample))) if is_split else 0))
            ]
        )

    def sample_keys(self) -> Iterable[str]:
        """Names of the samples in their order."""
        return (f"{self.index.name(int(sample))} {sentence}" for sample, sentence in self._items)

    def _record(self, *place: int) -> Record:
        (sample,) = place
        parts: dict[str, Any] = {
            part: Encoded(self._content(sample, part), self._where(sample, part))
            for part in self._slots
            if part not in ("txt", "json")
        }
        facts = self._json(sample)
        if self._has_outline:
            parts["mask"] = facts.get("mask")
            if not isinstance(parts["mask"], (dict, list)):
                raise UsageError(f"{self._where(sample, 'json')}: 'mask' must be polygons or run lengths")
        texts, name = self._texts(sample, facts) if self._has_text else (), self.index.name(sample)
        return Record(name, parts, texts, self._scene(sample, facts), group=name if texts else None)

    def _where(self, sample: int, part: str) -> str:
        return f"{self.index.shards[self.index.shard_of[sample]]}, {self.index.keys[sample].decode()}, {part}"

    def _content(self, sample: int, part: str) -> bytes:
        """Bytes of one file."""
        begin, size = (int(one) for one in self.index.places[sample, SLOTS.index(part)])
        try:
            with self.index.shards[self.index.shard_of[sample]].open("rb") as file:
                file.seek(begin)
                content = file.read(size)
        except OSError as error:
            raise UsageError(f"{self._where(sample, part)}: cannot be read ({error.strerror})") from error
        if len(content) < size:
            raise UsageError(f"{self._where(sample, part)}: cut short; the archive has changed since it was indexed")
        return content

    def _json(self, sample: int) -> dict[str, Any]:
        """What a sample's json says; empty where there is none."""
        if "json" not in self._slots:
            return {}
        where = self._where(sample, "json")
        content = parse_json(self._content(sample, "json"), where)
        if not isinstance(content, dict):
            raise UsageError(f"{where}: must be an object")
        return content

    def _texts(self, sample: int, facts: dict[str, Any]) -> tuple[str, ...]:
        given = facts.get("expressions", facts.get("expression"))
        if given is not None or "txt" not in self._slots:
            return expressions_of(given, self._where(sample, "json"))
        where = self._where(sample, "txt")
        lines = decode_text(self._content(sample, "txt"), where).splitlines()
        return expressions_of([line for line in lines if line.strip()], where)

    def _scene(self, sample: int, facts: dict[str, Any]) -> str | None:
        scene = facts.get("scene")
        if scene is not None and not isinstance(scene, str):
            raise UsageError(f"{self._where(sample, 'json')}: 'scene' is {scene!r}; it must be a text, or left out")
        return scene.strip() or None if scene else None


def _common_parts(index: ShardIndex) -> tuple[tuple[str, ...], NDArray[np.int64], list[str]]:
    """The parts that most samples with an image have, the samples that have them, and what the others lack."""
    has = index.places[:, :, 0] >= 0  # (samples, slots)
    kinds, numbers = np.unique(has[has[:, SLOTS.index("image")]], axis=0, return_counts=True)
    if not len(kinds):
        return (), np.array([], dtype=np.int64), []
    most = kinds[numbers.argmax()]
    lacks = most & ~has
    unpaired = [
        f"{index.name(int(sample))}: no {', '.join(SLOTS[slot] for slot in np.flatnonzero(lacks[sample]))}"
        for sample in np.flatnonzero(lacks.any(axis=1))
    ]
    slots = tuple(SLOTS[slot] for slot in np.flatnonzero(most))
    return slots, np.flatnonzero(~lacks.any(axis=1)), unpaired


LAYOUT = Layout(
    parts=("labels", "mask", "depth"),
    signs="SPLIT-000000.tar or SPLIT/000000.tar",
    is_here=lambda root: bool(shard_files(root)),
    splits=lambda root: list(shard_files(root)),
    open=ShardData,
)
