"""Settings from YAML files, `key=value` words and the shipped recipes, checked as one."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from vpd.config import Recipe
from vpd.datasets.layouts import LAYOUTS, option_names
from vpd.datasets.world import is_world
from vpd.errors import UsageError, WrongField, wrong_fields
from vpd.files.atomic import atomic_write
from vpd.overrides import Settings, merge_settings, nearest
from vpd.tasks.recipes import BACKBONE_OPTIONS
from vpd.tasks.table import TASKS, TaskKind, find_task
from vpd.training.config import TrainConfig
from vpd.weights.shipped import WORLD

logger = logging.getLogger(__name__)

_OF_WORLD = ("crop_px", "steps", "batch_size", "validate_every", "validate_limit")
"""What training on rendered scenes takes from the shipped recipe where nobody says otherwise."""
_RATES_OF_WORLD: Settings = {"learning_rate": 1e-3, "unet_lr_scale": 1.0}
"""For the shipped model: the best where all of it trains, of those tried at 64 px, docs/claims/2026-11-64px."""
_HEAD_OF_WORLD = {"head_channels", "feature_channels"}
"""What of the shipped recipe's head suits the shipped model on any data: as small as it."""
_PUBLISHED_HEAD_OF_WORLD: Settings = {"head_channels": 64}
"""The same where the recipe has another head than the published one, which stays the default on other data."""
_SHIPPED = Path(__file__).parents[1] / "recipes"


def recipe_settings(task: TaskKind, recipe: Recipe) -> Settings:
    """Published (`reference`) or recommended (`default`) settings of a task, without model and data.

    Raises:
        UsageError: If the task has no such recipe.
    """
    if recipe not in task.recipes:
        raise UsageError(f"{task.task} has no recipe={recipe}. Choose one of: {', '.join(task.recipes)}.")
    return {"task": task.task, "recipe": recipe, **task.recipes[recipe]}


def read_settings(source: str | Path) -> Settings:
    """Settings of a YAML file, or of one that is shipped.

    Args:
        source: Path of the file, or the name of a shipped one.

    Raises:
        UsageError: If it is not there, is not YAML, or holds no mapping.
    """
    shipped = {entry.stem: entry for entry in sorted(_SHIPPED.glob("*.yaml"))}
    path = shipped.get(str(source), Path(source))
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        near = difflib.get_close_matches(str(source), shipped, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(
            f"Cannot read the settings {path}: {error.strerror}.{hint} Give a YAML file, or one of the shipped: "
            f"{', '.join(shipped)}."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise UsageError(f"{path} is not a YAML file: {problem}.") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path} must hold `key: value` lines, got {type(settings).__name__}.")
    return settings


def resolve_config(task: str | TaskKind, *layers: Mapping[str, Any]) -> TrainConfig:
    """Check settings and fill in what they leave out from the recipe of the task.

    Args:
        task: What was asked for: the word of one of this package's tasks, or a task.
        layers: Settings, later ones over earlier ones; one of them may name the recipe.

    Raises:
        UsageError: If a key is unknown, missing or wrong: all of them are listed, each with its path.
    """
    given: Settings = reduce(merge_settings, layers, {})
    kind = find_task(task)
    if given.get("task", kind.task) != kind.task:
        raise UsageError(f"The settings are for {given['task']}, but {kind.task} was asked for.")
    recipe: Recipe = "reference" if given.get("recipe") == "reference" else "default"
    base = recipe_settings(kind, recipe)
    ours = {} if "recipe" in given else _for_world(kind.task, given)
    merged = merge_settings(merge_settings(base, ours), given)
    if ours:
        told = ", ".join(f"{key}={merged[key]}" for key in ours if key in merged and key not in given)
        if "crop_px" in ours:
            logger.info("For rendered scenes: %s. Those for photographs: -s recipe=default.", told)
        elif told:
            logger.info("For model %s: %s. Those for Stable Diffusion: -s recipe=default.", WORLD, told)
    try:
        config = TrainConfig.model_validate(merged)
    except ValidationError as error:
        problems = "; ".join(_explain(field, kind) for field in wrong_fields(error))
        raise UsageError(f"Wrong settings: {problems}{'' if problems.endswith('?') else '.'}") from error
    if "loss" not in inspect.signature(kind.loss_sum).parameters and (
        other := config.loss.model_dump(exclude_defaults=True)
    ):
        raise UsageError(f"Wrong settings: {', '.join(f'loss.{key}' for key in other)} is not for {kind.task}.")
    return config


def write_config(config: TrainConfig, path: Path) -> None:
    """Write a configuration as YAML that `resolve_config` reads back to the same."""
    with atomic_write(path) as temporary:
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")


def _for_world(task: str, given: Mapping[str, Any]) -> Settings:
    """What suits rendered scenes, if they are the data, and the shipped model: no recipe for others is of use there."""
    data, ours = given.get("data"), Settings()
    is_data = isinstance(data, Mapping) and _is_named_world(data.get("root"))
    is_model = _is_named_world(given.get("model"))
    shipped = read_settings(f"{WORLD}-{task}") if task in TASKS and (is_data or is_model) else {}
    if is_data:
        ours |= {key: shipped[key] for key in _OF_WORLD}
    if is_model:
        options = shipped["model_options"]
        small = {key: value for key, value in options.items() if key in _HEAD_OF_WORLD}
        small |= _PUBLISHED_HEAD_OF_WORLD if "head" in options else {}
        ours |= _RATES_OF_WORLD | {"model_options": options if is_data else small}
    return ours


def _is_named_world(name: object) -> bool:
    return isinstance(name, str) and is_world(Path(name))


def _explain(field: WrongField, task: TaskKind) -> str:
    """What is wrong with one setting, and what to do about it."""
    location, path = field.place, field.path
    if field.kind == "extra_forbidden":
        name, prefix = str(location[-1]), "".join(f"{part}." for part in location[:-1])
        if path == "device":
            return f"unknown setting {path} (the best device is taken; CUDA_VISIBLE_DEVICES= hides GPUs)"
        places = {key: f"{prefix}{key}" for key in _known_keys(location[:-1])}
        if len(location) == 1:
            of_layouts = {option for layout in LAYOUTS.values() for option in option_names(layout)}
            places = _nested_places(task) | {key: f"data.options.{key}" for key in of_layouts} | places
        near = nearest(name, places)
        return f"unknown setting {path}{f'; did you mean {near}?' if near else ' (docs/settings.md has all)'}"
    if field.kind == "missing":
        option = {"model": " (--model MODEL)", "data": " (--data DIR)"}.get(path, "")
        return f"{path} is missing{option}"
    if path in ("data", "schedule", "lora"):
        keys = ", ".join(f"{path}.{key}" for key in _known_keys((path,)))
        return f"{path} is a group of settings, got {field.given!r}; set its keys: {keys}"
    return f"{field}, got {field.given!r}" if path else field.message


def _nested_places(task: TaskKind) -> dict[str, str]:
    """Settings that stand in groups, by the last part of their names -> the whole."""
    groups = {group: _known_keys((group,)) for group in ("data", "schedule", "lora")}
    groups |= {"model_options": [*task.config_type.model_fields], "model_options.backbone_options": [*BACKBONE_OPTIONS]}
    return {key: f"{group}.{key}" for group, keys in reversed(groups.items()) for key in keys}


def _known_keys(path: Sequence[str | int]) -> list[str]:
    """Names of the fields of the model that stands at a path of the configuration."""
    model: type[BaseModel] = TrainConfig
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        kinds = get_args(annotation) or (annotation,)  # one of them may be None
        model = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    return list(model.model_fields)
