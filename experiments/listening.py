"""Does a referring model hear where? Fresh scenes with `the green cone on the left` and its like, right and exchanged.

python experiments/listening.py out --model world-refer

Left, right, nearest and farthest come in equal parts, in the world's own words and in others, which training has too.
An object is marked right where the mask's IoU with it is above 0.5 and above that with any other object. Beside it
stands how often the same object is still marked when the word is exchanged (left for right, nearest for farthest): a
model that does not hear the word marks it as often.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run by its path, `experiments` is found by this
import vpd
from experiments.marking import is_marked
from vpd.drawing.overlays import contact_sheet, tint_mask
from vpd.drawing.text import beside
from vpd.files.atomic import atomic_write, writable_folder, write_json
from vpd.tasks.model import PerceptionModel
from vpd.world.dataset import split_seed
from vpd.world.expressions import Expression, expressions
from vpd.world.render import Rendering, render
from vpd.world.sample_scene import CROWDED_STYLE, sample_scene
from vpd.world.wordings import EXTREMES

SCENES, SIZE_PX, SEED = 50, 128, 2026
"""Fresh scenes, their side, and the seed that chose them before anything was measured."""
OPPOSITES = {"leftmost": "rightmost", "rightmost": "leftmost", "nearest": "farthest", "farthest": "nearest"}
"""Word of the world -> the one that is exchanged for it; every fourth scene has the same."""
NAMES = {"leftmost": "left", "rightmost": "right", "nearest": "nearest", "farthest": "farthest"}
_DRAWN = 10
_Z = 1.959964


@dataclass(frozen=True)
class Question:
    """A scene, words that mean one of its objects, and the same with the word of place exchanged."""

    rendering: Rendering
    word: str
    """Which of `OPPOSITES`."""
    text: str
    exchanged: str
    index: int
    """Place of the object that `text` means, in the scene."""


@dataclass(frozen=True)
class Heard:
    """What a model made of a question."""

    mask: NDArray[np.bool_]
    is_right: bool
    """Whether it marks the object that is meant."""
    exchanged_mask: NDArray[np.bool_]
    is_same: bool
    """Whether it marks that object although the word was exchanged."""


def questions(count: int = SCENES, *, size_px: int = SIZE_PX, seed: int = SEED) -> list[Question]:
    """One question about each of some fresh scenes of the test split; the four words take turns."""
    made = []
    for number in range(count):
        word = list(OPPOSITES)[number % len(OPPOSITES)]
        rng = np.random.default_rng((seed, number))
        rendering, expression = _scene_with(word, split_seed(seed, "test"), number, size_px, rng)
        place = int(rng.integers(1 + len(EXTREMES[word])))
        phrase = expression.text.removeprefix(f"the {word} ")
        text, exchanged = (_wordings(each)[place].format(phrase) for each in (word, OPPOSITES[word]))
        made.append(Question(rendering, word, text, exchanged, expression.index))
    return made


def ask(model: PerceptionModel, asked: Sequence[Question]) -> list[Heard]:
    """Have a referring model answer questions and their exchanged forms."""
    images = [Image.fromarray(question.rendering.image) for question in asked]
    right, exchanged = (
        [prediction.mask.numpy() for prediction in model.predict(images, text=texts, batch_size=10)]
        for texts in ([question.text for question in asked], [question.exchanged for question in asked])
    )
    return [
        Heard(one, marks(one, question), other, marks(other, question))
        for question, one, other in zip(asked, right, exchanged, strict=True)
    ]


def marks(mask: NDArray[np.bool_], question: Question) -> bool:
    """Whether a mask is of the object that is meant, and more so than of any other."""
    return is_marked(mask, question.rendering.instances, question.index)


def counts(asked: Sequence[Question], heard: Sequence[Heard]) -> dict[str, dict[str, float]]:
    """By word and in all: `asked`, marked `right`, the ends of its 95 % interval (Wilson), and `exchanged`."""
    found = {}
    for name in (*NAMES.values(), "all"):
        of_it = [one for question, one in zip(asked, heard, strict=True) if name in ("all", NAMES[question.word])]
        right = sum(one.is_right for one in of_it)
        low, high = wilson(right, len(of_it))
        same = sum(one.is_same for one in of_it)
        found[name] = {"asked": len(of_it), "right": right, "low": low, "high": high, "exchanged": same}
    return found


def wilson(found: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, as fractions of 1.

    Source: Wilson 1927 (https://doi.org/10.1080/01621459.1927.10502953).
    """
    if not count:
        return 0.0, 1.0
    share, spread = found / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def draw(asked: Sequence[Question], heard: Sequence[Heard], *, count: int = _DRAWN) -> Image.Image:
    """Input, truth, the answer and the answer to the exchanged words of the first questions, in two columns."""
    rows, words = [], []
    for question, one in list(zip(asked, heard, strict=True))[:count]:
        image = Image.fromarray(question.rendering.image)
        truth = question.rendering.instances == question.index + 1
        rows.append([image, *(tint_mask(image, mask) for mask in (truth, one.mask, one.exchanged_mask))])
        words.append(f"“{question.text}”: {'right' if one.is_right else 'wrong'} · last: “{question.exchanged}”")
    titles, middle = ("input", "truth", "answer", "word exchanged"), math.ceil(len(rows) / 2)
    halves = [slice(0, middle), slice(middle, None)] if len(rows) > 1 else [slice(None)]
    return beside([contact_sheet(rows[half], titles, words=words[half], cell_px=SIZE_PX) for half in halves])


def _scene_with(
    word: str, seed: int, index: int, size_px: int, rng: np.random.Generator
) -> tuple[Rendering, Expression]:
    """The first attempt at a crowded scene in which a word clearly means one object of several."""
    attempt = 0
    while True:
        rendering = render(sample_scene(seed, index, CROWDED_STYLE, attempt=attempt), size_px)
        fitting = [one for one in expressions(rendering) if one.text.startswith(f"the {word} ")]
        if fitting:
            return rendering, fitting[int(rng.integers(len(fitting)))]
        attempt += 1


def _wordings(word: str) -> tuple[str, ...]:
    return (f"the {word} {{}}", *EXTREMES[word])


def main(arguments: Sequence[str]) -> None:
    """Ask a model, print the counts, write them and a sheet."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("out", help="folder for `listening.json` and `listening.png`")
    parser.add_argument("--model", default="world-refer", help="a referring model")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args(arguments)
    folder, asked = writable_folder(options.out), questions(options.scenes, seed=options.seed)
    heard = ask(vpd.load(options.model), asked)
    found = counts(asked, heard)
    for name, row in found.items():
        interval = f"[{100 * row['low']:.0f} to {100 * row['high']:.0f} %]"
        print(f"{name:<9} {row['right']:>2} of {row['asked']} {interval}; with the word exchanged {row['exchanged']}")
    about = {"model": options.model, "scenes": options.scenes, "seed": options.seed, "size_px": SIZE_PX}
    answers = [
        {"text": question.text, "right": one.is_right, "exchanged": question.exchanged, "still_marked": one.is_same}
        for question, one in zip(asked, heard, strict=True)
    ]
    write_json(folder / "listening.json", {**about, "counts": found, "answers": answers})
    with atomic_write(folder / "listening.png") as temporary:
        draw(asked, heard).quantize(128, dither=Image.Dither.NONE).save(temporary, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
