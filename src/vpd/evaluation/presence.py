"""Fits a referring model to data that it was not trained on: when a text fits nothing, and where masks are cut."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vpd.config import PresenceCalibration
from vpd.data.sample import Sample, SampleSet
from vpd.errors import UsageError
from vpd.files.atomic import read_json, write_json
from vpd.loading import load
from vpd.metrics.presence import fit_platt, roc_auc
from vpd.metrics.thresholds import best_cut, threshold_counts
from vpd.model_folder import CONFIG_FILE
from vpd.tasks.model import PerceptionModel
from vpd.tasks.presence import log_odds, raw_presence
from vpd.weights.shipped import ADAPTED

logger = logging.getLogger(__name__)

PAIRS = 100
"""Pictures, at most: evenly spread over the data."""


def can_calibrate(model: Any) -> bool:
    """Whether it is a model that says whether a text fits."""
    return "presence" in type(model.config).model_fields


def calibrate_presence(
    model: PerceptionModel[Any],
    sample_set: SampleSet,
    *,
    pairs: int = PAIRS,
    watch: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> PresenceCalibration:
    """Fit the presence score of a referring model on data that it was not trained on, and set it in its configuration.

    Each picture is predicted with its own text and with that of another one, taken from halfway through the data. Some
    of these fit by chance, which nobody knows: the score then is lower than it could be, and so is the AUC.

    The masks of the right texts choose the model's threshold too, that of the highest oIoU: what a loss with weighted
    classes calls 0.5 is no even chance. A model of the recipe `reference` keeps the published 0.5.

    Args:
        model: Whose `config.presence` and `config.threshold` are set; `save` keeps them.
        sample_set: Samples with expressions.
        pairs: Pictures, at most.
        watch: Wraps the pictures, for a progress bar.

    Raises:
        UsageError: If the model is for another task, or the data have fewer than two pictures with different texts.
    """
    if not can_calibrate(model):
        raise UsageError(f"Presence is of referring models; this one is for {model.task}.")
    number = min(pairs, len(sample_set))
    samples = [sample_set[place * len(sample_set) // number] for place in range(number)]
    right: list[float] = []
    wrong: list[float] = []
    counts, pixels = torch.zeros((), dtype=torch.int64), 0
    for place in watch(range(number)):
        sample = samples[place]
        other = _foreign_text(samples, place)
        if other is None:
            continue
        for text, scores in ((sample.texts[0], right), (other, wrong)):
            probability = model.predict(sample.image, text=text).probability
            scores.append(log_odds(raw_presence(probability)))
            if scores is right and sample.mask is not None:
                counts = counts + threshold_counts(probability, torch.from_numpy(sample.mask))
                pixels += int((sample.mask != 0).sum())
    if len(right) < 2:
        raise UsageError("Calibration needs two or more pictures with different expressions.")
    slope, offset = fit_platt(right, wrong)
    calibration = PresenceCalibration(
        slope=float(f"{slope:.6g}"),
        offset=float(f"{offset:.6g}"),
        auc=round(roc_auc(right, wrong), 4),
        pairs=len(right),
    )
    threshold = None if model.config.recipe == "reference" else best_cut(counts, pixels=pixels)
    model.config = model.config.model_copy(update={"presence": calibration, "threshold": threshold})
    logger.info("Presence: %s. Masks are cut at %g.", model.config.told()["presence"], threshold or 0.5)
    return calibration


def calibrate_saved(
    folder: Path, sample_set: SampleSet, *, device: Any, task: Any, is_shown: bool, pairs: int = PAIRS
) -> None:
    """Calibrate a model that was just trained, unless it is; data that do not suffice for it leave it as it is."""
    model = load(folder, device=device, dtype="float32", task=task)
    if model.config.presence is not None:
        return
    try:
        calibrate_presence_of(model, folder, sample_set, is_shown=is_shown, pairs=pairs)
    except UsageError as error:
        logger.warning("Presence is not calibrated: %s", error)


def check_own_presence(model: Any, source: str) -> None:
    """Make sure that a model can be calibrated and is a folder of the user's.

    Raises:
        UsageError: If it is not.
    """
    if not can_calibrate(model):
        raise UsageError(f"--calibrate-presence is for refer; {source} is a model for {model.task}.")
    if source in ADAPTED or not Path(source).exists():
        raise UsageError(
            f"--calibrate-presence writes into the model, and {source} is no folder of yours. Save it into one first: "
            f"vpd.load({source!r}).save('model')."
        )


def calibrate_presence_of(
    model: PerceptionModel[Any], folder: Path, sample_set: SampleSet, *, is_shown: bool = True, pairs: int = PAIRS
) -> None:
    """Calibrate a model, and keep that in the folder that it was read from; its weights stay as they are.

    Raises:
        UsageError: As `calibrate_presence`, or if the folder cannot be written.
    """
    watch = partial(tqdm, unit="picture", desc="presence", disable=None if is_shown else True, leave=False)
    calibration = calibrate_presence(model, sample_set, pairs=pairs, watch=watch)
    path = folder / CONFIG_FILE
    kept = {key: value for key, value in read_json(path).items() if key != "threshold"}
    threshold = {} if model.config.threshold is None else {"threshold": model.config.threshold}
    write_json(path, {**kept, "presence": calibration.model_dump(mode="json"), **threshold})


def _foreign_text(samples: list[Sample], place: int) -> str | None:
    """The first text of another picture, from halfway round the list on, that is none of this one's."""
    own = samples[place]
    for step in range(len(samples)):
        other = samples[(place + len(samples) // 2 + step) % len(samples)]
        is_same = other.name == own.name or (own.group is not None and other.group == own.group)
        if own.texts and other.texts and not is_same and other.texts[0] not in own.texts:
            return other.texts[0]
    return None
