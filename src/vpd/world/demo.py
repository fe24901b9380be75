"""The demo: a small segmenter trained on rendered scenes from random weights, and what it sees on fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vpd.config import Fit
from vpd.data.transforms import train_transform
from vpd.evaluation import evaluate, sample_sheet
from vpd.files import atomic_write, writable_folder, write_json
from vpd.loading import load
from vpd.metrics.segmentation import SegmentationMetrics
from vpd.predictions import SegmentationPrediction
from vpd.tasks.segmentation import SegmentationModel
from vpd.training.checkpoints import latest_checkpoint
from vpd.training.loop import Training
from vpd.training.run_folder import CHECKPOINTS, MODEL
from vpd.training.settings import resolve_config
from vpd.world.dataset import WorldSamples
from vpd.world.miniature import write_diffusion_folder

STEPS = 200
"""Optimiser steps: about two minutes on two CPU cores."""
_SIZE_PX = 64
_TRAIN_SCENES, _TEST_SCENES, _SHOWN = 400, 100, 5


@dataclass(frozen=True)
class DemoReport:
    """What the demo came to."""

    sheet: Path
    """Picture: image, truth and prediction of fresh scenes."""
    model: Path
    """Folder of the trained model, for `vpd predict`."""
    scenes: Path
    """Folder of the fresh scenes that are shown."""
    miou: float
    """mIoU on scenes that were not trained on."""
    majority_miou: float
    """mIoU of calling every pixel the most frequent class of the training scenes."""


def run_demo(
    out: str | Path,
    *,
    steps: int = STEPS,
    show_bar: bool = False,
    watch: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> DemoReport:
    """Train, predict and draw; a demo that was stopped goes on where it was.

    Args:
        out: Folder to write into.
        steps: Optimiser steps.
        show_bar: Show a progress bar of the training.
        watch: Wraps the batches of the evaluation, for a progress bar.

    Raises:
        UsageError: If the folder cannot be written.
    """
    out = writable_folder(out)
    train_set = WorldSamples("segment", "train", _TRAIN_SCENES, _SIZE_PX, keep=True)
    test_set = WorldSamples("segment", "test", _TEST_SCENES, _SIZE_PX, keep=True)
    model = load(_train(out, train_set, steps, show_bar), device="cpu")
    report = evaluate(model, test_set, batch_size=10, watch=watch)
    majority = majority_miou(train_set, test_set)
    miou = report["metrics"]["mIoU"]
    sheet = out / "sheet.png"
    caption = f"{100 * miou:.1f} mIoU on {_TEST_SCENES} fresh scenes (one class everywhere: {100 * majority:.1f})"
    with atomic_write(sheet) as temporary:
        sample_sheet(model, test_set, count=_SHOWN, caption=caption).save(temporary)
    write_json(out / "metrics.json", {**report, "majority_mIoU": majority, "steps": steps})
    scenes = writable_folder(out / "scenes")
    for index in range(_SHOWN):
        sample = test_set[index * _TEST_SCENES // _SHOWN]
        prediction: SegmentationPrediction = model.predict(sample.image)  # type: ignore[assignment]
        with atomic_write(scenes / f"{sample.name}.png") as temporary:
            prediction.image.save(temporary)
    return DemoReport(sheet, out / "run" / MODEL, scenes, miou, majority)


def is_trained(out: str | Path) -> bool:
    """Whether a folder holds a demo whose training is finished."""
    return (Path(out) / "run" / MODEL).is_dir()


def majority_miou(train_set: WorldSamples, test_set: WorldSamples) -> float:
    """The mIoU of the best constant answer, the most frequent class of the training scenes."""
    num_classes = len(train_set.classes)
    counts = torch.zeros(num_classes, dtype=torch.int64)
    for sample in (train_set[index] for index in range(len(train_set))):
        labels = torch.from_numpy(sample.labels).long().flatten()
        counts += torch.bincount(labels, minlength=num_classes)[:num_classes]
    metrics = SegmentationMetrics(num_classes)
    for sample in (test_set[index] for index in range(len(test_set))):
        truth = torch.from_numpy(sample.labels)
        metrics.update(torch.full_like(truth, int(counts.argmax())), truth)
    return float(metrics.compute()["mIoU"])  # type: ignore[arg-type]


def _train(out: Path, train_set: WorldSamples, steps: int, show_bar: bool) -> Path:
    """The model folder of the finished training in `out`."""
    run = out / "run"
    if is_trained(out):
        return run / MODEL
    diffusion = out / "diffusion"
    if not (diffusion / "model_index.json").is_file():
        write_diffusion_folder(diffusion, unet_channels=(32, 64, 96, 96), layers_per_block=1)
    settings = {"model": str(diffusion), "data": {"root": "world"}, "crop_px": _SIZE_PX, "steps": steps}
    settings |= {"batch_size": 8, "learning_rate": 2e-3, "unet_lr_scale": 1.0, "workers": 0, "checkpoint_every": 50}
    config = resolve_config("segment", settings)
    checkpoint = latest_checkpoint(run / CHECKPOINTS)
    if checkpoint:
        model = load(checkpoint.folder, device="cpu")
    else:
        torch.manual_seed(config.seed)
        fit = Fit(size_px=_SIZE_PX, max_long_px=4 * _SIZE_PX)
        model = SegmentationModel.from_diffusion(diffusion, classes=train_set.classes, fit=fit, head_channels=48)
    transform = train_transform("segment", config.recipe, crop_px=_SIZE_PX, ratio=(1.0, 1.5))
    return Training(model, train_set, transform, config, run, checkpoint=checkpoint, show_bar=show_bar).run()
