"""Data that a model is measured on, held against what it was trained with: classes, ignored values, units of depth."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from vpd.data.matching import match_classes
from vpd.data.sample import READING, SampleSet
from vpd.datasets.first_look import look_at_some, tell_of_range, tell_of_turns
from vpd.errors import UsageError
from vpd.tasks.model import PerceptionModel

OPTION_OF = {"ignored": "ignore_index"} | {name: name for name in READING if name != "ignored"}
"""What decides about the values of files -> the option of layouts that sets it."""


def fit_classes(model: PerceptionModel[Any], sample_set: SampleSet) -> SampleSet:
    """The samples with the numbers of the model's classes, matched by name.

    Raises:
        UsageError: If they have no class in common.
    """
    names = tuple(getattr(model.config, "classes", ()))
    theirs = set(getattr(sample_set, "classes", ()))
    of_training = tuple(_training_notes(model).get("classes", ()))  # where the settings worded them better
    is_better = len(of_training) == len(names) and len(theirs & set(of_training)) > len(theirs & set(names))
    return match_classes(sample_set, names, known_as=of_training if is_better else None)


def check_reading(
    model: PerceptionModel[Any], sample_set: SampleSet, layout: str, *, options: Collection[str], given: Collection[str]
) -> None:
    """Make sure that files of the layout which a model was trained on are read as they were then.

    Args:
        model: The model.
        sample_set: The samples.
        layout: Their layout.
        options: Options of the layout.
        given: Those that the user set, who then knows better.

    Raises:
        UsageError: If they are read otherwise; names both ways, and the option.
    """
    notes = _training_notes(model)
    before, now = notes.get("reading"), dict(sample_set.reading())
    if notes.get("format") != layout or not isinstance(before, Mapping):
        return
    for name in ("ignored", "depth_scale", "max_depth_m"):
        option = OPTION_OF[name]
        if option in options and option not in given and before.get(name) != now.get(name):
            raise UsageError(
                f"The model was trained on data read with {name}={_told(before.get(name))}, but these are read with "
                f"{name}={_told(now.get(name))}. Say which is meant for these: -s {option}=..."
            )


def look_before(model: PerceptionModel[Any], sample_set: SampleSet, what: str, *, limit: int | None = None) -> None:
    """Look at a dozen samples before a model is measured on all.

    Raises:
        UsageError: If files are missing, samples cannot be read, or nothing in them counts.
    """
    range_m = getattr(model.config, "max_depth_m", None)
    found = look_at_some(sample_set, what, range_m=range_m, limit=limit, is_to_learn=False)
    tell_of_range(found)
    tell_of_turns(found)


def _training_notes(model: PerceptionModel[Any]) -> Mapping[str, Any]:
    notes = model.config.notes.get("training")
    return notes if isinstance(notes, Mapping) else {}


def _told(value: Any) -> str:
    return "the default" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)
