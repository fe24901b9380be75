"""The world as sample sets for training and evaluation."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from vpd.config import Task
from vpd.data.sample import Sample, SampleSet
from vpd.world.expressions import Expression, expressions
from vpd.world.render import Rendering, render
from vpd.world.sample_scene import CROWDED_STYLE, DEFAULT_STYLE, sample_scene
from vpd.world.scenes import CLASSES
from vpd.world.wordings import reworded

Split = Literal["train", "val", "test"]
SCENE = "room"
"""The one scene class of the world."""
MOST_TEXTS = 6
"""Expressions kept of a training sample, all of one kind, so that each kind is drawn as often."""
_TASKS = ("segment", "refer", "depth")
"""That scenes have the truth of."""


def split_seed(seed: int, split: Split) -> int:
    """Seed of a split's scenes: no two splits share one, whatever the seeds of their sets."""
    if split not in get_args(Split):
        raise ValueError(f"Unknown split {split!r}. Choose one of: {', '.join(get_args(Split))}.")
    return len(get_args(Split)) * seed + get_args(Split).index(split)


class WorldSamples(SampleSet):
    """Freshly rendered scenes of one split, as a sequence of samples.

    Args:
        task: `segment` gives labels, `depth` depth in metres, `refer` the mask of one object with its expressions.
        split: `train`, `val` or `test`; they never share scenes.
        count: Number of samples.
        size_px: Side of the pictures, or their height and width.
        seed: Another seed, another set.
        keep: Keep each sample in memory once it is rendered.

    Raises:
        ValueError: If task or split is unknown, or count is negative.
    """

    def __init__(
        self,
        task: Task,
        split: Split,
        count: int,
        size_px: int | tuple[int, int] = 128,
        *,
        seed: int = 0,
        keep: bool = False,
    ) -> None:
        if task not in _TASKS:
            raise ValueError(f"Unknown task {task!r}. Choose one of: {', '.join(_TASKS)}.")
        if count < 0:
            raise ValueError(f"A set of {count} samples: count must be 0 or more.")
        self.task: Task = task
        self.split: Split = split
        self.size_px = size_px
        self.seed = split_seed(seed, split)
        self.classes: tuple[str, ...] = CLASSES if task == "segment" else ()
        self.scenes: tuple[str, ...] = (SCENE,) if task == "depth" else ()
        self._count = count
        self._kept: dict[int, Sample] | None = {} if keep else None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        if not -self._count <= index < self._count:
            raise IndexError(f"Sample {index} of a set of {self._count}.")
        index %= self._count
        if self._kept is None:
            return self._render(index)
        if index not in self._kept:
            self._kept[index] = self._render(index)
        return self._kept[index]

    def _render(self, index: int) -> Sample:
        name = f"world-{self.split}-{index:06d}"
        if self.task == "refer":
            return self._refer(name, index)
        rendering = render(sample_scene(self.seed, index, DEFAULT_STYLE), self.size_px)
        if self.task == "segment":
            return Sample(name, rendering.image, labels=rendering.labels)
        return Sample(name, rendering.image, depth_m=rendering.depth_m, scene=SCENE)

    def _refer(self, name: str, index: int) -> Sample:
        """One object of a crowded scene."""
        rendering, possible, attempt = self.crowded(index)
        rng = np.random.default_rng((self.seed, index, attempt, 1))  # not the scene's own stream
        if self.split != "train":
            return _referred(name, rendering, choose_expressions(possible, rng, 1))
        chosen = choose_expressions(possible, rng, MOST_TEXTS)
        texts = dict.fromkeys(reworded(expression, rng) for expression in chosen)
        return _referred(name, rendering, chosen, tuple(texts))

    def expressions_of(self, index: int, count: int) -> list[Sample]:
        """Several expressions about one scene of a set for `refer`, each a sample of its own, of any of its objects.

        Args:
            index: Of the scene.
            count: How many; each is drawn by itself, so that some may come again.
        """
        rendering, possible, attempt = self.crowded(index)
        drawn = []
        for number in range(count):
            rng = np.random.default_rng((self.seed, index, attempt, 2, number))
            name = f"world-{self.split}-{index:06d}-{number}"
            drawn.append(_referred(name, rendering, choose_expressions(possible, rng, 1)))
        return drawn

    def crowded(self, index: int) -> tuple[Rendering, tuple[Expression, ...], int]:
        """A crowded scene, what can be said about it, and its attempt: another scene where nothing is sure."""
        attempt = 0
        while True:
            rendering = render(sample_scene(self.seed, index, CROWDED_STYLE, attempt=attempt), self.size_px)
            possible = expressions(rendering)
            if possible:
                return rendering, possible, attempt
            attempt += 1


def choose_expressions(
    possible: tuple[Expression, ...], rng: np.random.Generator, count: int
) -> tuple[Expression, ...]:
    """Draw a kind of expression, then an object, then up to `count` expressions of that kind and object."""
    kinds = sorted({expression.kind for expression in possible})
    kind = kinds[int(rng.integers(len(kinds)))]
    objects = sorted({expression.index for expression in possible if expression.kind == kind})
    target = objects[int(rng.integers(len(objects)))]
    about = [expression for expression in possible if expression.index == target]
    shuffled = [about[int(place)] for place in rng.permutation(len(about))]
    return tuple(expression for expression in shuffled if expression.kind == kind)[:count]


def _referred(
    name: str, rendering: Rendering, chosen: tuple[Expression, ...], texts: tuple[str, ...] | None = None
) -> Sample:
    mask = rendering.instances == chosen[0].index + 1
    return Sample(name, rendering.image, mask=mask, texts=texts or tuple(expression.text for expression in chosen))
