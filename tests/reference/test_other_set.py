"""The golden tests take counts, rates and lengths from the set that they are given: here one with other numbers."""

from __future__ import annotations

import json
import lzma
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from golden_set import COMPACT, Golden

TESTS = Path(__file__).parents[1]
CLASSES, PICTURES = 9, 2


def rise_and_fall(peak: float, floor: float, half: int, steps: int) -> list[float]:
    done = [(step + 1) / half for step in range(steps)]
    rising = [floor + (peak - floor) * share**0.9 for share in done if share <= 1]
    return rising + [max(floor, peak - (peak - floor) * (share - 1) ** 0.9) for share in done if share > 1]


def other_segmentation(contents: dict[str, Any]) -> dict[str, torch.Tensor]:
    """More classes and fewer pictures, counted one class after the other; returns the pictures."""
    random, tensors, areas = np.random.default_rng(0), {}, {"plain": [], "reduce_zero_label": []}
    for number in range(PICTURES):
        true = random.integers(0, CLASSES, (12, 17)).astype(np.uint8)
        pred = np.where(random.random(true.shape) < 0.5, true, random.integers(0, CLASSES, true.shape)).astype(np.uint8)
        true[0, :4] = 255
        reduced = np.where((true == 0) | (true == 255), 255, true - 1)
        for case, labels in (("plain", true), ("reduce_zero_label", reduced)):
            hits, labelled = (pred == labels), labels != 255
            counts = [[(at & labelled & (pred == c)).sum() for c in range(CLASSES)] for at in (hits, pred == pred)]
            wanted = [(labels == c).sum() for c in range(CLASSES)]
            right, predicted, truth = map(np.array, (*counts, wanted))
            areas[case].append(np.stack([right, predicted + truth - right, predicted, truth]))
        tensors |= {f"metrics/pred/{number}": torch.from_numpy(pred), f"metrics/gt/{number}": torch.from_numpy(true)}
        tensors[f"metrics/areas/{number}"] = torch.from_numpy(areas["plain"][-1]).float()
    contents["metrics"] = {"num_classes": CLASSES, "n_images": PICTURES}
    for case, rows in areas.items():
        right, either, _, truth = np.sum(rows, axis=0)
        with np.errstate(invalid="ignore"):
            iou, accuracy = right / either, right / truth
        means = {"mIoU": np.nanmean(iou), "mAcc": np.nanmean(accuracy), "aAcc": right.sum() / truth.sum()}
        listed = {"IoU": iou, "Acc": accuracy}
        contents["metrics"][case] = {
            **means,
            **{name: [None if np.isnan(value) else value for value in values] for name, values in listed.items()},
            "reported": {name: round(100 * value, 2) for name, value in means.items()},
        }
    return tensors


@pytest.fixture
def other_set(tmp_path: Path) -> Path:
    golden, folder = Golden(COMPACT), tmp_path / "golden"
    shutil.copytree(COMPACT, folder)
    for task, factor in (("seg", 3), ("refer", 4), ("depth", 2)):
        name = f"procedures/{task}.json"
        contents = golden.json(name)
        for group in contents["param_groups"]:
            group["lr"] *= factor
            group["weight_decay"] *= 2
        (case, *_) = contents["lr_schedule"]
        steps = contents["three_steps"]
        if task == "seg":
            case |= {"base_lr": 3e-4, "max_iters": 40, "warmup_iters": 0, "power": 2, "iters": [0, 10, 20]}
            case["lr"] = [3e-4 * (1 - step / 40) ** 2 for step in case["iters"]]
            (folder / "procedures/seg_metrics.safetensors.xz").write_bytes(
                lzma.compress(save(other_segmentation(contents)))
            )
        elif task == "refer":
            case |= {"base_lr": 2e-4, "iters_per_epoch": 7, "epochs": 3, "power": 0.7}
            case["lr"] = [2e-4 * (1 - step / 21) ** 0.7 for step in range(21)]
            steps["note"] = "schedule with 4 iterations per epoch and 5 epochs"
            steps["lr"] = [2e-4 * (1 - step / 20) ** 0.7 for step in range(3)]
        else:
            case |= {"max_lr": 1e-3, "min_lr": 2e-5, "iters_per_epoch": 4, "epochs": 5}
            case["lr_scale_1"] = rise_and_fall(1e-3, 2e-5, 8, 20)
            case["lr_scale_001"] = [rate * 0.01 for rate in case["lr_scale_1"]]
            steps["note"] = "schedule of 5 iterations per epoch and 6 epochs"
            steps["lr"] = rise_and_fall(1e-3, 2e-5, 15, 3)
        contents["lr_schedule"] = [case]
        (folder / f"{name}.xz").write_bytes(lzma.compress(json.dumps(contents).encode()))
    return folder


@pytest.mark.extras
def test_another_set_of_the_same_layout_passes(other_set: Path) -> None:
    files = ("metrics/test_segmentation.py", "training/test_schedules.py", "training/test_optimisers.py")
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "golden", "--golden", str(other_set)]
    result = subprocess.run(
        [sys.executable, *words, *(str(TESTS / file) for file in files)],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    assert "14 passed" in result.stdout
