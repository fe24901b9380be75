"""One run of the experiments: labelled scenes, training by the library's own step, measuring on the test scenes."""

from __future__ import annotations

import base64
import math
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.claims_arms import LABELS, Arm, Run
from experiments.claims_models import MAX_DEPTH_M, Sources, build_model, shuffled_classes
from experiments.frozen_features import FrozenBackbone
from vpd.data.batches import collate
from vpd.data.geometric import flip
from vpd.data.transforms import draw_text
from vpd.evaluation.evaluate import is_better
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.metrics.accumulator import Accumulator
from vpd.metrics.depth import DepthMetrics
from vpd.metrics.referring import ReferringMetrics
from vpd.metrics.segmentation import SegmentationMetrics
from vpd.processes import find_processes
from vpd.tasks.depth import DepthModel
from vpd.tasks.model import PerceptionModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel
from vpd.tasks.table import TASKS
from vpd.tensors import Batch
from vpd.training.feed import Feed
from vpd.training.schedules import schedule_of
from vpd.training.settings import resolve_config
from vpd.training.step import Stepper
from vpd.world.dataset import WorldSamples
from vpd.world.scenes import CLASSES

FIRST_SEED = 10
"""Seeds of labelled and test scenes begin here: no pre-training saw them."""
CHUNK, FILL = 40, 32
"""Scenes that go through a network together where nothing is learnt: in measuring, and before training."""
VARIANTS = {"segment": 2, "depth": 2, "refer": 16}
"""Each labelled scene comes this often, half of them mirrored; for referring each time with an expression drawn anew
(12 of 16 differ on average), of any of its objects: where a picture always meant the same one, a model could know it by
heart without the text."""
UNET_SHARE = {"frozen": 1.0, "full": 1.0, "gentle": 0.1}
"""Regime -> rate of the UNet as a share of the head's. Backbones are compared at one rate: what is not pre-trained must
be able to learn."""
REFER_FACTOR = 3
"""Referring is trained so much longer than the other tasks: what an expression means comes late."""
KEPT_SETS = 8
"""Sets of scenes that stay in memory."""


