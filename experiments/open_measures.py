"""How well a model finds what it is told in words: lists of prompts on fresh scenes, also with exchanged words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from experiments.open_words import ROOM, WordedScenes, Words, fine_labels, fits, is_held_out, wordings, words_of
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.metrics.intervals import bootstrap_intervals
from vpd.metrics.segmentation import SegmentationMetrics
from vpd.tasks.overlapping import LEAST_PROBABILITY
from vpd.tasks.segmentation import SegmentationModel
from vpd.world.render import Rendering
from vpd.world.scenes import OBJECT_COLOURS, SHAPES

_ROOM: tuple[Words, ...] = tuple({"room": part} for part in ROOM)
_COLOURS: tuple[Words, ...] = (*({"colour": colour} for colour in OBJECT_COLOURS), *_ROOM)
_SHAPES: tuple[Words, ...] = (*({"shape": shape} for shape in SHAPES), *_ROOM)


class _Found(NamedTuple):
    """What a model made of one list in one scene."""

    words: Sequence[Words]
    masks: NDArray[np.bool_]
    """`(n, H, W)`, one a prompt."""
    labels: NDArray[np.uint8]
    """`(H, W)` number of the prompt that the pixel got."""
    truth: NDArray[np.bool_]
    """Like `masks`."""


class _Tally:
    """Pixels found, predicted and true of each description, a row for each scene."""

    def __init__(self) -> None:
        self._places: dict[tuple[tuple[str, str], ...], int] = {}
        self._rows: list[dict[int, NDArray[np.int64]]] = []

    def scene(self) -> None:
        """Begin one."""
        self._rows.append({})

    def add(self, words: Words, mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> None:
        """Count a description in the scene."""
        place = self._places.setdefault(tuple(sorted(words.items())), len(self._places))
        row = np.array([(mask & truth).sum(), mask.sum(), truth.sum()])
        self._rows[-1][place] = self._rows[-1].get(place, 0) + row

    def result(self) -> dict[str, Any]:
        """The mIoU over the descriptions and its interval over scenes."""
        rows = torch.zeros(len(self._rows), 3, len(self._places), dtype=torch.int64)
        for number, counted in enumerate(self._rows):
            for place, row in counted.items():
                rows[number, :, place] = torch.from_numpy(row)
        metric = SegmentationMetrics(len(self._places))
        interval = bootstrap_intervals(metric, rows, range(len(rows))).get("mIoU")
        found: Tensor = metric.values(rows.sum(dim=0))["mIoU"]
        return {"mIoU": float(found), "interval": interval, "descriptions": len(self._places)}


def measure_words(model: SegmentationModel, *, scenes: int, split: Any = "test") -> dict[str, Any]:
    """The mIoU of lists of each kind over fresh scenes.

    * `colours`, `shapes`: all of them with the parts of the room, so that every pixel fits exactly one; also the labels
      of pixels, where the list decides between them.
    * `pairs`: colour and shape of each object in the scene, each also with a colour that is wrong; those that training
      named together and those that it never did apart.
    * `overlapping`: things of a colour, shapes, floor; the colour and shape of the first two objects.

    `exchanged` is what the masks of one prompt reach on the pixels of the next in its list.

    Args:
        model: With the open head, and classes that may overlap.
        scenes: How many.
        split: Of the world.
    """
    names = ("colours", "shapes", "pairs", "pairs never together", "overlapping")
    tallies = {name: _Tally() for name in names}
    tallies |= {f"{name}, exchanged": _Tally() for name in names if name != "overlapping"}
    tallies |= {f"{name}, labels": _Tally() for name in ("colours", "shapes")}
    samples = WordedScenes(split, scenes)
    for index in range(scenes):
        rendering = samples.rendering(index)
        caches = FrozenCaches(TensorCache(2**24), None)  # the picture is encoded once
        for tally in tallies.values():
            tally.scene()
        for name, words in lists_of(rendering).items():
            found = _find(model, rendering, words, caches)
            for number, said in enumerate(words):
                apart = " never together" if is_held_out(said) else ""
                tallies[name + apart].add(said, found.masks[number], found.truth[number])
                if "room" not in said and name != "overlapping":
                    others = [place for place, other in enumerate(words) if "room" not in other]
                    other = others[(others.index(number) + 1) % len(others)]
                    tallies[f"{name}{apart}, exchanged"].add(said, found.masks[other], found.truth[number])
                if name in ("colours", "shapes"):
                    tallies[f"{name}, labels"].add(said, found.labels == number, found.truth[number])
    return {"scenes": scenes, "split": split, **{name: tally.result() for name, tally in tallies.items()}}


def lists_of(rendering: Rendering) -> dict[str, list[Words]]:
    """The lists that a scene is asked for."""
    things = rendering.scene.things
    pairs: list[Words] = []
    for number, thing in enumerate(things):
        right = words_of(thing, ("colour", "shape"))
        colours = list(OBJECT_COLOURS)
        wrong = {**right, "colour": colours[(colours.index(thing.colour) + 1 + number) % len(colours)]}
        pairs += [words for words in (right, wrong) if words not in pairs]
    overlapping = [{"colour": things[0].colour}, {"shape": things[-1].shape}, _ROOM[0]]
    return {"colours": list(_COLOURS), "shapes": list(_SHAPES), "pairs": pairs, "overlapping": overlapping}


def _find(model: SegmentationModel, rendering: Rendering, words: Sequence[Words], caches: FrozenCaches) -> _Found:
    texts = [wordings(said)[0] for said in words]
    found = model.predict(Image.fromarray(rendering.image), classes=texts, scores=True, caches=caches)
    if found.scores is None:
        raise ValueError("The prediction has no scores.")
    truth = np.stack([fits(said) for said in words])[:, fine_labels(rendering)]
    return _Found(words, found.scores.numpy() > LEAST_PROBABILITY, found.labels.numpy(), truth)
