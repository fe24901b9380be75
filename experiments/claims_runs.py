"""One run of the experiments: labelled scenes, training by the library's own step, measuring on the test scenes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.claims_arms import LABELS, LIBRARY_TASK, Arm, Run
from experiments.claims_models import Sources, build_model, shuffled_classes
from experiments.claims_results import SCORES, PixelAccuracy, metric_of, pack_rows, score_of
from experiments.claims_scenes import VARIANTS, Scenes, SceneSet
from experiments.frozen_features import FrozenBackbone
from vpd.evaluation.evaluate import is_better
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.processes import find_processes
from vpd.tasks.depth import DepthModel
from vpd.tasks.model import PerceptionModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel
from vpd.tasks.table import TASKS
from vpd.training.feed import Feed
from vpd.training.schedules import schedule_of
from vpd.training.settings import resolve_config
from vpd.training.step import Stepper

CHUNK, FILL = 40, 32
"""Scenes that go through a network together where nothing is learnt: in measuring, and before training."""
STEPS = {"frozen": 200, "adapter": 150, "full": 150}
"""Steps of a training."""
FACTORS_OF_STEPS = {"refer": 2.0, "colours": 1.5, "open": 1.5}
"""These are trained so much longer: what a word means comes late."""
CURVE = (0.125, 0.25, 0.5)
"""Parts of the training after which the subset is measured; the end is measured anyway."""


@dataclass(frozen=True)
class Settings:
    """What is the same in all runs."""

    length: float = 1.0
    """Factor on the steps of all trainings."""
    frozen_batch: int = 16
    """Scenes of a step where features are computed once."""
    full_batch: int = 8
    """Scenes of a step where they are not."""
    size_px: int = 128
    test_scenes: int = 300
    subset_scenes: int = 100
    """The first test scenes, on which curves are measured; and as many validation scenes choose learning rates."""

    def batch_size(self, regime: str) -> int:
        """Scenes of a step."""
        return self.frozen_batch if regime == "frozen" else self.full_batch

    def steps_of(self, task: str, regime: str) -> tuple[int, tuple[int, ...]]:
        """Steps of a training, and those after which the subset is measured on the way."""
        steps = max(1, round(STEPS[regime] * FACTORS_OF_STEPS.get(task, 1.0) * self.length))
        return steps, tuple(sorted({round(part * steps) for part in CURVE} - {0}))

    def words(self, task: str, regime: str, weights: str) -> str:
        """What a result depends on, besides arm and seed."""
        steps, _ = self.steps_of(task, regime)
        return f"{steps}x{self.batch_size(regime)}@{self.size_px}px,test={self.test_scenes},weights={weights}"


class Laboratory:
    """Makes runs; keeps scenes, latents and frozen features from one to the next.

    Args:
        sources: The backbones.
        settings: What is the same in all runs.
    """

    def __init__(self, sources: Sources, settings: Settings) -> None:
        self.sources, self.settings = sources, settings
        self._accelerator = find_processes()
        counts = {"train": max(LABELS), "val": settings.subset_scenes, "test": settings.test_scenes}
        self._scenes = Scenes(settings.size_px, counts)
        self._texts: dict[int, TensorCache] = {}

    def make(self, run: Run, rate: float) -> dict[str, Any]:
        """Train and measure; everything that a line of the results holds but its key."""
        begin, arm, settings = time.process_time(), run.arm, self.settings
        model = build_model(arm, self.sources, size_px=settings.size_px, seed=run.seed)
        caches = self._caches(model, arm)
        labelled = arm.labels * VARIANTS[LIBRARY_TASK[arm.task]]
        train = self._scenes.get(arm.task, "train", run.seed).take(range(labelled))
        held_out = self._scenes.get(arm.task, "val" if run.is_trial else "test", 0)
        rendered = time.process_time()
        if isinstance(model.backbone, FrozenBackbone):
            fill_caches(model, train, caches)
        ready = time.process_time()
        subset = held_out.take(range(min(settings.subset_scenes, len(held_out.batch.names))))
        curve, losses = [], []
        steps, curve_steps = settings.steps_of(arm.task, arm.regime)
        for step, loss in self._train(model, arm, train, rate, run.seed, caches):
            losses.append(loss)
            if step in curve_steps and step < steps:
                curve.append((step, score_of(arm.task, measure_rows(model, arm, subset, caches)[0])))
        trained = time.process_time()
        rows, small = measure_rows(model, arm, held_out, caches)
        curve.append((steps, score_of(arm.task, rows[: len(subset.batch.names)])))
        shuffled = None
        if not run.is_trial and not arm.changed() and arm.task not in ("depth", "open"):
            shuffled, _ = measure_rows(model, arm, held_out, caches, is_shuffled=True)
        self._accelerator.free_memory()
        metrics = metric_of(arm.task).values(rows.sum(dim=0))
        chosen_by = "shown" if run.is_trial and arm.task == "open" else SCORES[arm.task]  # labels are few on purpose
        times = (begin, rendered, ready, trained, time.process_time())
        return {
            **asdict(arm),
            "seed": run.seed,
            "trial": run.is_trial,
            "rate": rate,
            "score": float(metrics[chosen_by]),
            "shuffled_score": None if shuffled is None else score_of(arm.task, shuffled),
            "metrics": {name: value.tolist() for name, value in metrics.items()},
            "curve": curve,
            "loss": [float(part.mean()) for part in np.array_split(losses, min(10, len(losses)))],
            "cpu_s": [round(end - start, 1) for start, end in pairwise(times)],
            "rows": None if run.is_trial else pack_rows(arm.task, rows),
            "small_rows": None if run.is_trial or small is None else small.T.tolist(),
            "shuffled_rows": None if shuffled is None else pack_rows(arm.task, shuffled),
        }

    def _train(
        self, model: PerceptionModel, arm: Arm, train: SceneSet, rate: float, seed: int, caches: FrozenCaches
    ) -> Iterator[tuple[int, float]]:
        """Steps taken and loss, after each step of the library's own training."""
        mode = "full" if arm.regime == "full" else "head" if arm.is_cached else "frozen"
        settings, batch_size = self.settings, self.settings.batch_size(arm.regime)
        steps, _ = settings.steps_of(arm.task, arm.regime)
        given: dict[str, Any] = {"model": arm.backbone, "data": {"root": "world"}, "recipe": "default", "mode": mode}
        given |= {"crop_px": settings.size_px, "steps": steps, "batch_size": batch_size, "seed": seed}
        given |= {"precision": "bf16", "learning_rate": rate, "unet_lr_scale": 1.0}
        config = resolve_config(model.config.task, given)
        stepper = Stepper(model, config, self._accelerator, caches)
        count = len(train.batch.names)
        schedule = schedule_of(config, type(model), samples=count)
        batches = (train.take(indices).batch for indices in draw_indices(count, batch_size, seed))
        feed = Feed(batches, self._accelerator.device)
        for step in range(steps):
            model.train()
            yield step + 1, stepper.take(step, schedule(step), feed).loss

    def _caches(self, model: PerceptionModel, arm: Arm) -> FrozenCaches:
        """Where a model finds latents and expressions; a frozen backbone has latents of its own."""
        texts = self._texts.setdefault(id(self.sources.encoder(arm)), TensorCache(2**29))
        return FrozenCaches(None if isinstance(model.backbone, FrozenBackbone) else self.sources.latents, texts)


