"""Scenes of the experiments on the paper's claims: labels, expressions, depth, and which objects are small."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.claims_arms import LIBRARY_TASK
from vpd.data.batches import collate
from vpd.data.geometric import flip
from vpd.data.sample import Sample
from vpd.data.transforms import draw_text
from vpd.tensors import IGNORE_LABEL, Batch
from vpd.world.dataset import SCENE, Split, WorldSamples, split_seed
from vpd.world.render import Rendering, render
from vpd.world.sample_scene import sample_scene
from vpd.world.scenes import CLASSES, OBJECT_COLOURS, SHAPES

FIRST_SEED = 10
"""Seeds of labelled and test scenes begin here: no pre-training saw them."""
VARIANTS = {"segment": 2, "depth": 2, "refer": 8}
"""Each labelled scene comes this often, half of them mirrored; for referring each time with an expression drawn anew,
of any of its objects: where a picture always meant the same one, a model could know it by heart without the text."""
SURFACES = CLASSES[: -len(SHAPES)]
NAMES = (*SURFACES, *(f"{colour} {shape}" for shape in SHAPES for colour in OBJECT_COLOURS))
"""Classes of `colours` and `open`."""
WITHHELD = tuple(
    len(SURFACES) + len(OBJECT_COLOURS) * shape + colour
    for shape in range(len(SHAPES))
    for colour in range(len(OBJECT_COLOURS))
    if colour % len(SHAPES) == shape
)
"""Classes that have no label in the training of `open`: two colours of each shape, each colour of one shape."""
SMALL_SHARE = 0.03
"""Objects that cover less of the picture are small."""
KEPT_SETS = 8


@dataclass(frozen=True)
class SceneSet:
    """Scenes with their truth."""

    batch: Batch
    small: Tensor | None = None
    """`(b, H, W)` bool: pixels of small objects, where segmentation is measured."""

    def take(self, indices: Sequence[int]) -> SceneSet:
        """Some of them."""
        places = list(indices)
        parts: dict[str, Any] = {}
        for field in fields(self.batch):
            value = getattr(self.batch, field.name)
            if isinstance(value, Tensor):
                parts[field.name] = value[places]
            elif value and field.name != "unreadable":
                parts[field.name] = [value[place] for place in places]
        return SceneSet(Batch(**parts), None if self.small is None else self.small[places])


class Scenes:
    """Renders sets of scenes and keeps the last of them; the tasks but referring see the same ones.

    Args:
        size_px: Side of the pictures.
        counts: Scenes of `train`, `val` and `test`.
    """

    def __init__(self, size_px: int, counts: dict[str, int]) -> None:
        self.size_px, self.counts = size_px, counts
        self._sets: OrderedDict[tuple[Any, ...], SceneSet] = OrderedDict()
        self._rendered: OrderedDict[tuple[Any, ...], list[Rendering]] = OrderedDict()

    def get(self, task: str, split: Split, seed: int) -> SceneSet:
        """The scenes of a split and seed; those of training in their variants, one after another."""

        def make() -> SceneSet:
            return self._refer(split, seed) if task == "refer" else self._others(task, split, seed)

        return _kept(self._sets, (task, split, seed), make)

    def _refer(self, split: Split, seed: int) -> SceneSet:
        count, drawn = self.counts[split], []
        samples = WorldSamples("refer", split, count, self.size_px, seed=FIRST_SEED + seed)
        for index in range(count):
            of_scene = samples.expressions_of(index, VARIANTS["refer"]) if split == "train" else [samples[index]]
            drawn += _variants(of_scene, np.random.default_rng((seed, index)))
        return SceneSet(collate(drawn))

    def _others(self, task: str, split: Split, seed: int) -> SceneSet:
        world_seed, drawn, small = split_seed(FIRST_SEED + seed, split), [], []

        def make() -> list[Rendering]:
            return [render(sample_scene(world_seed, index), self.size_px) for index in range(self.counts[split])]

        for index, rendering in enumerate(_kept(self._rendered, (split, seed), make)):
            sample = Sample(f"{split}-{index:06d}", rendering.image, **truth(task, rendering, split))
            copies = VARIANTS[LIBRARY_TASK[task]] if split == "train" else 1
            drawn += _variants([sample] * copies, np.random.default_rng((seed, index)))
            small.append(small_objects(rendering))
        is_measured = LIBRARY_TASK[task] == "segment" and split != "train"
        return SceneSet(collate(drawn), torch.from_numpy(np.stack(small)) if is_measured else None)


def truth(task: str, rendering: Rendering, split: Split) -> dict[str, Any]:
    """What a scene's sample has besides the picture."""
    if task == "depth":
        return {"depth_m": rendering.depth_m, "scene": SCENE}
    if task == "segment":
        return {"labels": rendering.labels}
    labels = rendering.labels.copy()
    for place, thing in enumerate(rendering.scene.things):
        label = NAMES.index(f"{thing.colour} {thing.shape}")
        is_hidden = task == "open" and split == "train" and label in WITHHELD
        labels[rendering.instances == place + 1] = IGNORE_LABEL if is_hidden else label
    return {"labels": labels}


def small_objects(rendering: Rendering) -> np.ndarray:
    """`(H, W)` bool: pixels of objects of which little is seen."""
    shares = np.bincount(rendering.instances.ravel(), minlength=len(rendering.scene.things) + 1) / rendering.labels.size
    return (rendering.instances > 0) & (shares < SMALL_SHARE)[rendering.instances]


def _variants(samples: Sequence[Sample], rng: np.random.Generator) -> list[Sample]:
    """Each with one text, every second mirrored."""
    return [
        replace(draw_text(flip(sample) if number % 2 else sample, rng), name=f"{sample.name}-{number}")
        for number, sample in enumerate(samples)
    ]


def _kept(kept: OrderedDict[tuple[Any, ...], Any], key: tuple[Any, ...], make: Any) -> Any:
    """What is kept under a key, made where it is missing; what was not asked for longest goes."""
    if key not in kept:
        kept[key] = make()
        if len(kept) > KEPT_SETS:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]
