"""What an expression means, worked out from its words and the picture alone; shares no code with the package."""

from __future__ import annotations

import re

import numpy as np

VALUES = {
    "size": {"small", "large"},
    "colour": {"red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"},
    "material": {"matte", "metal", "striped"},
    "shape": {"sphere", "cube", "cylinder", "cone"},
}
FORM = re.compile(
    r"the (?:(?P<extreme>leftmost|rightmost|nearest|farthest|largest) )?(?P<phrase>[a-z ]+?)"
    r"(?: (?P<relation>to the left of|to the right of|in front of|behind) the (?P<landmark>[a-z ]+))?"
)
EXTREMES = {
    "leftmost": lambda fact: fact["across"],
    "rightmost": lambda fact: -fact["across"],
    "nearest": lambda fact: fact["depth"],
    "farthest": lambda fact: -fact["depth"],
    "largest": lambda fact: -fact["pixels"],
}
RELATIONS = {
    "to the left of": lambda one, other: one["across"] < other["across"],
    "to the right of": lambda one, other: one["across"] > other["across"],
    "in front of": lambda one, other: one["depth"] < other["depth"],
    "behind": lambda one, other: one["depth"] > other["depth"],
}


def facts_of(things, instances, depth_m):
    """What the picture shows of each object: no margins, no thresholds."""
    facts = []
    for index, thing in enumerate(things):
        mask = instances == index + 1
        if mask.any():
            words = {name: getattr(thing, name) for name in VALUES}
            across = float(np.mean(np.nonzero(mask)[1]))
            facts.append(
                {"index": index, "across": across, "depth": float(np.median(depth_m[mask])), "pixels": mask.sum()}
                | words
            )
    return facts


def meant(text, facts):
    """Indices of all objects that an expression may mean."""
    form = FORM.fullmatch(text)
    assert form, f"not an expression of the world: {text}"
    found = named(form["phrase"], facts)
    if form["extreme"]:
        key = EXTREMES[form["extreme"]]
        best = min(key(fact) for fact in found)
        found = [fact for fact in found if key(fact) == best]
    if form["relation"]:
        (landmark,) = named(form["landmark"], facts)
        found = [fact for fact in found if fact is not landmark and RELATIONS[form["relation"]](fact, landmark)]
    return {fact["index"] for fact in found}


def named(phrase, facts):
    for word in phrase.split():
        if word != "object":
            (name,) = (name for name, values in VALUES.items() if word in values)
            facts = [fact for fact in facts if fact[name] == word]
    return facts
