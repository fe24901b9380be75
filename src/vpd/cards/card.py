"""Model cards: the README of a model on the hub, made from what its configuration says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vpd.config import TaskConfig, first_names
from vpd.drawing.text import one_line
from vpd.metrics.words import number_of, write_value
from vpd.weights.hub import is_hub_id

CARD = "README.md"
MARK = "<!-- made by vpd: taken out, this card is never replaced -->"
"""In cards of ours. One without it was written by hand, and is kept."""
_KNOWN_LICENCES = {
    "apache-2.0",
    "mit",
    "openrail",
    "creativeml-openrail-m",
    "openrail++",
    "cc-by-4.0",
    "cc0-1.0",
    "unknown",
}
_MOST_NAMES = 200
_TRAINING = {
    "data": "data",
    "split": "part of the data",
    "recipe": "recipe",
    "mode": "what trained",
    "steps": "steps",
    "epochs": "epochs",
    "batch_size": "pictures a step",
    "learning_rate": "learning rate",
    "crop_px": "crop, pixels",
    "optimiser": "optimiser",
    "ema_decay": "average of the weights, decay",
    "loss": "loss",
    "precision": "precision",
    "seed": "seed",
    "vpd": "vpd",
}


@dataclass(frozen=True)
class Origin:
    """The diffusion model that a model was adapted from."""

    name: str
    """Hub id, or the name of a folder or file; empty = not told."""
    licence: str
    """Of its weights, as far as is known."""


def model_card(config: TaskConfig, hub_id: str, origin: Origin, evaluation: Mapping[str, Any] | None = None) -> str:
    """The card of a model, Markdown below a header of YAML.

    Args:
        config: Of the model.
        hub_id: Where it will be.
        origin: What it was adapted from.
        evaluation: As `vpd.evaluation.evaluate.evaluate` returns it, or `vpd eval --out` writes it; none = what the
            training measured, if anything.
    """
    measured = evaluation or config.notes.get("measured") or {}
    parts = [
        "---",
        yaml.safe_dump(_header(config, hub_id, origin, measured), sort_keys=False).rstrip(),
        "---",
        MARK,
        "",
    ]
    return "\n".join([*parts, *_body(config, hub_id, origin, measured)]) + "\n"


def _header(config: TaskConfig, hub_id: str, origin: Origin, measured: Mapping[str, Any]) -> dict[str, Any]:
    licence = config.licence.lower()
    header: dict[str, Any] = {"library_name": "vpd", "pipeline_tag": config.hub_task}
    header["license"] = licence if licence in _KNOWN_LICENCES else "other"
    if header["license"] == "other":
        header["license_name"] = config.licence
    header["tags"] = ["vpd", "diffusion", config.title.replace(" ", "-")]
    if is_hub_id(origin.name):
        header["base_model"] = origin.name.partition("@")[0]
    metrics = [
        {"type": name, "name": name, "value": round(value, 6)}
        for name, value in measured.get("metrics", {}).items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    ]
    if metrics:
        data = _data_name(config, measured)
        task = {"type": header["pipeline_tag"], "name": config.title}
        results = {"task": task, "dataset": {"type": data, "name": data, "split": str(measured.get("split", ""))}}
        header["model-index"] = [{"name": hub_id.rpartition("/")[2], "results": [{**results, "metrics": metrics}]}]
    return header


def _body(config: TaskConfig, hub_id: str, origin: Origin, measured: Mapping[str, Any]) -> Iterator[str]:
    name = hub_id.rpartition("/")[2]
    yield f"# {_plain(name)}"
    yield ""
    origin_words = f"the text-to-image model {_plain(origin.name)}" if origin.name else "a diffusion model"
    yield f"A model for {config.title}, adapted from {origin_words} by [vpd](https://pypi.org/project/vpd-perception/)."
    known = config.in_short()
    yield _plain(f"{known[:1].upper()}{known[1:]}.")
    options = "".join(f" --{word} '{value}'" for word, value in config.example.items())
    arguments = "".join(f', {word}="{value}"' for word, value in config.example.items())
    yield from ("", "## How to use", "", "```bash", "pip install vpd-perception")
    yield f"vpd predict {config.task} photo.jpg --model {hub_id} --out predictions{options}"
    yield from (
        "```",
        "",
        "```python",
        "import vpd",
        "",
        f'model = vpd.load("{hub_id}")  # revision="..." for another one',
    )
    yield from (
        f'prediction = model.predict("photo.jpg"{arguments})',
        'prediction.overlay().save("look.png")',
        "```",
        "",
    )
    yield from ("## Figures", "", *_figures(config, measured), "")
    yield from ("## Training", "", *_table(("", ""), _training(config, origin)), "")
    yield from ("## What it knows", "")
    yield from (f"* {_plain(word)}: {_plain(_cut(sentence))}" for word, sentence in config.told().items())
    yield f"* pictures: {_plain(config.fit.describe())}"
    yield from ("", "## Licence", "")
    yield f"These weights: {_plain(config.licence)}. The model that they were adapted from: {_plain(origin.licence)}."
    if config.licence == "unknown":
        yield "Nobody has said what they may be used for; the licences of their origin and of the data bind too."


def _figures(config: TaskConfig, measured: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, with intervals, and on what."""
    metrics = measured.get("metrics", {})
    if not metrics:
        yield "Nothing was measured. `vpd eval` does, and `push_to_hub(evaluation=...)` puts it here."
        return
    rows = []
    for name, value in metrics.items():
        low, high = (number_of(end) for end in measured.get("intervals", {}).get(name, (math.nan, math.nan)))
        interval = "" if math.isnan(low) else f"{write_value(name, low)} to {write_value(name, high)}"
        rows.append((name, write_value(name, number_of(value)), interval))
    yield from _table(("metric", "value", "95 % interval"), rows)
    groups, samples = measured.get("groups"), measured.get("samples")
    of = f" in {groups} groups that resemble each other" if groups and groups != samples else ""
    split = _plain(str(measured.get("split") or "one part"))
    yield ""
    yield f"On {samples} samples{of} of `{_data_name(config, measured)}`, {split}; intervals by bootstrap."
    if "step" in measured:
        yield f"Measured in training, after step {measured['step']}; these samples chose the step."


def _training(config: TaskConfig, origin: Origin) -> Iterator[tuple[str, str]]:
    notes = config.notes.get("training")
    yield "origin", origin.name or "not told"
    if not isinstance(notes, Mapping):
        others = {key: str(value) for key, value in config.notes.items() if isinstance(value, (str, int, float))}
        yield from others.items() if others else [("record", "none")]
        return
    for key, words in _TRAINING.items():
        if notes.get(key) not in (None, "", {}):
            yield words, str(notes[key])


def _data_name(config: TaskConfig, measured: Mapping[str, Any]) -> str:
    """Of the data that were measured; the last part of a path, as paths are nobody's business."""
    notes = config.notes.get("training")
    given = measured.get("data") or (notes.get("data") if isinstance(notes, Mapping) else None) or "unnamed data"
    return one_line(Path(str(given)).name or "unnamed data").replace("`", "'")


def _table(header: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join(['---'] * len(header))}|"
    for row in rows:
        yield f"| {' | '.join(_plain(cell) for cell in row)} |"


def _cut(sentence: str) -> str:
    """A list of names that does not fill the page."""
    names = sentence.split(", ")
    return first_names(names, _MOST_NAMES) if len(names) > _MOST_NAMES else sentence


def _plain(text: str) -> str:
    """Somebody's words where they cannot be taken for Markdown."""
    return "".join(f"\\{char}" if char in r"\`*_{}[]<>#|!&" else char for char in one_line(text))
