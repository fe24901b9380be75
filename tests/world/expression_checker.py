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


EXTREME_FORMS = {
    "leftmost": r"on the (?:far )?left|furthest to the left",
    "rightmost": r"on the (?:far )?right|furthest to the right",
    "nearest": r"(?:nearest|closest) to the camera|in front",
    "farthest": r"at the back|farthest away|furthest from the camera",
    "largest": r"that is largest|of all",
}
EXTREME_WORDS = {
    "left": "leftmost",
    "right": "rightmost",
    "closest": "nearest",
    "furthest": "farthest",
    "biggest": "largest",
}
RELATION_FORMS = {
    "to the left of": "on the left of|left of",
    "to the right of": "on the right of|right of",
    "in front of": "nearer than|closer than",
    "behind": "farther away than|further back than",
}
NOUNS = {"ball": "sphere", "box": "cube", "thing": "object"}


def in_own_words(text):
    """What the world itself would say in the place of an expression that was put otherwise."""
    text = " ".join(NOUNS.get(word, word) for word in text.split())
    text = text if text.startswith("the ") else f"the {text}"
    for own, others in RELATION_FORMS.items():
        text = re.sub(rf"(?<! to the)(?<! on the) (?:{others}) the ", f" {own} the ", text)
    _, first, *rest = text.split()
    text = " ".join(["the", EXTREME_WORDS.get(first, first), *rest])
    for own, others in EXTREME_FORMS.items():
        if form := re.fullmatch(rf"the (?:{own} )?([a-z ]+?) (?:{others})", text):
            return f"the {own} {form[1]}"
    return text


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
    form = FORM.fullmatch(in_own_words(text))
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
