"""The data of a run before its first step: looked at, and validation classes matched with those that are learnt."""

from __future__ import annotations

from pathlib import Path

from vpd.data.matching import match_classes
from vpd.data.sample import SampleSet
from vpd.datasets.first_look import look_at_some, tell_of_range, tell_of_turns
from vpd.errors import UsageError
from vpd.loading import find_model, is_adapted
from vpd.model_folder import CHECKPOINTS, read_config
from vpd.tasks.classes import class_names
from vpd.tasks.table import TaskKind
from vpd.training.config import TrainConfig

Data = tuple[SampleSet, SampleSet | None]
"""What to train on, and what to validate on, if anything."""


def fit_data(config: TrainConfig, task: TaskKind, data: Data, folder: Path) -> Data:
    """Look at a few samples of both sets, and give the labels of both the numbers that the model will have.

    Args:
        config: The settings.
        task: What is trained.
        data: The sample sets.
        folder: Of the run, whose checkpoint tells the model's range where there is one.

    Raises:
        UsageError: If files are missing, samples cannot be read or cannot teach, or the classes of the two sets have
            nothing in common.
    """
    train_set, validation_set = data
    model_config = _model_config(config, task, folder)
    range_m = getattr(model_config, "max_depth_m", config.max_depth_m) if task.truth == "depth_m" else None
    looks = [look_at_some(train_set, max_share=config.max_bad_share, range_m=range_m)]
    is_published = config.recipe == "reference"
    tell_of_range(looks[0], counts_beyond=getattr(model_config, "counts_beyond", is_published))
    own = tuple(getattr(train_set, "classes", ())) if task.truth == "labels" else ()
    names = class_names(config.classes, train_set) if own else config.classes or ()
    if not own:
        train_set = match_classes(train_set, names)
    if validation_set is not None:
        validation_set = match_classes(validation_set, names, of="the training set", known_as=own or None)
        limit = config.validate_limit
        look = look_at_some(validation_set, "validation", range_m=range_m, limit=limit, is_to_learn=False)
        looks.append(look)
    tell_of_turns(*looks)
    return train_set, validation_set


def _model_config(config: TrainConfig, task: TaskKind, folder: Path) -> object:
    """The configuration of the model that a run goes on with; none of a new one."""
    source = max((folder / CHECKPOINTS).glob("step-*"), default=config.model)
    try:
        return read_config(find_model(source), {task.task: task.config_type})[0] if is_adapted(source) else None
    except UsageError:  # reading the model says what is wrong with it
        return None
