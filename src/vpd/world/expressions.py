"""What can be said about a picture: the objects in it, noun phrases, and expressions that single out one object.

A comparison counts only where the picture shows it clearly. An expression is made only if it is clearly true of its
object and clearly false of every other: unambiguous by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from vpd.world.render import Rendering
from vpd.world.scenes import Thing

ATTRIBUTES = ("size", "colour", "material", "shape")
"""What an object can be told by, in the order of the words in a phrase."""

Kind = Literal["attribute", "superlative", "relation"]

LEAST_SHARE = 0.004
"""Objects with fewer of the pixels are not referred to; they still count as what an expression could mean."""
CLEARLY_BESIDE = 0.06
"""Least distance across the picture, as a share of its width, for left and right."""
CLEARLY_DEEPER_M = 0.35
"""Least difference in depth, for in front and behind."""
CLEARLY_LARGER = 1.4
"""Least ratio of covered pixels."""


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


def _distinguishing_attributes(target: Seen, seen: Sequence[Seen]) -> tuple[tuple[str, ...], ...]:
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

    Those with a shape come first: `the cube`, `the red cube`, ..., `the red object`; none where it has a double.
    """
    shortest = _distinguishing_attributes(target, seen)
    with_shape = [attributes if "shape" in attributes else (*attributes, "shape") for attributes in shortest]
    choices = (*sorted(with_shape, key=len), *shortest)
    phrases = [f"the {noun_phrase(target.thing, attributes)}" for attributes in choices]
    return tuple(dict.fromkeys(phrases))


Relation = Callable[[Seen, Seen], bool]
"""Whether the first clearly stands so to the second."""


def _left_of(one: Seen, other: Seen) -> bool:
    return other.across - one.across >= CLEARLY_BESIDE


def _right_of(one: Seen, other: Seen) -> bool:
    return _left_of(other, one)


def _in_front_of(one: Seen, other: Seen) -> bool:
    return other.depth_m - one.depth_m >= CLEARLY_DEEPER_M


def _behind(one: Seen, other: Seen) -> bool:
    return _in_front_of(other, one)


def _larger(one: Seen, other: Seen) -> bool:
    """Whether `one` covers clearly more of the picture, and is no smaller itself."""
    return one.share >= CLEARLY_LARGER * other.share and one.thing.radius_m >= other.thing.radius_m


SUPERLATIVES: dict[str, Relation] = {
    "leftmost": _left_of,
    "rightmost": _right_of,
    "nearest": _in_front_of,
    "farthest": _behind,
    "largest": _larger,
}
"""Word -> how its object stands to every other that the noun fits."""
RELATIONS: dict[str, Relation] = {
    "to the left of": _left_of,
    "to the right of": _right_of,
    "in front of": _in_front_of,
    "behind": _behind,
}
"""Words -> how its object stands to the other one; the other stands so to everything else that the noun fits."""
HEADS = ((), ("shape",), ("colour",), ("colour", "shape"))
"""Attributes named in the noun phrase of a superlative or relation."""


@dataclass(frozen=True)
class Expression:
    """Words that mean one object of a picture."""

    text: str
    index: int
    """Place of the object in `scene.things`."""
    kind: Kind
    """What singles it out: its own attributes, an extreme, or where it stands to another object."""


def expressions(rendering: Rendering) -> tuple[Expression, ...]:
    """Every expression that the world knows for a picture, always in the same order."""
    seen = seen_things(rendering)
    made: dict[str, Expression] = {}
    for target in seen:
        if target.share >= LEAST_SHARE:
            for kind, text in _about(target, seen):
                made.setdefault(text, Expression(text, target.index, kind))
    return tuple(made.values())


def _about(target: Seen, seen: Sequence[Seen]) -> Iterator[tuple[Kind, str]]:
    """All expressions for one object."""
    for phrase in definite_phrases(target, seen):
        yield "attribute", phrase
    for head in HEADS:
        rivals = [other for other in matching(target.thing, head, seen) if other is not target]
        if not rivals:  # the noun phrase alone says it
            continue
        phrase = noun_phrase(target.thing, head)
        for word, relation in SUPERLATIVES.items():
            if all(relation(target, rival) for rival in rivals):
                yield "superlative", f"the {word} {phrase}"
        for landmark in seen:
            if landmark is not target and landmark.share >= LEAST_SHARE:
                for words in _relations(target, landmark, rivals):
                    for name in definite_phrases(landmark, seen)[:1]:
                        yield "relation", f"the {phrase} {words} {name}"


def _relations(target: Seen, landmark: Seen, rivals: Sequence[Seen]) -> Iterator[str]:
    """Relations to a landmark that hold for the target and clearly fail for its rivals."""
    others = [rival for rival in rivals if rival is not landmark]
    if others:  # else the noun phrase means the target or the landmark itself, and the relation says too little
        for words, holds in RELATIONS.items():
            if holds(target, landmark) and all(holds(landmark, other) for other in others):
                yield words
