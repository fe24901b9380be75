"""How well a referring model hears each kind of expression, on crowded scenes of the world.

    python experiments/referring_kinds.py [MODEL] [--scenes 160] [--split test] [--out kinds.json]

Of every kind: oIoU, and the share of expressions whose object is marked (IoU above 0.5, and more than with any other
object), with 95 % intervals over scenes; beside them the same for the expressions of other scenes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run by its path, `experiments` is found by this
import vpd
from experiments.marking import is_marked
from vpd.metrics.accumulator import Accumulator
from vpd.metrics.intervals import bootstrap_intervals
from vpd.metrics.referring import mask_areas
from vpd.world.dataset import WorldSamples, choose_expressions
from vpd.world.expressions import RELATIONS, SUPERLATIVES, Expression
from vpd.world.scenes import MATERIALS, OBJECT_COLOURS, SHAPES, SIZES_M

WORDS = {
    "size": tuple(SIZES_M),
    "colour": tuple(OBJECT_COLOURS),
    "material": tuple(MATERIALS),
    "shape": tuple(SHAPES),
}


@dataclass(frozen=True)
class Asked:
    """An expression about a scene."""

    scene: int
    image: NDArray[np.uint8]
    instances: NDArray[np.integer]
    expression: Expression


class KindMetrics(Accumulator):
    """oIoU, and the share of expressions whose object is marked."""

    COUNT = "expressions"

    def __init__(self) -> None:
        self.totals = torch.zeros(4, dtype=torch.float64)

    def row(self, pred: Tensor, target: Tensor) -> Tensor:
        """Of one mask `(H, W)`; `target` is the instances, those of the object 1, of others 2, 3, ..."""
        is_right = is_marked(pred.numpy() != 0, target.numpy(), 0)
        return torch.tensor([*mask_areas(pred, target == 1), is_right, 1], dtype=torch.float64)

    def values(self, totals: Tensor) -> dict[str, Tensor]:
        """`oIoU`, `right` and `expressions`."""
        intersection, union, right, count = totals.unbind(dim=-1)
        return {"oIoU": intersection / union, "right": right / count, "expressions": count}


def asked_of(split: str, scenes: int, *, each: int = 4, size_px: int = 128, seed: int = 0) -> list[Asked]:
    """`each` expressions about every scene, drawn as the world's data set does: a kind, an object, a text."""
    samples = WorldSamples("refer", split, scenes, size_px, seed=seed)  # type: ignore[arg-type]
    asked = []
    for scene in range(scenes):
        rendering, possible, attempt = samples.crowded(scene)
        for number in range(each):
            rng = np.random.default_rng((samples.seed, scene, attempt, 2, number))
            (chosen,) = choose_expressions(possible, rng, 1)
            asked.append(Asked(scene, rendering.image, rendering.instances, chosen))
    return asked


def kinds_of(expression: Expression) -> Iterator[str]:
    """The kind, and what of it: the attributes that single it out, the word of the superlative or relation."""
    yield "all"
    yield expression.kind
    words = expression.text.split()
    if expression.kind == "attribute":
        named = [name for name, known in WORDS.items() if any(word in known for word in words)]
        yield "attribute: " + " and ".join(named)
        yield from (f"attribute: with {name}" for name in named)
    elif expression.kind == "superlative":
        yield f"superlative: {next(word for word in words if word in SUPERLATIVES)}"
    else:
        yield f"relation: {next(relation for relation in RELATIONS if f' {relation} ' in expression.text)}"


def measure(model: Any, asked: Sequence[Asked], texts: Sequence[str]) -> list[Tensor]:
    """A row of `KindMetrics` for each expression, with the text that it is asked by."""
    metrics, rows = KindMetrics(), []
    for one, text in zip(tqdm(asked, disable=None), texts, strict=True):
        mask = model.predict(one.image, text=text).mask
        target = torch.from_numpy(one.instances.astype(np.int64))
        own = one.expression.index + 1
        rows.append(metrics.row(mask, torch.where(target == own, 1, torch.where(target == 0, 0, target + 1))))
    return rows


def summary(asked: Sequence[Asked], rows: Sequence[Tensor]) -> dict[str, dict[str, Any]]:
    """Kind -> metrics with intervals."""
    members: dict[str, list[int]] = {}
    for place, one in enumerate(asked):
        for kind in kinds_of(one.expression):
            members.setdefault(kind, []).append(place)
    found = {}
    for kind, places in sorted(members.items()):
        own = torch.stack([rows[place] for place in places])
        values = {name: float(value) for name, value in KindMetrics().values(own.sum(dim=0)).items()}
        intervals = bootstrap_intervals(KindMetrics(), own, [asked[place].scene for place in places])
        found[kind] = {**values, "intervals": intervals}
    return found


def table(found: dict[str, dict[str, Any]], exchanged: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| kind | expressions | oIoU | right object | another scene's text |", "|---|---|---|---|---|"]
    for kind, values in found.items():
        cells = [f"{100 * values[name]:.1f}{_span(values['intervals'].get(name))}" for name in ("oIoU", "right")]
        other = exchanged[kind]
        lines.append(
            f"| {kind} | {values['expressions']:.0f} | {cells[0]} | {cells[1]} % "
            f"| {100 * other['oIoU']:.1f}; {100 * other['right']:.1f} % |"
        )
    return "\n".join(lines)


def _span(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="world-refer")
    parser.add_argument("--scenes", type=int, default=160)
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model, asked = vpd.load(given.model), asked_of(given.split, given.scenes)
    texts = [one.expression.text for one in asked]
    found = summary(asked, measure(model, asked, texts))
    half = len(asked) // 2
    exchanged = summary(asked, measure(model, asked, texts[half:] + texts[:half]))
    print(table(found, exchanged))
    if given.out:
        given.out.write_text(json.dumps({"right": found, "exchanged": exchanged}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
