"""`vpd bench`: every option's figures are there for every task, and wrong requests are refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig, save_tiny_encoder
from vpd.bench import machine, measuring, timing
from vpd.bench.measuring import SD15, with_random_weights
from vpd.bench.report import check_own_report
from vpd.config import BackboneConfig, Resize, SegmentConfig
from vpd.errors import UsageError
from vpd.inference.heap import free_heap, keep_heap
from vpd.loading import load
from vpd.optimising import fast_dtype, optimise

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of a product small enough for a test; nothing is repeated."""
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
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


class FakeEvent:
    """A mark on a device whose runs take 5 ms."""

    marks = 0

    def record(self) -> None:
        FakeEvent.marks += 1
        self.place = FakeEvent.marks

    def elapsed_time(self, later: FakeEvent) -> float:
        return 5.0 * (later.place - self.place)


def test_a_gpu_is_timed_by_its_own_clock(
    bench: Command, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here with marks that are none, as if the CPU were a GPU; `predict` of files stands beside the network's rate."""
    timed = partial(timing.time_runs, new_event=FakeEvent)
    monkeypatch.setattr(measuring, "time_runs", timed)
    whole = measuring.describe_machine
    gpu = {"driver": "575.57", "cuda": "13.0", "cudnn": 91002, "triton": None, "tf32_convolutions": True}
    monkeypatch.setattr(measuring, "describe_machine", lambda device: {**whole(device), "device": "a card", "gpu": gpu})
    monkeypatch.setattr(measuring, "clock_of", lambda device: "wall_s")
    exact = [measuring.Option("exact", "as it is")]
    monkeypatch.setattr(measuring, "find_options", lambda device, **_: exact)
    found, said = bench("--model", models["refer"], "--batches", "1,2", "--pictures", 3)
    figures = found["options"]["exact"]
    assert figures["network"]["device_s"] == {"median": 0.005, "min": 0.005, "max": 0.005}
    assert figures["network"]["runs"] >= 20 or figures["network"]["wall_s"]["median"] > 0.04
    assert [point["images_per_s"] for point in figures["batches"]] == [200, 400]
    assert figures["share_of_peak"] > 0
    many = figures["many"]
    assert (many["pictures"], many["batch"]) == (3, 2)
    assert many["share_of_network"] == pytest.approx(many["pictures_per_s"] / 400)
    for told in ("a card, driver 575.57, CUDA 13.0, cuDNN 91002, Triton unknown", "network, s by events", "in TF32"):
        assert told in said
    assert "`predict` of 3 JPEG files, 2 together" in said


def test_runs_are_repeated_until_they_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([9.0, 1.0, 0.5, 0.4, 0.39, 0.3])
    monkeypatch.setattr(timing, "_WARM_UP_SECONDS", 60)
    monkeypatch.setattr(timing, "since", lambda began, device: {"wall_s": next(times)})
    assert timing.warm_up(lambda: None, torch.device("cpu")) == 5  # 0.4 and 0.39
    monkeypatch.setattr(timing, "since", lambda began, device: {"wall_s": 3.0})
    monkeypatch.setattr(timing, "_WARM_UP_SECONDS", 5)
    assert timing.warm_up(lambda: None, torch.device("cpu")) == 2  # long enough
    runs: list[int] = []
    monkeypatch.setattr(timing, "since", lambda began, device: {"wall_s": 0.3, "cpu_s": 0.1})
    timed = timing.time_runs(lambda: runs.append(1), torch.device("cpu"), 1, new_event=FakeEvent)
    assert timed["runs"] == 4 and timed["device_s"]["max"] == 0.005  # a second is enough
    monkeypatch.setattr(timing, "since", lambda began, device: {"wall_s": 0.01, "cpu_s": 0.1})
    assert timing.time_runs(lambda: None, torch.device("cpu"), 1, new_event=FakeEvent)["runs"] == 20


@pytest.mark.parametrize(
    ("told", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Sat Feb 24 2024\n", "535.161.08"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\nGCC 13.2.0", "575.57.08"),
    ],
)
def test_the_drivers_version(tmp_path: Path, told: str, version: str) -> None:
    (tmp_path / "version").write_text(told)
    assert machine.driver_version(tmp_path / "version") == version


def test_the_drivers_version_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 550.54.15; echo 550.54.15\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.driver_version(tmp_path / "none") == "550.54.15"
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert machine.driver_version(tmp_path / "none") is None


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
    with pytest.raises(UsageError, match="pictures: got -1"):
        measuring.measure_speed(load(models["depth"]), pictures=-1)
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


def test_files_of_others_are_not_written_over(vpd_command: Command, tmp_path: Path) -> None:
    (tmp_path / "bench.md").write_text("notes")
    result = vpd_command("bench", "--out", tmp_path)
    assert result.status == 2 and (tmp_path / "bench.md").read_text() == "notes"
    assert f"`vpd bench` would write over 1 file that it did not make: {tmp_path}/bench.md. Give another" in result.err
    (tmp_path / "bench.json").write_text(json.dumps({"machine": {}, "options": {}}))  # of a run that was killed
    check_own_report(tmp_path)
