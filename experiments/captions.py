"""Captions: a long one that names everything in a picture, and short ones that are true of a part of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vpd.world.expressions import ATTRIBUTES, RELATIONS, Seen, noun_phrase, seen_things
from vpd.world.render import Rendering
from vpd.world.scenes import CLASSES, Thing

NEAR_M, FAR_M = 3.2, 4.4
"""Objects nearer and farther than these are said to be; about a quarter of them each."""
NAMED_SURFACES = 0.25
"""Share of the short captions that speak of floor, walls or ceiling."""


def caption(rendering: Rendering) -> str:
    """One sentence with everything visible: surfaces, light, and all objects from left to right with their places."""
    surfaces = [f"{noun}s" if noun.endswith("wall") else an(noun) for noun in surface_phrases(rendering)]
    place = f"a room with {_enumerate(surfaces)}" if surfaces else "a room"
    things = [f"{an(noun_phrase(seen.thing))} {place_of(seen)}" for seen in seen_things(rendering)]
    holding = f": {_enumerate(things)}" if things else ""
    side = "left" if rendering.scene.light.towards[0] < 0 else "right"
    return f"{place}, lit from the {side}{holding}"


def short_caption(rendering: Rendering, rng: np.random.Generator) -> str:
    """Words that are true of a part of the picture: a surface, an object by some of its attributes, or two objects.

    From these a model learns what a noun phrase means by itself, as prompts of classes and expressions use it.

    Args:
        rendering: The picture.
        rng: Draws what is said.
    """
    article = the if rng.random() < 0.5 else an
    seen = seen_things(rendering)
    if not seen or rng.random() < NAMED_SURFACES:
        surfaces = surface_phrases(rendering) or ["room"]
        words = surfaces[int(rng.integers(len(surfaces)))]
        noun = words if rng.random() < 0.5 else words.split()[-1]
    else:
        one, *others = (seen[int(place)] for place in rng.permutation(len(seen)))
        noun = _some_words(one.thing, rng)
        how = rng.random()
        if how < 0.2:
            return f"{article(noun)} {place_of(one)}"
        if how < 0.6 and others:
            relations = [words for words, holds in RELATIONS.items() if holds(one, others[0])] or ["and"]
            relation = relations[int(rng.integers(len(relations)))]
            return f"{article(noun)} {relation} {article(_some_words(others[0].thing, rng))}"
    return f"a photo of {article(noun)}." if rng.random() < 0.5 else article(noun)


def the(noun: str) -> str:
    """The noun phrase with the definite article."""
    return f"the {noun}"


def an(noun: str) -> str:
    """The noun phrase with the indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def place_of(seen: Seen) -> str:
    """Where an object is in the picture: its third, and whether it is near or far."""
    side = "on the left" if seen.across < 1 / 3 else "on the right" if seen.across > 2 / 3 else "in the middle"
    return f"near {side}" if seen.depth_m < NEAR_M else f"far {side}" if seen.depth_m > FAR_M else side


def surface_phrases(rendering: Rendering) -> list[str]:
    """Noun phrases without article for the surfaces in view, such as `gray tiled floor`."""
    room = rendering.scene.room
    pattern = "" if room.floor_pattern == "plain" else f" {room.floor_pattern}"
    phrases = {"floor": f"{room.floor_colour}{pattern} floor", "wall": f"{room.wall_colour} wall"}
    phrases["ceiling"] = "white ceiling"
    visible = {CLASSES[label] for label in np.unique(rendering.labels)}
    return [phrase for surface, phrase in phrases.items() if surface in visible]


def _some_words(thing: Thing, rng: np.random.Generator) -> str:
    """A noun phrase with some of an object's attributes; nearly always with its shape."""
    return noun_phrase(thing, [name for name in ATTRIBUTES if rng.random() < (0.9 if name == "shape" else 0.4)])


def _enumerate(parts: Sequence[str]) -> str:
    """Words joined as in `a, b and c`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
