"""Weights, gradients and optimiser state in shards: the same training, and the same files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from processes import torchrun
from toy import toy_config

import vpd
from tiny import tiny_unet
from vpd.backbones.unet_walk import strip_unet, walk_unet
from vpd.errors import UsageError
from vpd.files.atomic import read_json_lines
from vpd.training.fsdp import UNITS, shard
from vpd.training.run import train
from weights import assert_equal_weights, weights

CASES: dict[str, dict[str, Any]] = {
    # biases before a BatchNorm have no gradient but rounding errors, which AdamW would make steps of
    "segment": {"optimiser": "sgd", "momentum": 0.9, "clip_norm": 0.1, "loss_reduction": "batch"}
    | {"gradient_checkpointing": "cheap"},
    "refer": {"gradient_checkpointing": True},
    "depth": {"mode": "lora", "optimiser": "sgd", "learning_rate": 1e-4, "accumulate": 2, "on_bad_loss": "skip"},
}
"""Settings that between them touch all that shards could disturb."""


def train_on_two(task: str, folder: Path, settings: dict[str, Any], *words: str) -> Path:
    """`vpd train` on two processes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings))
    done = torchrun(2, "-m", "vpd", "train", task, "--config", path, "--out", folder, *words)
    assert done.returncode == 0, done.stderr
    return folder


def assert_close_weights(folder: Path, other: Path) -> None:
    ours, theirs = weights(folder), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=2e-5, rtol=1e-4, msg=lambda text, name=name: name + text)


def losses(folder: Path) -> list[tuple[str, float]]:
    lines = read_json_lines(folder / "log.jsonl")
    return [(line["kind"], value) for line in lines for name, value in line.items() if name in ("loss", "grad_norm")]


def stop_after_step_2(run: Path, folder: Path) -> Path:
    """The same run as if it had been killed after step 3."""
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "step-00000004")
    return folder


@pytest.fixture(scope="class")
def runs(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    session_settings: dict[str, Any],
    small_heads: dict[str, dict[str, Any]],
    data_of: dict[str, Path],
) -> dict[str, Path]:
    """The same training of four steps with shards and without."""
    task, root = request.param, tmp_path_factory.mktemp("runs")
    settings = session_settings | {"data": {"root": str(data_of[task])}, "model_options": small_heads[task]}
    settings |= {"batch_size": 4, **CASES[task]}
    return {kind: train_on_two(task, root / kind, settings | {"sharding": kind}) for kind in ("fsdp", "none")}


@pytest.mark.extras
@pytest.mark.parametrize("runs", list(CASES), indirect=True)
class TestRuns:
    def test_shards_learn_what_whole_models_learn(self, runs: dict[str, Path]):
        assert_close_weights(runs["fsdp"] / "model", runs["none"] / "model")
        ours, theirs = losses(runs["fsdp"]), losses(runs["none"])
        assert [kind for kind, _ in ours] == [kind for kind, _ in theirs]
        assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], rel=1e-3)

    def test_checkpoints_are_the_same_files(self, runs: dict[str, Path]):
        ours, theirs = (runs[kind] / "checkpoints" / "step-00000002" for kind in ("fsdp", "none"))
        assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())
        from safetensors.torch import load_file

        mine, plain = (load_file(folder / "optimiser.safetensors") for folder in (ours, theirs))
        assert {name: value.shape for name, value in mine.items()} == {
            name: value.shape for name, value in plain.items()
        }

    def test_the_model_predicts(self, runs: dict[str, Path]):
        model = vpd.load(runs["fsdp"] / "checkpoints" / "step-00000004")
        words = {"text": "the square"} if model.config.task == "refer" else {}
        assert model.predict(np.zeros((40, 50, 3), np.uint8), **words).image.size == (50, 40)

    def test_stopped_runs_go_on(self, runs: dict[str, Path], tmp_path: Path):
        task = vpd.load(runs["fsdp"] / "model").config.task
        stopped = stop_after_step_2(runs["fsdp"], tmp_path / "fsdp")
        train_on_two(task, stopped, {}, "--resume")
        assert_equal_weights(runs["fsdp"] / "model", stopped / "model")
        other_way = stop_after_step_2(runs["none"], tmp_path / "none")
        train_on_two(task, other_way, {}, "--resume", "-s", "sharding=fsdp")
        assert_close_weights(other_way / "model", runs["none"] / "model")


def test_every_unit_is_called_by_the_walk():
    """The call is what gathers a unit's weights: one that is not called would compute with a shard."""
    unet = strip_unet(tiny_unet())
    calls: dict[str, int] = {}
    units = {name: module for name, module in unet.named_modules() if isinstance(module, UNITS)}
    for name, module in units.items():
        module.__class__ = type(f"FSDP{type(module).__name__}", (type(module),), {})  # as `fully_shard` does
        module.register_forward_pre_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    walk_unet(unet, torch.zeros(1, 4, 8, 8), timestep=1, text_embeds=torch.zeros(1, 3, 16))
    assert calls == dict.fromkeys(units, 1)
    inside = {parameter for module in units.values() for parameter in module.parameters()}
    sizes = [sum(parameter.numel() for parameter in group) for group in (inside, unet.parameters())]
    assert sizes[0] > 0.7 * sizes[1]  # the rest is gathered for the whole step


def test_one_process_has_nothing_to_share(tmp_path: Path, settings: dict[str, Any]):
    with pytest.raises(UsageError, match=r"shares the model out among processes.*torchrun --nproc-per-node"):
        train("segment", tmp_path / "run", settings | {"sharding": "fsdp"})


def test_an_old_torch_is_named(monkeypatch: pytest.MonkeyPatch):
    class Two:
        num_processes = 2

    monkeypatch.setattr("vpd.training.fsdp.fully_shard", lambda module, *, mesh: None)
    with pytest.raises(UsageError, match=f"needs torch 2.7 or newer; this is {torch.__version__.split('+')[0]}"):
        shard(torch.nn.Identity(), torch.nn.Identity(), Two())


@pytest.mark.parametrize(
    "clash",
    [
        {"ema_decay": 0.9},
        {"optimiser": "adamw_8bit"},
        {"optimiser": "muon"},
        {"accumulate": "auto"},
        {"channels_last": True},
        {"compile": True},
        {"compile": "regional"},
    ],
)
def test_what_does_not_go_with_shards(clash: dict[str, Any]):
    ((key, value),) = clash.items()
    with pytest.raises(UsageError, match=f"sharding=fsdp does not go with {key}={value}"):
        toy_config(sharding="fsdp", **clash)
