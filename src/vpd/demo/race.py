"""The race of the demo: the same segmenter, trained from the pre-trained UNet and from a random one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import Fit
from vpd.data.batches import collate
from vpd.data.geometric import flip
from vpd.demo.line_chart import line_chart
from vpd.demo.page import write_html
from vpd.evaluation.evaluate import evaluate
from vpd.files.atomic import write_json
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.model_folder import results_folder
from vpd.processes import find_processes
from vpd.tasks.segmentation import SegmentationModel
from vpd.tensors import Batch
from vpd.training.plan import schedule_of
from vpd.training.progress import Interval
from vpd.training.settings import resolve_config
from vpd.training.step import Stepper
from vpd.weights.shipped import WORLD, shipped_diffusion
from vpd.world.dataset import WorldSamples
from vpd.world.scenes import CLASSES

STEPS, MEASURE_EVERY = 80, 8
_LABELLED, _MEASURED, _SIZE_PX, _BATCH = 128, 40, 64, 12
ARMS = ("pre-trained", "random")


@dataclass
class Race:
    """mIoU on fresh scenes after some steps of each arm."""

    steps: list[int] = field(default_factory=list)
    miou: dict[str, list[float]] = field(default_factory=lambda: {arm: [] for arm in ARMS})

    def steps_to_the_end_of_random(self) -> int | None:
        """After how many steps the pre-trained arm is as good as the random one at its end; none = not yet."""
        target = self.miou["random"][-1]
        reached = [step for step, value in zip(self.steps, self.miou["pre-trained"], strict=True) if value >= target]
        return reached[0] if reached else None


def run_race(
    out: str | Path, *, steps: int = STEPS, on_measured: Callable[[Race], None] = lambda race: None
) -> tuple[Path, Race]:
    """Train both arms in turns on the same scenes, and draw their curves again after each measuring.

    Args:
        out: Folder to write into.
        steps: Of each arm.
        on_measured: Gets what was measured so far.

    Returns:
        The page with the curves, and the race.

    Raises:
        UsageError: If the folder cannot be written.
    """
    out = results_folder(out)
    page, race = out / "training.html", Race()
    fresh = WorldSamples("segment", "test", _MEASURED, _SIZE_PX, seed=11, keep=True)
    arms = {arm: _new_model(is_random=arm == "random") for arm in ARMS}
    latents = FrozenCaches(TensorCache(2**28), None)  # the VAE is frozen, and the same in both
    trainers = {arm: _training(model, steps, latents) for arm, model in arms.items()}
    for step in range(0, steps + 1, MEASURE_EVERY):
        race.steps.append(step)
        for arm, model in arms.items():
            report = evaluate(model, fresh, batch_size=20, caches=latents)
            race.miou[arm].append(report["metrics"]["mIoU"])
        _draw(page, race, steps, is_done=step + MEASURE_EVERY > steps)
        write_json(out / "training.json", {"steps": race.steps, "mIoU": race.miou})
        on_measured(race)
        if step + MEASURE_EVERY <= steps:
            for arm in ARMS:
                for _ in range(MEASURE_EVERY):
                    next(trainers[arm])
    return page, race


def _new_model(*, is_random: bool) -> SegmentationModel:
    """A segmenter before its first step; both arms have the same head, prompts and VAE."""
    torch.manual_seed(0)
    fit = Fit(size_px=_SIZE_PX, max_long_px=4 * _SIZE_PX)
    model = SegmentationModel.from_diffusion(shipped_diffusion(), classes=CLASSES, fit=fit, head_channels=48)
    if is_random:
        backbone = StableDiffusionBackbone.from_config(model.backbone.config)
        backbone.vae = model.backbone.vae
        model.backbone = backbone
    return model


def _training(model: SegmentationModel, steps: int, caches: FrozenCaches) -> Iterator[float]:
    """The loss of each step of the library's own training."""
    given = {"model": WORLD, "data": {"root": WORLD}, "recipe": "default", "crop_px": _SIZE_PX, "batch_size": _BATCH}
    config = resolve_config("segment", given, {"steps": steps, "learning_rate": 1e-3, "unet_lr_scale": 1.0})
    stepper, schedule = Stepper(model, config, find_processes(), caches), schedule_of(config, samples=_LABELLED)
    batches, interval = _batches(), Interval()
    for step in range(steps):
        model.train()
        yield stepper.take(step, schedule(step), batches, interval).loss


def _batches() -> Iterator[Batch]:
    """Endless batches of the labelled scenes, half of them mirrored; the same for both arms."""
    scenes = WorldSamples("segment", "train", _LABELLED, _SIZE_PX, seed=11, keep=True)
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(_LABELLED)
        for start in range(0, _LABELLED - _BATCH + 1, _BATCH):
            samples = [scenes[int(index)] for index in order[start : start + _BATCH]]
            yield collate([flip(sample) if rng.random() < 0.5 else sample for sample in samples])


def _draw(page: Path, race: Race, steps: int, *, is_done: bool) -> None:
    curves = {arm: list(zip(race.steps, [100 * value for value in race.miou[arm]], strict=True)) for arm in ARMS}
    chart = line_chart(curves, x_label="optimiser steps", y_label="mIoU on fresh scenes, %", x_end=steps, y_end=100)
    told = ""
    if is_done:
        reached = race.steps_to_the_end_of_random()
        when = "never there" if reached is None else f"there after {reached}"
        told = (
            f"<p>Random weights end at {100 * race.miou['random'][-1]:.1f} % after {race.steps[-1]} steps; the "
            f"pre-trained ones are {when}.</p>"
        )
    body = (
        "<h1>Does pre-training on text and pictures help?</h1>"
        f"<p>One segmenter, {_LABELLED} labelled scenes, the whole UNet trains. The only difference is where its "
        f"weights come from.</p>{chart}{told}"
    )
    write_html(page, "vpd demo --train", body, refresh_s=None if is_done else 2)
