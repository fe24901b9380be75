"""Other words for an expression: people say `the cone on the left` where the world says `the leftmost cone`."""

from __future__ import annotations

import re

import numpy as np

from vpd.world.expressions import Expression

EXTREMES: dict[str, tuple[str, ...]] = {
    "leftmost": ("the {} on the left", "the left {}", "the {} furthest to the left", "the {} on the far left"),
    "rightmost": ("the {} on the right", "the right {}", "the {} furthest to the right", "the {} on the far right"),
    "nearest": ("the closest {}", "the {} nearest to the camera", "the {} closest to the camera", "the {} in front"),
    "farthest": ("the furthest {}", "the {} at the back", "the {} farthest away", "the {} furthest from the camera"),
    "largest": ("the biggest {}", "the {} that is largest", "the largest {} of all"),
}
"""Word of a superlative -> ways to say the same, `{}` for the noun phrase."""
RELATIONS: dict[str, tuple[str, ...]] = {
    "to the left of": ("left of", "on the left of"),
    "to the right of": ("right of", "on the right of"),
    "in front of": ("nearer than", "closer than"),
    "behind": ("farther away than", "further back than"),
}
"""Words of a relation -> words that mean the same."""
NOUNS = {"sphere": "ball", "cube": "box", "object": "thing"}
SUPERLATIVE_SHARE, RELATION_SHARE, NOUN_SHARE, BARE_SHARE = 0.5, 0.3, 0.1, 0.1
"""Shares of expressions that are put otherwise, by kind; whose nouns are exchanged; and that lose their article."""


def reworded(expression: Expression, rng: np.random.Generator) -> str:
    """An expression as somebody else might put it; it means the same object.

    Args:
        expression: In the world's own words.
        rng: Draws whether and how.
    """
    text = expression.text
    if expression.kind == "superlative" and rng.random() < SUPERLATIVE_SHARE:
        _, extreme, phrase = text.split(" ", 2)
        text = _one_of(EXTREMES[extreme], rng).format(phrase)
    elif expression.kind == "relation" and rng.random() < RELATION_SHARE:
        words = next(words for words in RELATIONS if f" {words} " in text)
        text = text.replace(f" {words} ", f" {_one_of(RELATIONS[words], rng)} ")
    if rng.random() < NOUN_SHARE:
        for noun, other in NOUNS.items():
            text = re.sub(rf"\b{noun}\b", other, text)
    return text.removeprefix("the ") if rng.random() < BARE_SHARE else text


def _one_of(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