@dataclass(frozen=True)
class Settings:
    """What is the same in all runs."""

    steps: int = 200
    """Of a training; `refer` has `REFER_FACTOR` times as many."""
    frozen_batch: int = 16
    """Scenes of a step where the UNet is frozen."""
    full_batch: int = 12
    """Scenes of a step where it trains."""
    size_px: int = 64
    test_scenes: int = 1000
    subset_scenes: int = 200
    """The first test scenes, on which curves are measured; and as many validation scenes choose learning rates."""
    curve_steps: tuple[int, ...] = (25, 50, 100, 150)
    """After which the subset is measured, `refer` at `REFER_FACTOR` times as many; the end is measured anyway."""

    def batch_size(self, regime: str) -> int:
        """Scenes of a step."""
        return self.frozen_batch if regime == "frozen" else self.full_batch

    def steps_of(self, task: str) -> tuple[int, tuple[int, ...]]:
        """Steps of a task's training, and those after which the subset is measured on the way."""
        factor = REFER_FACTOR if task == "refer" else 1
        return self.steps * factor, tuple(step * factor for step in self.curve_steps if step < self.steps)

    def words(self, task: str, regime: str, weights: str) -> str:
        """What a result depends on, besides arm and seed."""
        steps, _ = self.steps_of(task)
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
        self._scenes: OrderedDict[tuple[Any, ...], Batch] = OrderedDict()
        self._texts: dict[int, TensorCache] = {}
        self._latents = {name: TensorCache(2**30) for name in ("scaled", "unscaled")}

    def make(self, run: Run, rate: float) -> dict[str, Any]:
        """Train and measure; everything that a line of the results holds but its key."""
        begin, arm, settings = time.process_time(), run.arm, self.settings
        model = build_model(arm, self.sources, size_px=settings.size_px, seed=run.seed)
        caches = self._caches(model, arm)
        train, held_out = self._training_scenes(arm, run.seed), self._held_out(arm.task, is_trial=run.is_trial)
        if isinstance(model.backbone, FrozenBackbone):
            fill_caches(model, train, caches)
        ready = time.process_time()
        subset = take(held_out, range(min(settings.subset_scenes, len(held_out.names))))
        curve, losses = [], []
        steps, curve_steps = settings.steps_of(arm.task)
        for step, loss in self._train(model, arm, train, rate, run.seed, caches):
            losses.append(loss)
            if step in curve_steps:
                curve.append((step, score_of(arm.task, measure_rows(model, subset, caches))))
        trained = time.process_time()
        rows = measure_rows(model, held_out, caches)
        curve.append((steps, score_of(arm.task, rows[: len(subset.names)])))
        shuffled = None
        if not run.is_trial and arm.backbone == "text" and not (arm.changed() or arm.task == "depth"):
            shuffled = measure_rows(model, held_out, caches, is_shuffled=True)
        self._accelerator.free_memory()
        metrics = metric_of(arm.task).values(rows.sum(dim=0))
        return {
            **asdict(arm),
            "seed": run.seed,
            "trial": run.is_trial,
            "rate": rate,
            "score": score_of(arm.task, rows),
            "shuffled_score": None if shuffled is None else score_of(arm.task, shuffled),
            "metrics": {name: value.tolist() for name, value in metrics.items()},
            "curve": curve,
            "loss": [float(part.mean()) for part in np.array_split(losses, min(10, len(losses)))],
            "cpu_s": [round(end - start, 1) for start, end in pairwise((begin, ready, trained, time.process_time()))],
            "rows": None if run.is_trial else pack_rows(rows),
            "shuffled_rows": None if shuffled is None else pack_rows(shuffled),
        }

    def _train(
        self, model: PerceptionModel, arm: Arm, train: Batch, rate: float, seed: int, caches: FrozenCaches
    ) -> Iterator[tuple[int, float]]:
        """Steps taken and loss, after each step of the library's own training."""
        mode = "full" if arm.regime != "frozen" else "head" if arm.is_cached else "frozen"
        settings, batch_size = self.settings, self.settings.batch_size(arm.regime)
        steps, _ = settings.steps_of(arm.task)
        given: dict[str, Any] = {"model": arm.backbone, "data": {"root": "world"}, "recipe": "default", "mode": mode}
        given |= {"crop_px": settings.size_px, "steps": steps, "batch_size": batch_size, "seed": seed}
        rates = {"learning_rate": rate, "unet_lr_scale": UNET_SHARE[arm.regime]}
        config = resolve_config(model.config.task, given, rates)
        stepper = Stepper(model, config, self._accelerator, caches)
        schedule = schedule_of(config, type(model), samples=len(train.names))
        batches = (take(train, indices) for indices in draw_indices(len(train.names), batch_size, seed))
        feed = Feed(batches, self._accelerator.device)
        for step in range(steps):
            model.train()
            yield step + 1, stepper.take(step, schedule(step), feed).loss

    def _caches(self, model: PerceptionModel, arm: Arm) -> FrozenCaches:
        """Where a model finds latents and expressions; a frozen backbone has latents of its own."""
        latents = self._latents[arm.latents]
        texts = self._texts.setdefault(id(self.sources.encoder(arm)), TensorCache(2**29))
        if isinstance(model.backbone, FrozenBackbone):
            model.backbone.kept_latents = latents
            return FrozenCaches(None, texts)
        return FrozenCaches(latents, texts)

    def _training_scenes(self, arm: Arm, seed: int) -> Batch:
        """The labelled scenes of a seed, as many of them as the arm may see."""
        variants = VARIANTS[arm.task]
        batch = take(self._kept(arm.task, "train", seed), range(arm.labels * variants))
        if arm.prompt != "shuffled" or batch.texts is None:
            return batch
        return replace(batch, texts=batch.texts[variants:] + batch.texts[:variants])  # the next scene's

    def _held_out(self, task: str, *, is_trial: bool) -> Batch:
        return self._kept(task, "val" if is_trial else "test", 0)

    def _kept(self, task: str, split: str, seed: int) -> Batch:
        key = (task, split, seed)
        if key not in self._scenes:
            counts = {"train": max(LABELS), "val": self.settings.subset_scenes, "test": self.settings.test_scenes}
            self._scenes[key] = world_scenes(task, split, counts[split], self.settings.size_px, seed)
            if len(self._scenes) > KEPT_SETS:
                self._scenes.popitem(last=False)
        self._scenes.move_to_end(key)
        return self._scenes[key]


