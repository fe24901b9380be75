from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from settings_page import PAGE, page

from vpd.config import Recipe, Task
from vpd.errors import UsageError
from vpd.overrides import merge_settings, parse_overrides
from vpd.tasks.table import TASKS
from vpd.training.config import DataSettings, ScheduleSettings, TrainConfig
from vpd.training.settings import read_settings, recipe_settings, resolve_config, write_config

GIVEN = {"model": "sd", "data": {"root": "data"}}


def refused(*layers: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as error:
        resolve_config("segment", GIVEN, *layers)
    return str(error.value)


def test_what_is_not_given_is_the_recipes():
    config = resolve_config("segment", GIVEN, {"recipe": "reference"})
    assert (config.steps, config.epochs, config.batch_size, config.crop_px) == (80_000, None, 16, 512)
    assert (config.learning_rate, config.unet_lr_scale, config.weight_decay) == (8e-5, 0.1, 1e-3)
    config = resolve_config("depth", GIVEN, {"recipe": "reference"})
    assert (config.steps, config.epochs, config.batch_size, config.crop_px) == (None, 25, 24, 480)
    assert (config.learning_rate, config.unet_lr_scale, config.weight_decay) == (5e-4, 0.01, 0.1)
    config = resolve_config("refer", GIVEN, {"recipe": "reference"})
    assert (config.epochs, config.batch_size, config.learning_rate, config.unet_lr_scale) == (40, 32, 5e-5, 1.0)
    assert config.clip_norm is None


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("cheap", "cheap")])
def test_what_of_a_block_is_made_again(text: str, value: Any, tmp_path: Path):
    config = resolve_config("segment", GIVEN, parse_overrides([f"gradient_checkpointing={text}"]))
    assert config.gradient_checkpointing is value or config.gradient_checkpointing == value == "cheap"
    write_config(config, tmp_path / "config.yaml")
    assert resolve_config("segment", read_settings(tmp_path / "config.yaml")) == config
    assert "gradient_checkpointing" in refused({"gradient_checkpointing": "dear"})


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("recipe", get_args(Recipe))
def test_resolved_settings_read_back_the_same(task: Task, recipe: Recipe, tmp_path: Path):
    config = resolve_config(task, GIVEN, {"recipe": recipe, "classes": ["a", "b"], "schedule": {"kind": "rise_fall"}})
    write_config(config, tmp_path / "config.yaml")
    assert resolve_config(task, read_settings(tmp_path / "config.yaml")) == config
    assert set(yaml.safe_load((tmp_path / "config.yaml").read_text())) == set(TrainConfig.model_fields)


def test_unknown_keys_are_all_named_with_path_and_the_nearest_key():
    message = refused({"data": {"rot": 1}, "lerning_rate": 1, "schedule": {"warmup": 3}})
    assert "unknown setting data.rot; did you mean data.root?" in message
    assert "unknown setting lerning_rate; did you mean learning_rate?" in message
    assert "unknown setting schedule.warmup; did you mean schedule.warmup_steps?" in message
    assert "\n" not in message


def test_wrong_and_missing_values_are_named_beside_unknown_keys():
    message = refused({"steps": 0, "model": None, "data": {"roots": 1}, "precision": "fp16"})
    assert "steps: Input should be greater than 0, got 0" in message
    assert "model: Input should be a valid string, got None" in message
    assert "precision: Input should be 'no' or 'bf16', got 'fp16'" in message
    with pytest.raises(UsageError, match=r"model is missing .--model MODEL.; data is missing .--data DIR."):
        resolve_config("segment")
    with pytest.raises(UsageError, match="data is a group of settings, got .folder.; set its keys: data.root"):
        resolve_config("segment", {"model": "sd", "data": "folder"})


def test_steps_and_epochs_replace_one_another():
    assert resolve_config("segment", GIVEN, {"epochs": 2}).steps is None
    assert resolve_config("depth", GIVEN, {"steps": 7}).epochs is None
    assert "exactly one of steps and epochs" in refused({"steps": 1, "epochs": 1})


def test_batch_must_be_cut_evenly():
    assert "batch_size=3 is not a multiple of accumulate=2" in refused({"batch_size": 3, "accumulate": 2})


def test_overrides_are_dotted_paths_and_yaml_values():
    words = [
        "data.split=test",
        "data.options.split_by=google",
        "learning_rate=1e-4",
        "classes=[a, b]",
        "clip_norm=null",
    ]
    config = resolve_config("segment", GIVEN, parse_overrides(words))
    assert config.data == DataSettings(root="data", split="test", options={"split_by": "google"})
    assert (config.learning_rate, config.classes, config.clip_norm) == (1e-4, ("a", "b"), None)


@pytest.mark.parametrize("word", ["none", "None", "NONE", "null", "Null", "~", ""])
def test_none_and_null_are_the_same(word: str):
    given = parse_overrides([f"clip_norm={word}", f"sharding={word}", f"data.options.crop={word}"])
    config = resolve_config("segment", {**GIVEN, "data": {"root": "data", "format": "kitti"}}, given)
    assert (config.clip_norm, config.sharding, config.data.options["crop"]) == (None, "none", None)
    assert parse_overrides(['classes=[none, "null"]', "model_options.word='none'"]) == {
        "classes": ["none", "null"],
        "model_options": {"word": "none"},
    }, "names in lists and what stands in quotes are words"


@pytest.mark.parametrize("word", ["steps", "=3", "classes=[a", "a.b"])
def test_malformed_overrides_are_named(word: str):
    with pytest.raises(UsageError, match=f"-s {word}".replace("[", r"\[")):
        parse_overrides([word])


