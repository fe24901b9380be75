"""Referring expressions that single out one object, unambiguous by construction.

A comparison counts only where the picture shows it clearly. An expression is made only if it is clearly true of its
object and clearly false of every other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from vpd.world.phrases import Seen, definite_phrases, matching, noun_phrase, seen_things
from vpd.world.render import Rendering

Kind = Literal["attribute", "superlative", "relation"]

LEAST_SHARE = 0.004
"""Objects with fewer of the pixels are not referred to; they still count as what an expression could mean."""
CLEARLY_BESIDE = 0.06
"""Least distance across the picture, as a share of its width, for left and right."""
CLEARLY_DEEPER_M = 0.35
"""Least difference in depth, for in front and behind."""
CLEARLY_LARGER = 1.4
"""Least ratio of covered pixels."""

Relation = Callable[[Seen, Seen], bool]


def is_left_of(one: Seen, other: Seen) -> bool:
    """Whether `one` is clearly to the left of `other`."""
    return other.across - one.across >= CLEARLY_BESIDE


def is_right_of(one: Seen, other: Seen) -> bool:
    """Whether `one` is clearly to the right of `other`."""
    return is_left_of(other, one)


def is_in_front_of(one: Seen, other: Seen) -> bool:
    """Whether `one` is clearly nearer than `other`."""
    return other.depth_m - one.depth_m >= CLEARLY_DEEPER_M


def is_behind(one: Seen, other: Seen) -> bool:
    """Whether `one` is clearly farther away than `other`."""
    return is_in_front_of(other, one)


def is_larger(one: Seen, other: Seen) -> bool:
    """Whether `one` covers clearly more of the picture, and is no smaller itself."""
    return one.share >= CLEARLY_LARGER * other.share and one.thing.radius_m >= other.thing.radius_m


SUPERLATIVES: dict[str, Relation] = {
    "leftmost": is_left_of,
    "rightmost": is_right_of,
    "nearest": is_in_front_of,
    "farthest": is_behind,
    "largest": is_larger,
}
"""Word -> how its object stands to every other that the noun fits."""
RELATIONS: dict[str, tuple[Relation, Relation]] = {
    "to the left of": (is_left_of, is_right_of),
    "to the right of": (is_right_of, is_left_of),
    "in front of": (is_in_front_of, is_behind),
    "behind": (is_behind, is_in_front_of),
}
"""Words -> how its object stands to the other one, and how everything else that the noun fits must stand."""
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
        for words, (holds, fails) in RELATIONS.items():
            if holds(target, landmark) and all(fails(other, landmark) for other in others):
                yield words
