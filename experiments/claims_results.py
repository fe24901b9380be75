"""What runs leave of each scene, in few numbers, and the files of lines that hold them."""

from __future__ import annotations

import json
import lzma
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.claims_arms import FACTORS, LIBRARY_TASK, Arm
from experiments.claims_models import MAX_DEPTH_M
from experiments.claims_scenes import NAMES, WITHHELD
from vpd.errors import UsageError
from vpd.files.atomic import atomic_write, read_json_lines
from vpd.metrics.accumulator import Accumulator
from vpd.metrics.depth import ERRORS, DepthMetrics
from vpd.metrics.referring import ReferringMetrics
from vpd.metrics.segmentation import SegmentationMetrics
from vpd.tasks.table import find_task
from vpd.world.scenes import CLASSES

SCORES: dict[str, str] = {task: find_task(of).score for task, of in LIBRARY_TASK.items()}
"""Task -> the metric that its arms are compared by."""
PACKED = ".xz"
Lines = dict[Arm, dict[int, dict[str, Any]]]
"""Arm -> seed -> line."""


class WithheldMetrics(SegmentationMetrics):
    """The score is that of the classes without labels in training; `shown` has the mean IoU of the others."""

    def values(self, totals: Tensor) -> dict[str, Tensor]:
        """As the base class."""
        values = super().values(totals)
        shown = [place for place in range(self.num_classes) if place not in WITHHELD]
        iou = values["IoU"]
        return values | {"mIoU": iou[..., list(WITHHELD)].nanmean(dim=-1), "shown": iou[..., shown].nanmean(dim=-1)}


class PixelAccuracy(Accumulator):
    """Share of counted pixels that are right; rows `(2,)`: right, counted."""

    def __init__(self) -> None:
        self.totals = torch.zeros(2, dtype=torch.int64)

    def row(self, pred: Tensor, target: Tensor) -> Tensor:
        """Of a map of predicted and one of true classes."""
        return torch.tensor([int((pred == target).sum()), target.numel()])

    def values(self, totals: Tensor) -> dict[str, Tensor]:
        """`small`; totals `(..., 2)`."""
        return {"small": totals[..., 0].double() / totals[..., 1]}


def metric_of(task: str) -> Accumulator:
    """The metric of a task, empty."""
    if task == "refer":
        return ReferringMetrics()
    if task == "depth":
        return DepthMetrics(max_depth_m=MAX_DEPTH_M)
    if task == "open":
        return WithheldMetrics(len(NAMES))
    return SegmentationMetrics(len(CLASSES if task == "segment" else NAMES))


def score_of(task: str, rows: Tensor) -> float:
    """mIoU, oIoU, or RMSE in metres, of scenes."""
    return float(metric_of(task).values(rows.sum(dim=0))[SCORES[task]])


def pack_rows(task: str, rows: Tensor) -> list[list[float]]:
    """What the score needs of a metric's rows: of each number its values in all scenes.

    Columns compress well, and true pixels are the same in all runs.
    """
    kept = rows.flatten(1)[:, _columns(task)].T.tolist()
    return [[round(value, 5) if value % 1 else int(value) for value in column] for column in kept]


def unpack_rows(task: str, columns: list[list[float]]) -> Tensor:
    """Rows for `metric_of`, float64; what the score does not need is 0."""
    totals = metric_of(task).totals
    rows = torch.zeros(len(columns[0]), totals.numel(), dtype=torch.float64)
    rows[:, _columns(task)] = torch.tensor(columns, dtype=torch.float64).T
    return rows.reshape(-1, *totals.shape)


def _columns(task: str) -> list[int]:
    """Which numbers of a row the score is made of."""
    if task == "refer":
        return [0, 1, 3]  # intersection, union, sentences
    if task == "depth":
        return [ERRORS.index("rmse"), len(ERRORS)]  # and images
    totals = metric_of(task).totals
    if task == "open":
        return [kind * totals.shape[-1] + place for kind in range(len(totals)) for place in WITHHELD]
    return list(range(totals.numel()))


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results, which may be packed (`.xz`); none where there is no such file."""
    if path.suffix != PACKED or not path.exists():
        return read_json_lines(path)
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_packed(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """All lines in one packed file."""
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    with atomic_write(path) as temporary:
        temporary.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def by_arm(results: Path) -> Lines:
    """The runs that count, without trials.

    Raises:
        UsageError: If the file holds runs of other lengths or test scenes, of one backbone with different weights, or
            of arms that these experiments do not have.
    """
    lines: Lines = defaultdict(dict)
    settings: dict[str, str] = {}
    for line in read_results(results):
        if line["trial"]:
            continue
        arm = Arm(**{name: line[name] for name in ("task", "labels", "regime", *FACTORS)})
        words, made_with = line["key"].split(" ", 1)
        if not words.startswith(f"{arm.name},seed="):
            raise UsageError(f"{results} holds a run of other experiments, with factors that are unknown here: {words}")
        of = f"{line['task']} with backbone {line['backbone']}, {line['regime']}"
        if settings.setdefault(of, made_with) != made_with:
            raise UsageError(
                f"{results} mixes runs of {of}: {settings[of]} and {made_with}. Give runs of other settings or "
                "weights a file of their own."
            )
        lines[arm][line["seed"]] = line
    return dict(lines)
