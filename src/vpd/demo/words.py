"""The part of the demo where classes are words: the same kind of picture, asked for by one list and by another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpd.demo.describe import describe
from vpd.drawing.overlays import class_legend, tint_classes
from vpd.loading import load
from vpd.pages.page import Section
from vpd.pages.parts import Example, Tile, examples
from vpd.tasks.overlapping import no_class
from vpd.world.render import Rendering, render
from vpd.world.sample_scene import sample_scene
from vpd.world.scenes import CLASSES, Thing

MODEL = "world-open"
LISTS = (
    ("red things", "cubes", "floor"),
    ("cones", "cylinders", "spheres", "walls"),
    ("metal things", "striped things", "floor", "ceiling"),
)
"""What is asked for; in the first a red cube fits two."""
_MEANINGS = {
    "red things": ("colour", "red"),
    "metal things": ("material", "metal"),
    "striped things": ("material", "striped"),
    "cubes": ("shape", "cube"),
    "cones": ("shape", "cone"),
    "cylinders": ("shape", "cylinder"),
    "spheres": ("shape", "sphere"),
}
_SURFACES = {"floor": "floor", "walls": "wall", "ceiling": "ceiling"}
_WORDS = (
    "One model, no fixed classes: they are typed, and read by the text encoder as a prompt is. Each is asked for by "
    "itself, so they may overlap; a pixel gets the first in the list that fits, and grey ones fit none. Each list is "
    "asked of the first fresh scene that has two of its things, however it came out."
)
_MOST_TRIED = 50


def words_section(seed: int, *, size_px: int) -> Section:
    """Answers to some lists of words, beside the truth.

    Args:
        seed: Of the fresh scenes.
        size_px: Side of their pictures.
    """
    model = load(MODEL, device="cpu")
    shown = []
    for number, words in enumerate(LISTS, start=1):
        rendering = first_with(words, seed, size_px=size_px)
        image, truth = Image.fromarray(rendering.image), true_labels(rendering, words)
        answer = model.predict(image, classes=words).labels.numpy()
        over = [_tile(image, answer, words, "Answer"), _tile(image, truth, words, "Truth")]
        legend = [meaning for meaning, _ in class_legend(np.stack([answer, truth]), words).most_common()]
        picture = Tile(image, "Input", f"Rendered room. Classes in words, list {number}.")
        shown.append(Example(f"Classes in words, list {number}", "; ".join(words), picture, over, legend))
    return Section("Classes in your words", _WORDS, examples(shown))


def first_with(words: Sequence[str], seed: int, *, size_px: int) -> Rendering:
    """The first scene of a seed in which two of the words fit things; of many without such, the last."""
    for index in range(_MOST_TRIED):
        scene = sample_scene(seed, index)
        if len({word for word in words for thing in scene.things if _fits(thing, word)}) > 1:
            break
    return render(scene, size_px)


def true_labels(rendering: Rendering, words: Sequence[str]) -> NDArray[np.uint8]:
    """`(H, W)` number of the first of the words that fits each pixel; 255 = none does."""
    labels = np.full(rendering.labels.shape, no_class(len(words)), dtype=np.uint8)
    for number, word in reversed(list(enumerate(words))):
        if word in _SURFACES:
            labels[rendering.labels == CLASSES.index(_SURFACES[word])] = number
        for index, thing in enumerate(rendering.scene.things):
            if _fits(thing, word):
                labels[rendering.instances == index + 1] = number
    return labels


def _fits(thing: Thing, word: str) -> bool:
    attribute, value = _MEANINGS.get(word, ("", None))
    return value is not None and getattr(thing, attribute) == value


def _tile(image: Image.Image, labels: NDArray[np.uint8], words: Sequence[str], name: str) -> Tile:
    return Tile(tint_classes(image, labels, len(words)), name, f"{name}: {describe(labels, words)}")