def draw_indices(count: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches, each sample once before any comes again."""
    rng = np.random.default_rng((seed, 1))
    left: list[int] = []
    while True:
        while len(left) < batch_size:
            left += rng.permutation(count).tolist()
        yield left[:batch_size]
        left = left[batch_size:]


@torch.no_grad()
def fill_caches(model: PerceptionModel, scenes: SceneSet, caches: FrozenCaches) -> None:
    """Let a frozen backbone see all training scenes in the same batches, whatever it has seen before."""
    model.eval()
    count = len(scenes.batch.names)
    for first in range(0, count, FILL):
        with torch.autocast("cpu", torch.bfloat16):
            model.loss_sum(scenes.take(range(first, min(first + FILL, count))).batch, caches=caches)


@torch.no_grad()
def measure_rows(
    model: PerceptionModel, arm: Arm, scenes: SceneSet, caches: FrozenCaches, *, is_shuffled: bool = False
) -> tuple[Tensor, Tensor | None]:
    """What each scene adds to the task's metric, `(scenes, *row)`, and to accuracy on small objects.

    Args:
        model: In any mode; left in eval mode.
        arm: Of the model.
        scenes: To measure on.
        caches: Of latents and texts.
        is_shuffled: Give each scene the prompts of another, or class prompts in another order.
    """
    metric, accuracy, rows, small = metric_of(arm.task), PixelAccuracy(), [], []
    texts = scenes.batch.texts
    if is_shuffled and texts:
        scenes = replace(scenes, batch=replace(scenes.batch, texts=texts[1:] + texts[:1]))
    model.eval()
    for first in range(0, len(scenes.batch.names), CHUNK):
        part = scenes.take(range(first, min(first + CHUNK, len(scenes.batch.names))))
        predicted, truth = _predict(model, part, caches, is_shuffled=is_shuffled)
        rows += [metric.row(one, wanted) for one, wanted in zip(predicted, truth, strict=True)]
        if part.small is not None:
            parts = zip(predicted, truth, part.small, strict=True)
            small += [accuracy.row(one[counted], wanted[counted]) for one, wanted, counted in parts]
    return torch.stack(rows), torch.stack(small) if small else None


def _predict(
    model: PerceptionModel, part: SceneSet, caches: FrozenCaches, *, is_shuffled: bool
) -> tuple[Tensor, Tensor]:
    """Classes, masks or metres, `(b, ...)`, and the truth."""
    batch = part.batch
    truth = next(value for value in (batch.labels, batch.masks, batch.depth_m) if value is not None)
    with torch.autocast("cpu", torch.bfloat16):
        if isinstance(model, SegmentationModel):
            prompts = shuffled_classes(model, batch.names) if is_shuffled else None
            return model(batch.images, prompts, caches=caches).argmax(dim=1), truth
        if isinstance(model, ReferringModel):
            embeds = model.encode_texts(batch.texts or [], caches)
            return model(batch.images, embeds, caches=caches).argmax(dim=1), truth
        assert isinstance(model, DepthModel)
        return model(batch.images, model.scene_prompts(batch.scenes or []), caches=caches).float(), truth


def best_rate(trials: Sequence[dict[str, Any]]) -> float:
    """The learning rate of the best of some trials; one whose score is not a number (null in JSON) never is."""
    scores = [math.nan if trial["score"] is None else trial["score"] for trial in trials]
    best = 0
    for place, score in enumerate(scores):
        if is_better(TASKS[LIBRARY_TASK[trials[0]["task"]]], score, scores[best]):
            best = place
    return float(trials[best]["rate"])