def world_scenes(task: Any, split: Any, count: int, size_px: int, seed: int) -> Batch:
    """Scenes of the world; training scenes in their variants, one after another."""
    samples = WorldSamples(task, split, count, size_px, seed=FIRST_SEED + seed)
    variants, drawn = VARIANTS[task] if split == "train" else 1, []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        if task == "refer" and split == "train":
            of_scene = samples.expressions_of(index, variants)
        else:
            of_scene = [samples[index]] * variants
        for variant, sample in enumerate(of_scene):
            variant_sample = draw_text(flip(sample) if variant % 2 else sample, rng)
            drawn.append(replace(variant_sample, name=f"{sample.name}-{variant}"))
    return collate(drawn)


def take(batch: Batch, indices: Sequence[int]) -> Batch:
    """Some samples of a batch."""
    places = list(indices)
    parts: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            parts[field.name] = value[places]
        elif value and field.name != "unreadable":
            parts[field.name] = [value[place] for place in places]
    return Batch(**parts)


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
def fill_caches(model: PerceptionModel, scenes: Batch, caches: FrozenCaches) -> None:
    """Let a frozen backbone see all training scenes in the same batches, whatever it has seen before."""
    model.eval()
    for first in range(0, len(scenes.names), FILL):
        model.loss_sum(take(scenes, range(first, min(first + FILL, len(scenes.names)))), caches=caches)


@torch.no_grad()
def measure_rows(model: PerceptionModel, scenes: Batch, caches: FrozenCaches, *, is_shuffled: bool = False) -> Tensor:
    """What each scene adds to the task's metric, `(scenes, *row)`; with the prompts of others where `is_shuffled`."""
    metric, rows = metric_of(model.config.task), []
    texts = scenes.texts
    if is_shuffled and texts:
        scenes = replace(scenes, texts=texts[1:] + texts[:1])
    model.eval()
    for first in range(0, len(scenes.names), CHUNK):
        part = take(scenes, range(first, min(first + CHUNK, len(scenes.names))))
        if isinstance(model, SegmentationModel):
            prompts = shuffled_classes(model, part.names) if is_shuffled else None
            predicted, truth = model(part.images, prompts, caches=caches).argmax(dim=1), part.labels
        elif isinstance(model, ReferringModel):
            embeds = model.encode_texts(part.texts or [], caches)
            predicted, truth = model(part.images, embeds, caches=caches).argmax(dim=1), part.masks
        elif isinstance(model, DepthModel):
            prompts = model.scene_prompts(part.scenes or [None] * len(part.names))
            predicted, truth = model(part.images, prompts, caches=caches), part.depth_m
        rows += [metric.row(one, wanted) for one, wanted in zip(predicted, () if truth is None else truth, strict=True)]
    return torch.stack(rows)


def metric_of(task: str) -> Accumulator:
    """The metric of a task, empty."""
    if task == "segment":
        return SegmentationMetrics(len(CLASSES))
    return ReferringMetrics() if task == "refer" else DepthMetrics(max_depth_m=MAX_DEPTH_M)


def score_of(task: Any, rows: Tensor) -> float:
    """mIoU, oIoU, or RMSE in metres, of scenes."""
    return float(metric_of(task).values(rows.sum(dim=0))[TASKS[task].score])


def best_rate(trials: Sequence[dict[str, Any]]) -> float:
    """The learning rate of the best of some trials; one whose score is not a number (null in JSON) never is."""
    scores = [math.nan if trial["score"] is None else trial["score"] for trial in trials]
    best = 0
    for place, score in enumerate(scores):
        if is_better(TASKS[trials[0]["task"]], score, scores[best]):
            best = place
    return float(trials[best]["rate"])


def pack_rows(rows: Tensor) -> dict[str, Any]:
    """Rows as text; whole numbers below 2^24 exactly, others to seven digits."""
    values = rows.to(torch.float32).numpy()
    return {"shape": list(values.shape), "data": base64.b64encode(zlib.compress(values.tobytes())).decode()}


def unpack_rows(packed: dict[str, Any]) -> Tensor:
    """The rows that `pack_rows` was given, float64."""
    values = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), dtype=np.float32)
    return torch.from_numpy(values.reshape(packed["shape"]).astype(np.float64))
