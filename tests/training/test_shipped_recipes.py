"""The recipes that come with the package: complete, equal to what is published, and named in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import vpd
from vpd.tasks.table import TASKS
from vpd.training.config import TrainConfig
from vpd.training.run import MAY_CHANGE
from vpd.training.schedules import recipe_schedule, schedule_of
from vpd.training.settings import read_settings, resolve_config

FOLDER = Path(vpd.__file__).parent / "recipes"
BENCHMARKS = sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("own-"))
SAMPLES = {"ade20k": 20_210, "refcoco": 42_404, "nyu": 24_231, "kitti": 23_158}
OF_TASK = {"classes": "segment", "loss": "segment", "scenes": "depth", "max_depth_m": "depth"}
NOT_NEEDED = {"diffusion", "lora", "momentum"}
"""Matter only to other modes, or when going on from an adapted model."""


def resolved(name: str) -> TrainConfig:
    settings = read_settings(name)
    return resolve_config(settings["task"], settings, {"data": {"root": "data"}})


def test_the_issued_recipes_are_there() -> None:
    wanted = {"ade20k-reference", "ade20k-default", "ade20k-4k", "ade20k-8k", "kitti-default"}
    wanted |= {"nyu-reference", "nyu-default", "nyu-1epoch"}
    for name in ("refcoco", "refcoco-plus", "refcocog"):
        wanted |= {f"{name}-reference", f"{name}-default"}
    wanted |= {"world-segment", "world-refer", "world-depth"}
    assert set(BENCHMARKS) == wanted


@pytest.mark.parametrize("name", BENCHMARKS)
def test_nothing_that_decides_the_outcome_is_inherited(name: str) -> None:
    """Every setting that decides the weights stands on the page itself."""
    page = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    config = resolved(name)
    deciding = set(TrainConfig.model_fields) - {key.split(".")[0] for key in MAY_CHANGE} - NOT_NEEDED
    deciding -= {key for key, task in OF_TASK.items() if task != config.task}
    deciding -= {"steps" if config.steps is None else "epochs"}
    assert deciding - set(page) == set()
    assert len((FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name.endswith("-reference")])
def test_reference_recipes_hold_the_published_values(name: str) -> None:
    config = resolved(name)
    task = TASKS[config.task]
    published = task.recipes["reference"]
    for key in ("learning_rate", "weight_decay", "unet_lr_scale", "batch_size"):
        assert getattr(config, key) == published[key], key
    samples = next(number for prefix, number in SAMPLES.items() if name.startswith(prefix))
    ours = schedule_of(config, task, samples=samples)
    steps = config.steps or int(config.epochs * samples / config.batch_size)
    peak = published["learning_rate"]
    theirs = recipe_schedule(
        "reference", task.published_schedule, peak=peak, steps=steps, steps_per_epoch=samples // 24
    )
    for step in (0, 1, 700, 1500, 9000, steps // 2, steps - 2):
        assert ours(step) == pytest.approx(theirs(step), rel=1e-6, abs=1e-12), step


@pytest.mark.parametrize("name", BENCHMARKS)
def test_named_where_people_look(name: str) -> None:
    docs = Path(__file__).parents[2] / "docs" / "reproduce.md"
    assert name in docs.read_text(encoding="utf-8")
    head = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"--config {name} " in head
