"""`vpd bench`: every option's figures are there for every task, and wrong requests are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig, save_tiny_encoder
from vpd.bench import measuring
from vpd.bench.measuring import SD15, with_random_weights
from vpd.config import BackboneConfig, Resize, SegmentConfig
from vpd.errors import UsageError
from vpd.inference.heap import free_heap, keep_heap
from vpd.loading import load
from vpd.optimising import fast_dtype, optimise

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of a product small enough for a test; nothing is repeated."""
    monkeypatch.setattr(measuring, "_LEAST_SECONDS", 0.0)
    whole = measuring.machine_peaks
    monkeypatch.setattr(measuring, "machine_peaks", lambda device, dtype: whole(device, dtype, size=64, repeats=1))


@pytest.fixture
def bench(vpd_command: Command, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], str]]:
    """Runs the verb on the CPU; gives what it wrote and said."""

    def run(*words: object) -> tuple[dict[str, Any], str]:
        result = vpd_command("bench", *words, "--device", "cpu", "--rounds", 1, "--out", tmp_path / "bench")
        assert result.status == 0, result.err
        assert (tmp_path / "bench/bench.md").read_text(encoding="utf-8").strip() in result.out
        return json.loads((tmp_path / "bench/bench.json").read_text(encoding="utf-8")), result.out

    return run


def check_figures(figures: dict[str, Any]) -> None:
    for part in (figures["network"], figures["predict"], *figures["batches"]):
        for clock in ("cpu_s", "wall_s"):
            assert 0 <= part[clock]["min"] <= part[clock]["median"] <= part[clock]["max"]
        assert part["peak_mib"] > 0
    assert figures["gflop"] > 0 and figures["share_of_peak"] > 0


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_every_option_of_every_task(bench: Command, models: dict[str, Path], task: str) -> None:
    found, said = bench("--model", models[task], "--batches", "1,2")
    names = ["exact", *(["heap kept"] if keep_heap() and free_heap() else []), "fast"]
    assert list(found["options"]) == names and found["left_out"] == {}
    assert found["format_version"] == 2 and (found["model"], found["task"]) == (str(models[task]), task)
    assert (found["px"], found["rounds"], found["clock"]) == (64, 1, "cpu_s")  # as the model predicts
    assert found["machine"]["device"] == "cpu" and found["weights_mib"] > 0
    exact = found["options"]["exact"]
    for name, figures in found["options"].items():
        check_figures(figures)
        assert [point["batch"] for point in figures["batches"]] == [1, 2]
        assert figures["batches"][1]["peak_mib"] > figures["batches"][0]["peak_mib"]
        assert figures["difference"] < (4e-2 if name == "fast" else 1e-30)
        assert f"| {name} " in said
    assert exact["network"]["times_faster"] == exact["predict"]["times_faster"] == 1
    assert exact["dtype"] == "float32"
    fast = found["options"]["fast"]
    assert fast["dtype"] == str(fast_dtype(torch.device("cpu"))).removeprefix("torch.")
    assert fast["how"] == "--fast" and fast["gflop"] < exact["gflop"]  # constants are folded
    assert set(found["peak_gflop_per_s"]) == {"float32", fast["dtype"]}


def test_a_small_encoder_and_another_size(bench: Command, models: dict[str, Path], tmp_path: Path) -> None:
    backbone = load(models["segment"]).backbone
    channels = backbone.vae.config.latent_channels
    config = TinyEncoderConfig.for_vae(latent_stride=backbone.latent_stride, latent_channels=channels)
    save_tiny_encoder(TinyEncoder(config), tmp_path / "small")
    found, said = bench("--model", models["segment"], "--encoder", tmp_path / "small", "--px", 100)
    figures = found["options"]["small encoder"]
    check_figures(figures)
    assert found["px"] == 100 and figures["how"] == f"--encoder {tmp_path / 'small'}" in said
    assert figures["difference"] > 0 and figures["gflop"] != found["options"]["fast"]["gflop"]


def test_without_anything_it_measures_the_shipped_model(bench: Command) -> None:
    found, said = bench("--px", 64, "--batches", "1")
    assert (found["model"], found["task"], found["px"]) == ("world-segment", "segment", 64)
    assert "pictures together" not in said  # one batch needs no table


@pytest.mark.extras
def test_compiled(bench: Command, models: dict[str, Path]) -> None:
    found, said = bench("--model", models["segment"], "--batches", "1", "--compile")
    assert ("compiled" in found["options"]) != ("compiled" in found["left_out"])
    assert "compiled" in said


def test_what_cannot_be_compiled_is_left_out(
    bench: Command, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: Any, **options: Any) -> Any:
        if "compile_mode" in options:
            raise RuntimeError("no compiler\nmore of it")
        return optimise(model, **options)

    monkeypatch.setattr(measuring, "optimise", refuse)
    found, said = bench("--model", models["segment"], "--batches", "1", "--compile")
    assert found["left_out"] == {"compiled": "torch.compile failed: no compiler"} and "Left out: compiled" in said


def test_batches_where_none_are_given(bench: Command, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    exact = [measuring.Option("exact", "as it is")]
    monkeypatch.setattr(measuring, "find_options", lambda device, **_: exact)
    for seconds, numbers in ((math.inf, [1, 4]), (0.0, [1])):
        monkeypatch.setattr(measuring, "_SLOW_SECONDS", seconds)
        found, _ = bench("--model", models["segment"])
        assert [point["batch"] for point in found["options"]["exact"]["batches"]] == numbers


def test_requests_that_cannot_be_met(vpd_command: Command, models: dict[str, Path], tmp_path: Path) -> None:
    tiny = ("--model", models["depth"])
    for words, said in (
        (("--batches", "1,big"), "--batches 1,big: give whole numbers above 0"),
        (("--batches", "0"), "--batches 0: give whole numbers above 0"),
        (("--model", tmp_path / "none"), "There is no model folder"),
        ((*tiny, "--encoder", tmp_path / "none"), "There is no small encoder"),
        ((*tiny, "--size", "sd15"), "Give it or --model, not both"),
        (("--size", "huge"), "'huge' is not"),
        ((*tiny, "--out", models["depth"]), "holds a model"),
    ):
        result = vpd_command("bench", *words, "--device", "cpu")
        assert result.status == 2, words
        assert said in result.err
        assert "Traceback" not in result.err
    with pytest.raises(UsageError, match="rounds: got 0"):
        measuring.measure_speed(load(models["depth"]), rounds=0)
    with pytest.raises(UsageError, match="made by vpd.optimise"):
        measuring.measure_speed(optimise(load(models["depth"])))


def test_random_weights_of_a_size() -> None:
    """Narrow here; `--size sd15` is the same at full width."""
    narrow = {"unet": {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 32, "attention_head_dim": 2}}
    narrow["vae"] = {"block_out_channels": (32, 32, 32, 32)}
    sizes = {part: {**SD15[part], **changes} for part, changes in narrow.items()}
    config = SegmentConfig(classes=("one", "two"), backbone=BackboneConfig(**sizes), fit=Resize())
    model = with_random_weights(config)
    assert not model.training
    labels = model.predict(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy(), size=64).labels
    assert labels.shape == (64, 64)
