"""What a model is asked about a task, and its answer as Label Studio's predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from integrations.label_studio.label_config import Control, Label, LabelConfig
from integrations.label_studio.regions import label_regions
from vpd.config import first_names
from vpd.errors import UsageError
from vpd.serving.schemas import MOST_CLASSES, MOST_LETTERS
from vpd.tasks.conversions import Region
from vpd.tasks.predictions import MaskPrediction, SegmentationPrediction

_MOST_SCORES = 200_000_000
"""Probabilities of a picture, pixels times classes, beyond which none are kept: regions have no score then."""


class Question(NamedTuple):
    """What is asked about a picture, in one go."""

    words: Mapping[str, Any]
    """For the model's `predict`."""
    drawn: tuple[tuple[Control, Label], ...]
    """What the answer may be drawn as."""


def questions(
    model: Any, config: LabelConfig, text: str | None, pixels: int, *, min_presence: float | None
) -> list[Question]:
    """What to ask a model about a picture.

    Classes: the model's own; labels that are none of them are asked for too, where the model takes other classes. An
    expression: that one; without any, the labels are expressions, one after the other.

    Args:
        model: Segments or refers.
        config: Of the project.
        text: The expression, if there is one.
        pixels: Of the picture.
        min_presence: Score below which an expression fits nothing.

    Raises:
        UsageError: If the model knows none of the labels, is for another task, or would be asked for too much.
    """
    drawn = tuple(config.drawn())
    if model.task == "refer":
        words = {} if min_presence is None else {"min_presence": min_presence}
        if text is None:
            _check_asked([label.shown for _, label in drawn])
            return [Question({"text": label.shown, **words}, ((control, label),)) for control, label in drawn]
        named = [pair for pair in drawn if pair[1].shown.casefold() in text.casefold()]
        return [Question({"text": text, **words}, ((named or drawn)[0],))]
    check_task(model)
    own = tuple(model.config.classes)
    known = {name.casefold() for name in own}
    other = tuple(label.shown for _, label in drawn if not known & _spellings(label))
    takes_others = model.config.head == "open" and model.text_encoder is not None and not model.is_optimised
    if len(other) == len(drawn) and not takes_others:
        raise UsageError(
            f"The model knows none of the project's labels ({first_names(other)}); it knows {first_names(own)}. Call "
            "the labels so; an alias= may keep the name that they have in exports."
        )
    if takes_others:
        _check_asked(other)
    classes = own + other if other and takes_others else own
    given = {"classes": list(classes)} if classes != own else {}
    return [Question({**given, "scores": pixels * len(classes) <= _MOST_SCORES}, drawn)]


def check_task(model: Any) -> None:
    """Refuse models whose answers are no regions.

    Raises:
        UsageError: If it is one.
    """
    if model.task not in ("segment", "refer"):
        raise UsageError(
            f"A model for {model.task} answers with numbers for every pixel, which Label Studio cannot hold: give one "
            "that segments or refers. `vpd predict depth` writes its maps."
        )


def _check_asked(labels: Sequence[str]) -> None:
    """Refuse more than the service answers otherwise."""
    longest = max(map(len, labels), default=0)
    if len(labels) > MOST_CLASSES or longest > MOST_LETTERS:
        raise UsageError(
            f"The model would be asked for {len(labels)} labels of up to {longest} letters; {MOST_CLASSES} of "
            f"{MOST_LETTERS} are the most. Leave some to a project of their own."
        )


def prediction_of(asked: Sequence[Question], answers: Sequence[Any], model_version: str) -> dict[str, Any]:
    """One prediction of Label Studio from the answers to the questions about its picture.

    Args:
        asked: The questions.
        answers: For each what `predict` gave.
        model_version: What Label Studio shall call the model.
    """
    regions = [
        found for question, answer in zip(asked, answers, strict=True) for found in _regions_of(question, answer)
    ]
    scored = [(region.score, int(region.mask.sum())) for _, _, region in regions if region.score is not None]
    prediction: dict[str, Any] = {
        "result": [item for control, label, region in regions for item in label_regions(control, label, region)],
        "model_version": model_version,
    }
    if scored:  # of the whole: the mean over the pixels of its regions
        prediction["score"] = round(sum(score * size for score, size in scored) / sum(size for _, size in scored), 4)
    return prediction


def _regions_of(
    question: Question, answer: SegmentationPrediction | MaskPrediction
) -> Iterator[tuple[Control, Label, Region]]:
    if isinstance(answer, MaskPrediction):
        for region in answer.regions():
            yield *question.drawn[0], region
        return
    drawn: dict[str, tuple[Control, Label]] = {}
    for control, label in question.drawn:
        for spelling in _spellings(label):
            drawn.setdefault(spelling, (control, label))
    for region in answer.regions():
        if region.name.casefold() in drawn:
            yield *drawn[region.name.casefold()], region


def _spellings(label: Label) -> set[str]:
    return {label.name.casefold(), label.shown.casefold()}