def test_later_layers_win_key_by_key():
    merged = merge_settings({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}, "d": {"e": 1}})
    assert merged == {"a": {"b": 5, "c": 2}, "d": {"e": 1}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1", "is not a YAML file"),
        ("- a", "must hold `key: value` lines, got list"),
        ("\x00", "is not a YAML file"),
    ],
)
def test_broken_files_are_named(text: str, problem: str, tmp_path: Path):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=problem) as error:
        read_settings(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_file_names_the_shipped_ones():
    with pytest.raises(UsageError, match=r"Cannot read the settings nowhere.yaml.*own-depth, own-refer, own-segment"):
        read_settings("nowhere.yaml")


@pytest.mark.parametrize("task", sorted(TASKS))
def test_shipped_settings_fit_their_task(task: Task):
    config = resolve_config(task, read_settings(f"own-{task}"), GIVEN)
    assert config.task == task


def test_settings_of_another_task_are_refused():
    with pytest.raises(UsageError, match="The settings are for depth, but segment was asked for"):
        resolve_config("segment", GIVEN, {"task": "depth"})


def test_every_setting_has_a_help_text():
    for model in (TrainConfig, DataSettings, ScheduleSettings):
        assert not [name for name, field in model.model_fields.items() if not field.description]


def test_the_page_of_the_settings_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python tests/training/settings_page.py"


def test_what_a_step_minimises_is_the_recipes():
    reductions = [resolve_config("depth", GIVEN, {"recipe": recipe}).loss_reduction for recipe in get_args(Recipe)]
    assert dict(zip(get_args(Recipe), reductions, strict=True)) == {"reference": "batch", "default": "global"}


def test_recipes_know_every_setting_they_name():
    for recipe in get_args(Recipe):
        for task in sorted(TASKS):
            assert set(recipe_settings(TASKS[task], recipe)) <= set(TrainConfig.model_fields)


def test_a_bare_no_of_yaml_is_the_word_no():
    given = {"model": "m", "data": {"root": "d"}}
    assert resolve_config("segment", given, parse_overrides(["precision=no"])).precision == "no"
    with pytest.raises(UsageError, match="precision"):
        resolve_config("segment", given, parse_overrides(["precision=yes"]))


def test_options_of_layouts_and_near_recipes_are_pointed_at():
    with pytest.raises(UsageError, match=r"unknown setting depth_scale; did you mean data.options.depth_scale\?"):
        resolve_config("depth", {"model": "m", "data": {"root": "d"}, "depth_scale": 5000})
    with pytest.raises(UsageError, match="Did you mean ade20k-reference"):
        read_settings("ade20k-referense")


@pytest.mark.parametrize("task", sorted(TASKS))
def test_the_shipped_model_learns_rendered_scenes_by_settings_of_its_own(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    world = {"model": "world", "data": {"root": "world"}}
    with caplog.at_level("INFO"):
        config = resolve_config(task, world, {"steps": 3})
    assert (config.crop_px, config.steps, config.mode, config.learning_rate) == (128, 3, "full", 1e-3)
    assert "For rendered scenes: crop_px=128" in caplog.text and "steps" not in caplog.text
    other = resolve_config(task, world, {"model": "sd"})
    assert other.crop_px == 128 and other.learning_rate < 1e-3 and other.model_options == {}
    assert resolve_config(task, world, {"epochs": 1}).steps is None
    for general in ({"data": {"root": "mine"}}, {"recipe": "default"}):
        assert resolve_config(task, world, general).crop_px > 400
    (tmp_path / "world").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of the name comes first
    assert resolve_config(task, world).crop_px > 400


def test_options_of_the_backbone_are_pointed_at():
    with pytest.raises(UsageError, match=r"map_scal; did you mean model_options\.backbone_options\.map_scale"):
        resolve_config("refer", GIVEN, {"map_scal": "log_ratio"})


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *(("lr=1", "learning_rate"), ("crop=128", "crop_px"), ("bs=4", "batch_size"), ("epoch=3", "epochs")),
        *(("imgsz=640", "crop_px"), ("wd=0", "weight_decay"), ("num_workers=1", "workers"), ("fp16=true", "precision")),
        *(
            ("root=x", "data.root"),
            ("rank=4", "lora.rank"),
            ("warmup=5", "schedule.warmup_steps"),
            ("LR=1", "learning_rate"),
        ),
        *(("head_channels=8", "model_options.head_channels"), ("data.val=x", "data.validation_split")),
        ("depth_scale=256", "data.options.depth_scale"),
    ],
)
def test_what_other_programs_say_is_understood(word: str, meant: str):
    message = refused(parse_overrides([word]))
    assert f"unknown setting {word.partition('=')[0]}; did you mean {meant}?" in message


def test_wrong_types_and_devices_are_answered():
    assert "learning_rate: Input should be a valid number" in refused({"learning_rate": "abc"})
    assert "the best device is taken" in refused({"device": "cpu"})


def test_the_shipped_model_gets_its_rates_on_any_data_unless_a_recipe_is_named():
    given = {"model": "world", "data": {"root": "mine"}}
    config = resolve_config("segment", given)
    assert (config.learning_rate, config.unet_lr_scale, config.model_options) == (1e-3, 1.0, {"head_channels": 48})
    assert resolve_config("refer", given).model_options == {"head_channels": 64}  # the published head, not `grounded`
    assert resolve_config("segment", given, {"learning_rate": 1e-4}).learning_rate == 1e-4
    for other in ({"recipe": "default"}, {"model": "sd"}):
        assert resolve_config("segment", given, other).learning_rate == 8e-5
