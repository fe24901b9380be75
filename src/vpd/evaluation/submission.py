"""Predictions of a data set in the formats that benchmarks take."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vpd.data.sample import CountedDepth, Sample, SampleSet
from vpd.errors import UsageError
from vpd.files.atomic import TEMPORARY_PREFIX, atomic_write, check_writable, writable_folder
from vpd.files.marks import is_marked, write_marked
from vpd.files.own_files import refuse_files
from vpd.tasks.conversions import run_lengths
from vpd.tasks.predictions import DepthPrediction, MaskPrediction, Prediction, SegmentationPrediction
from vpd.tensors import IGNORE_LABEL

INDEX = "predictions.jsonl"
"""One line for each sample, in the order of the data set."""
_WRITER, _REMEDY = "`vpd eval --predictions`", "Give another folder"


class Submission:
    """A folder of predictions, one for each sample, under the samples' names.

    * Segmentation: `NAME.png`, 8 bits, with the numbers that the benchmark's own label files have (ADE20K: 1..150;
      Cityscapes: its label ids), else the number of the class.
    * Depth: `NAME.png`, 16 bits, 0 = none: millimetres, or 1/256 m where depth beyond 65 m counts (KITTI).
    * Referring: no picture but a line of the index, with the mask as COCO's compressed run lengths.

    Args:
        folder: Made where it is missing; files of the same names are replaced, if an evaluation wrote them.
        sample_set: What is predicted.

    Raises:
        UsageError: If the folder cannot be written, or its index is of something else.
    """

    def __init__(self, folder: str | Path, sample_set: SampleSet) -> None:
        check_writable(folder)  # it is made with the first prediction
        self.folder = Path(folder)
        self._listed = _listed_files(self.folder / INDEX)
        self._is_looked_through = False
        self._label_values = getattr(sample_set, "label_values", None)
        self._far_m: float | None = getattr(sample_set, "counted", CountedDepth()).max_depth_m

    def keep(self, sample: Sample, prediction: Prediction) -> dict[str, Any]:
        """Write one prediction.

        Returns:
            Its line of the index.

        Raises:
            UsageError: If the sample's name leads out of the folder, or there are pictures that no evaluation wrote.
        """
        if isinstance(prediction, MaskPrediction):
            segmentation = run_lengths(prediction.numpy())
            return {"name": sample.name, "text": prediction.text, "segmentation": segmentation}
        path = self._path(sample.name)
        if isinstance(prediction, SegmentationPrediction):
            labels = prediction.labels.numpy()
            if self._label_values is not None:
                table = np.full(256, IGNORE_LABEL, np.uint8)  # pixels without a class keep 255
                table[: len(self._label_values)] = self._label_values
                labels = table[labels]
            write_marked(path, partial(Image.fromarray(labels).save, format="PNG"))
        elif isinstance(prediction, DepthPrediction):
            # the step of the file follows from the benchmark's range, not from the model's
            scaled = dataclasses.replace(prediction, max_depth_m=self._far_m or prediction.max_depth_m)
            write_marked(path, scaled.save)
        else:
            write_marked(path, prediction.save)
        return {"name": sample.name, "file": path.relative_to(self.folder).as_posix()}

    def write_index(self, records: Iterable[dict[str, Any] | None]) -> Path:
        """Write the lines that `keep` returned, in their order.

        Raises:
            UsageError: If two samples have one name, so that the prediction of the first was replaced.
        """
        lines = list(records)
        files = Counter(record["file"] for record in lines if record and "file" in record)
        if doubled := [file for file, number in files.items() if number > 1]:
            raise UsageError(
                f"{self.folder}: {len(doubled)} files were written for more than one sample, first {doubled[0]}: "
                "the data has samples of the same name. Give each its own; nothing here is to be handed in."
            )
        path = writable_folder(self.folder) / INDEX
        with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in lines)
        return path

    def _path(self, name: str) -> Path:
        """The file of a sample; its folder is made."""
        path = self.folder / f"{name}.png"
        inside = self.folder.resolve()
        if not name or "\0" in name or inside not in path.resolve().parents:
            raise UsageError(
                f"Sample {name!r}: this name leads out of {self.folder}, so its prediction is not written."
            )
        if not self._is_looked_through:  # at the first, not when the turn of a name comes, hours later
            refuse_files(self._foreign_pictures(), _WRITER, remedy=_REMEDY)
            self._is_looked_through = True
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _foreign_pictures(self) -> list[Path]:
        """Pictures in the folder that no evaluation wrote; one that was killed before its index left marks."""
        there = (path for path in sorted(self.folder.rglob("*.png")) if not path.name.startswith(TEMPORARY_PREFIX))
        unlisted = [path for path in there if path.relative_to(self.folder).as_posix() not in self._listed]
        return [path for path in unlisted if not is_marked(path) and os.path.lexists(path)]


def _listed_files(index: Path) -> frozenset[str]:
    """Files that the index of an earlier evaluation lists.

    Raises:
        UsageError: If it is none of an evaluation.
    """
    if not os.path.lexists(index):
        return frozenset()
    try:
        lines = [json.loads(line) for line in index.read_bytes().splitlines()]
    except (OSError, ValueError):
        lines = [{}]
    if any(line is not None and not (isinstance(line, dict) and "name" in line) for line in lines):
        refuse_files([index], _WRITER, remedy=_REMEDY)
    return frozenset(str(line["file"]) for line in lines if line and "file" in line)
