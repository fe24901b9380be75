"""What can be said about a picture: the objects seen in it, and noun phrases for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from vpd.world.render import Rendering
from vpd.world.scenes import Thing

ATTRIBUTES = ("size", "colour", "material", "shape")
"""What an object can be told by, in the order of the words in a phrase."""


@dataclass(frozen=True)
class Seen:
    """An object as the picture shows it."""

    index: int
    """Its place in `scene.things`; its pixels have instance `index + 1`."""
    thing: Thing
    across: float
    """Middle of its pixels, 0 = left border, 1 = right border."""
    depth_m: float
    """Median depth of its pixels."""
    share: float
    """Share of the picture that it covers."""


def seen_things(rendering: Rendering) -> tuple[Seen, ...]:
    """Every object with at least one pixel, from left to right."""
    width = rendering.instances.shape[1]
    found = []
    for index, thing in enumerate(rendering.scene.things):
        rows, columns = np.nonzero(rendering.instances == index + 1)
        if rows.size:
            depth_m = float(np.median(rendering.depth_m[rows, columns]))
            across = float(columns.mean() + 0.5) / width
            found.append(Seen(index, thing, across, depth_m, rows.size / rendering.instances.size))
    return tuple(sorted(found, key=lambda seen: seen.across))


def noun_phrase(thing: Thing, attributes: Sequence[str] = ATTRIBUTES) -> str:
    """Words for an object without an article: `large red metal cube`, or `red object`."""
    words = [getattr(thing, attribute) for attribute in ATTRIBUTES if attribute in attributes]
    return " ".join(words if "shape" in attributes else [*words, "object"])


def matching(thing: Thing, attributes: Sequence[str], seen: Sequence[Seen]) -> tuple[Seen, ...]:
    """Those objects of which the same phrase is true."""
    return tuple(other for other in seen if all(getattr(other.thing, a) == getattr(thing, a) for a in attributes))


def distinguishing_attributes(target: Seen, seen: Sequence[Seen]) -> tuple[tuple[str, ...], ...]:
    """Every smallest choice of attributes that is true of the target alone; empty where it has a double."""
    found: list[tuple[str, ...]] = []
    for count in range(1, len(ATTRIBUTES) + 1):
        for attributes in combinations(ATTRIBUTES, count):
            is_smallest = not any(set(fewer) <= set(attributes) for fewer in found)
            if is_smallest and len(matching(target.thing, attributes, seen)) == 1:
                found.append(attributes)
    return tuple(found)


def definite_phrases(target: Seen, seen: Sequence[Seen]) -> tuple[str, ...]:
    """Phrases that are true of the target alone: the shortest, and the same with the shape named.

    Args:
        target: The object to name.
        seen: Every object in the picture.

    Returns:
        `the cube`, `the red object`, `the red cube`, ..., those with a shape first; empty where it has a double.
    """
    shortest = distinguishing_attributes(target, seen)
    with_shape = [attributes if "shape" in attributes else (*attributes, "shape") for attributes in shortest]
    choices = (*sorted(with_shape, key=len), *shortest)
    phrases = [f"the {noun_phrase(target.thing, attributes)}" for attributes in choices]
    return tuple(dict.fromkeys(phrases))
