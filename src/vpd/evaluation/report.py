"""What an evaluation found, in words and columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from vpd.config import Resize
from vpd.drawing.text import one_line
from vpd.evaluation.groups import FEW
from vpd.metrics.words import write_value


def screen_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Metrics with their intervals and a line for each class, in columns for a terminal; `report` as above."""
    yield f"{report['data']} ({report['format']}, {report['split']}): {count_words(report)}, {report['model']}"
    yield f"Images: {fit_words(report)}."
    for note, count in report.get("notes", {}).items():
        yield f"To stay within the memory, {count} of them were run {note}: no published protocol."
    classes = [(one_line(name), values) for name, values in class_rows(report)]  # nothing for the terminal to obey
    width = max(len(name) for name in (*report["metrics"], *(name for name, _ in classes))) + 2
    for heading, rows in metric_rows(report):
        yield f"\n{heading}\n{'':<{width}}{'value':>11}   95 % interval"
        for name, value, interval in rows:
            yield f"{name:<{width}}{value:>11}   {interval}".rstrip()
    yield interval_words(report)
    if classes:
        yield f"\n{'class':<{width}}" + "".join(f"{column:>11}" for column in classes[0][1])
    for name, values in classes:
        yield f"{name:<{width}}" + "".join(f"{value:>11}" for value in values.values())


def metric_rows(report: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """What was measured, and name, value and 95 % interval of its metrics, shares in per cent."""
    endings = report["protocol"]
    of_ending: dict[str, list[tuple[str, str, str]]] = {ending: [] for ending in endings}
    for name, value in report["metrics"].items():
        interval = report["intervals"].get(name, ())
        row = (name, write_value(name, value), " to ".join(write_value(name, end) for end in interval))
        of_ending[max(filter(name.endswith, endings), key=len)].append(row)
    for ending, words in endings.items():
        yield words[:1].upper() + words[1:], of_ending[ending]


def class_rows(report: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """Name and values of each class, best IoU first; classes that are nowhere come last."""
    per_class = report["per_class"].items()
    ordered = sorted(per_class, key=lambda item: (math.isnan(item[1]["IoU"]), -item[1]["IoU"]))
    return [(name, {key: write_value(key, value) for key, value in values.items()}) for name, values in ordered]


def interval_words(report: Mapping[str, Any]) -> str:
    """What the intervals are made of, or why there is none."""
    groups, samples, made_by = report["groups"], report["samples"], report.get("grouped_by", "data")
    are_frames = made_by == "recording"
    if samples < 2:
        return "No intervals: there is one sample, so nothing says how others would differ."
    hint = " Recordings are told by the names up to their last number; --group-by makes other groups." * are_frames
    if groups < 2:
        what = f"{samples} samples are frames of one recording" if are_frames else "samples belong to one group"
        like = "" if are_frames or made_by != "data" else " (one room, say)"
        return f"No intervals: all {what}{like}, so nothing says how others would differ.{hint}"
    weak = f" With only {groups} of these to draw from they are weak: take them for a lower bound." * (groups < FEW)
    if groups == samples:
        return f"Intervals: 95 %, bootstrap over {samples} samples.{weak}"
    if are_frames:
        return f"{samples} frames of {groups} recordings. Intervals: 95 %, bootstrap over recordings.{weak}{hint}"
    by = f" (by {made_by})" if made_by not in ("", "data") else ""
    return f"Intervals: 95 %, bootstrap over {groups} groups of {samples} samples{by}.{weak}"


def count_words(report: Mapping[str, Any]) -> str:
    """How many samples were measured, of how many."""
    samples, available = report["samples"], report["available"]
    return f"{samples} samples" if samples == available else f"The first {samples} of {available} samples"


def fit_words(report: Mapping[str, Any]) -> str:
    """How images were fitted."""
    return Resize.model_validate(report["fit"]).describe()
