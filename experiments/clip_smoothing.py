"""What smoothing over time does to flicker and error, on rendered clips with exact truth.

`python -m experiments.clip_smoothing` measures the shipped miniatures; about four minutes of a CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run by its path, `experiments` is found by this
from experiments.clips import Motion, TrueFrame, clip
from vpd.loading import load
from vpd.metrics.segmentation import SegmentationMetrics

NOISE = 6.0
"""Standard deviation of the noise of the camera, levels of 255."""
MOTIONS: tuple[Motion, ...] = ("camera", "forward", "objects", "both")
SEED = 77

Maps = Sequence[NDArray[Any]]
Difference = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


def flicker(maps: Maps, frames: Sequence[TrueFrame], difference: Difference) -> float:
    """Mean difference from frame to frame, along the true motion, over points that both show; in percent."""
    differences = []
    for number in range(1, len(frames)):
        row, column = frames[number].before
        is_seen = row >= 0
        differences.append(difference(maps[number][is_seen], maps[number - 1][row[is_seen], column[is_seen]]))
    return 100 * float(np.concatenate(differences).mean())


def segment_scores(predictions: Sequence[Any], frames: Sequence[TrueFrame]) -> tuple[float, float]:
    """100 - mIoU, and the share of points whose label changes, percent."""
    metric = SegmentationMetrics(len(predictions[0].classes))
    for prediction, frame in zip(predictions, frames, strict=True):
        metric.update(prediction.labels, torch.from_numpy(frame.rendering.labels))
    miou = metric.compute()["mIoU"]
    maps = [prediction.numpy() for prediction in predictions]
    return 100 - 100 * float(miou), flicker(maps, frames, np.not_equal)  # type: ignore[arg-type]


def depth_scores(predictions: Sequence[Any], frames: Sequence[TrueFrame]) -> tuple[float, float]:
    """AbsRel, and how much the ratio of predicted to true depth changes, percent."""
    truth = [frame.rendering.depth_m for frame in frames]
    ratios = [np.log(prediction.numpy() / true) for prediction, true in zip(predictions, truth, strict=True)]
    error = 100 * float(np.mean([np.abs(np.exp(ratio) - 1).mean() for ratio in ratios]))
    return error, flicker(ratios, frames, lambda now, before: np.abs(now - before))


def main(
    clips: Annotated[int, typer.Option(help="Clips of each motion.")] = 3,
    frames: Annotated[int, typer.Option(help="Of each clip.")] = 32,
    smooth: Annotated[int, typer.Option(help="About how many frames are averaged.")] = 4,
) -> None:
    """Print error and flicker, without smoothing and with it."""
    scores = {"segment": segment_scores, "depth": depth_scores}
    models = {task: load(f"world-{task}") for task in scores}
    print("| motion | task | error | smoothed | flicker | smoothed |\n|---|---|---|---|---|---|")
    for motion in MOTIONS:
        found: dict[str, list[tuple[float, ...]]] = {task: [] for task in models}
        for index in range(clips):
            noise = np.random.default_rng(index)
            true = list(clip(SEED, index, motion=motion, frames=frames))
            seen = [
                np.clip(each.rendering.image + noise.normal(0, NOISE, each.rendering.image.shape), 0, 255)
                for each in true
            ]
            pictures = [each.round().astype(np.uint8) for each in seen]
            for task, model in models.items():
                pairs = [scores[task](list(model.stream(pictures, smooth=each)), true) for each in (None, smooth)]
                found[task].append((pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]))
        for task, rows in found.items():
            cells = " | ".join(f"{value:.2f}" for value in np.mean(rows, axis=0))
            print(f"| {motion} | {task} | {cells} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
