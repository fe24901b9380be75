"""Words for what is in a rendered scene, and lists of them, for a model whose classes are given in words.

Every pixel of a scene is of one `FINE` class: a part of the room, or a colour, material and shape. A prompt, such as
`red things` or `metal cubes`, fits some of these, so labels of fine classes hold the truth of every list of prompts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))
from vpd.data.sample import Sample, SampleSet
from vpd.world.dataset import Split, split_seed
from vpd.world.render import Rendering, render
from vpd.world.sample_scene import CROWDED_STYLE, DEFAULT_STYLE, sample_scene
from vpd.world.scenes import MATERIALS, OBJECT_COLOURS, SHAPES, Thing

ROOM = ("floor", "wall", "ceiling")
Words = Mapping[str, str]
"""Attribute -> value of a thing; empty = any thing."""
FINE: tuple[Words, ...] = (
    *({"room": part} for part in ROOM),
    *(
        {"colour": colour, "material": material, "shape": shape}
        for colour, material, shape in product(OBJECT_COLOURS, MATERIALS, SHAPES)
    ),
)
"""What a pixel can be, in the order of the labels."""
FINE_NAMES = tuple(" ".join(fine.values()) for fine in FINE)
NEVER_TOGETHER = (("purple", "cone"), ("cyan", "cube"), ("orange", "cylinder"), ("pink", "sphere"))
"""Colours and shapes that no prompt of the training names together; the scenes have such things like any others."""
SEPARATOR = "; "
MOST_PROMPTS = 10
"""In a list."""
KINDS: dict[tuple[str, ...], float] = {
    ("colour",): 0.28,
    ("shape",): 0.28,
    ("colour", "shape"): 0.22,
    ("material",): 0.07,
    ("material", "shape"): 0.05,
    ("colour", "material"): 0.05,
    (): 0.05,
}
"""Attributes that a prompt names, and how often."""
_ADJECTIVE = ("{} things", "{} objects", "things that are {}", "a {} object", "{} thing", "the {} things", "{}")
_NOUN = ("{}s", "{}", "a {}", "the {}s", "all {}s")
_ROOM = {"floor": ("floor", "the floor"), "wall": ("wall", "walls", "the walls"), "ceiling": ("ceiling", "the ceiling")}
_ANY = ("things", "objects", "all things", "other things")


def wordings(words: Words) -> tuple[str, ...]:
    """Ways to say it, the plainest first."""
    if "room" in words:
        return _ROOM[words["room"]]
    adjectives = " ".join(words[name] for name in ("colour", "material") if name in words)
    if "shape" not in words:
        return tuple(wording.format(adjectives) for wording in _ADJECTIVE) if adjectives else _ANY
    nouns = tuple(wording.format(f"{adjectives} {words['shape']}".strip()) for wording in _NOUN)
    return (*nouns, f"{words['shape']}s that are {adjectives}") if adjectives else nouns


def fits(words: Words) -> NDArray[np.bool_]:
    """Which fine classes are so, `(len(FINE),)`."""
    if "room" in words:
        return np.array([fine.get("room") == words["room"] for fine in FINE])
    return np.array(["room" not in fine and words.items() <= fine.items() for fine in FINE])


def is_held_out(words: Words) -> bool:
    """Whether no training prompt says this."""
    return (words.get("colour"), words.get("shape")) in NEVER_TOGETHER


def descriptions() -> Iterator[Words]:
    """Everything that a prompt can say."""
    yield from ({"room": part} for part in ROOM)
    values = {"colour": tuple(OBJECT_COLOURS), "material": MATERIALS, "shape": SHAPES}
    for kind in KINDS:
        for said in product(*(values[name] for name in kind)):
            yield dict(zip(kind, said, strict=True))


def truth_of_prompts() -> dict[str, NDArray[np.bool_]]:
    """Every prompt that training may draw -> the fine classes it fits."""
    return {text: fits(words) for words in descriptions() if not is_held_out(words) for text in wordings(words)}


def words_of(thing: Thing, kind: Sequence[str]) -> dict[str, str]:
    """The attributes of a thing that a kind of prompt names."""
    return {name: getattr(thing, name) for name in kind}


def draw_list(things: Sequence[Thing], rng: np.random.Generator) -> list[str]:
    """`MOST_PROMPTS` prompts in any order: of what is there, of what is nearly there, of the room, and of anything.

    A third of the lists is as people write them: all colours, shapes or materials, with the room. No two mean the same;
    that they overlap is no harm, as each is asked for by itself.
    """
    drawn: list[Words] = []
    how = rng.random()
    if how < 0.33:
        name = "colour" if how < 0.14 else "shape" if how < 0.28 else "material"
        values = {"colour": tuple(OBJECT_COLOURS), "material": MATERIALS, "shape": SHAPES}[name]
        drawn = [*({"room": part} for part in ROOM), *({name: value} for value in values)]
    while len(drawn) < MOST_PROMPTS:
        words = _draw_words(things, rng)
        if words not in drawn and not is_held_out(words):
            drawn.append(words)
    said = [wordings(words) for words in drawn]
    texts = [ways[int(rng.integers(len(ways)))] if rng.random() < 0.6 else ways[0] for ways in said]
    return [texts[int(place)] for place in rng.permutation(len(texts))[:MOST_PROMPTS]]


def _draw_words(things: Sequence[Thing], rng: np.random.Generator) -> Words:
    if rng.random() < 0.15:
        return {"room": ROOM[int(rng.integers(len(ROOM)))]}
    kinds, shares = list(KINDS), list(KINDS.values())
    kind = kinds[int(rng.choice(len(kinds), p=np.array(shares) / sum(shares)))]
    words = words_of(things[int(rng.integers(len(things)))], kind)
    if kind and rng.random() < 0.4:  # nearly the same, or anything
        values = {"colour": tuple(OBJECT_COLOURS), "material": MATERIALS, "shape": SHAPES}
        for name in kind if rng.random() < 0.3 else (kind[int(rng.integers(len(kind)))],):
            words[name] = values[name][int(rng.integers(len(values[name])))]
    return words


def fine_labels(rendering: Rendering) -> NDArray[np.uint8]:
    """`(H, W)` fine class of every pixel."""
    place = {tuple(sorted(fine.items())): number for number, fine in enumerate(FINE)}
    labels = rendering.labels.copy()  # floor, wall and ceiling have the same numbers
    for index, thing in enumerate(rendering.scene.things):
        fine = {name: getattr(thing, name) for name in ("colour", "material", "shape")}
        labels[rendering.instances == index + 1] = place[tuple(sorted(fine.items()))]
    return labels


class WordedScenes(SampleSet):
    """Rendered scenes with fine labels, each with one list of prompts for a text; every third scene is crowded."""

    def __init__(self, split: Split, count: int, size_px: int = 128, *, seed: int = 0) -> None:
        self.split, self.size_px, self.seed = split, size_px, split_seed(seed, split)
        self.classes: tuple[str, ...] = FINE_NAMES
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        rendering = self.rendering(index)
        rng = np.random.default_rng((self.seed, index, 0, 3))  # not the scene's own stream
        text = SEPARATOR.join(draw_list(rendering.scene.things, rng))
        name = f"words-{self.split}-{index:06d}"
        return Sample(name, rendering.image, labels=fine_labels(rendering), texts=(text,))

    def rendering(self, index: int) -> Rendering:
        """The scene of a sample."""
        style = CROWDED_STYLE if index % 3 == 2 else DEFAULT_STYLE
        return render(sample_scene(self.seed, index, style), self.size_px)
