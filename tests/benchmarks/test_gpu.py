"""The script for a machine with a GPU, on a CPU: it runs first time, and keeps what it has."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gpu_report
import gpu_setup
import pytest
import torch
from gpu_profile import kind_of, layout_changes

import gpu

SCRIPT = Path(gpu.__file__)
MEASURED = ("machine", "peak", "network", "predict", "profile", "accuracy", "parts", "memory", "training")


@pytest.mark.extras
def test_every_section_on_a_cpu(tmp_path: Path) -> None:
    """In a process of its own, from another folder, as on a machine where nothing is installed."""
    words = ["--size", "tiny", "--device", "cpu", "--quick", "--limit-s", "900", "--out", tmp_path / "out/gpu.json"]
    run = [sys.executable, SCRIPT, *words]
    done = subprocess.run(list(map(str, run)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out/gpu.json").read_text(encoding="utf-8"))
    sections = found["sections"]
    for name in MEASURED:
        assert not {"error", "left_out"} & sections[name].keys(), sections[name]
        assert f"{name}: done" in done.stdout
    assert "8.9 multiply fp8" in sections["fp8"]["left_out"]
    for way in gpu_setup.WAYS:
        assert all(point["images_per_s"] > 0 for point in sections["network"][way].values())
    assert 0 < max(sections["accuracy"]["features"]) < 1  # the coarsest map is one pixel here
    assert sections["accuracy"]["recording_against_eager"] < 1e-2
    assert sections["profile"]["whole"]["ms"]["convolutions"] > 0
    assert sections["predict"]["job"]["pictures"] == 16
    assert sections["memory"]["exact"]["2"]["counted_mib"] > 0
    assert [target["met"] for target in found["targets"]] == [None] * len(gpu_report.TARGETS)
    assert "| small encoder | " in done.stdout and "| 16, checkpointed | " in done.stdout


def setup_until(ends_s: float) -> gpu_setup.Setup:
    shared: dict[str, Any] = {"device": torch.device("cpu"), "size": "sd15", "px": 512, "batches": (1,)}
    return gpu_setup.Setup(**shared, pictures=1, steps=1, ends_s=ends_s)


def test_a_section_that_fails_is_noted_and_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"

    def fail(setup: Any, found: dict[str, Any]) -> None:
        found["half"] = 1
        raise RuntimeError("CUDA error: misaligned address")

    def look(setup: Any, found: dict[str, Any]) -> None:
        sections = json.loads(out.read_text())["sections"]  # written before this one began
        assert sections["network"]["half"] == 1 and "misaligned" in sections["network"]["error"]
        found["features"] = [0.01, 0.05]

    def wait(setup: Any, found: dict[str, Any]) -> None:
        setup.check_time(1000)

    monkeypatch.setattr(gpu, "SECTIONS", {"network": fail, "accuracy": look, "memory": wait})
    result = gpu.run(setup_until(time.monotonic() + 100), ["network", "accuracy", "memory"], out)
    assert "error" not in result["sections"]["accuracy"]
    assert "s are left, 1000 are needed" in result["sections"]["memory"]["left_out"]
    assert json.loads(out.read_text())["sections"]["memory"]["left_out"]
    (target,) = (target for target in result["targets"] if target["what"].startswith("features"))
    assert target["measured"] == 0.05 and target["met"] is False
    assert "| features of fast against float32 | <= 0.04 | 0.05 | MISSED |" in gpu_report.describe(result)
    assert "network: RuntimeError: CUDA error: misaligned address" in capsys.readouterr().out


def test_no_section_begins_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(gpu, "SECTIONS", {"peak": lambda setup, found: begun.append(1)})
    result = gpu.run(setup_until(time.monotonic() - 1), ["peak"], tmp_path / "gpu.json")
    assert not begun and "0 s are left" in result["sections"]["peak"]["left_out"]


def test_a_point_that_does_not_fit_leaves_the_others() -> None:
    def too_large() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    points: dict[str, Any] = {}
    setup = setup_until(time.monotonic() + 100)
    gpu_setup.tried(points, "16", too_large, setup)
    gpu_setup.tried(points, "1", lambda: {"ms": 1.0}, setup)
    assert points["16"]["error"].startswith("out of memory") and points["1"] == {"ms": 1.0}


@pytest.mark.parametrize(
    ("operator", "kernel", "kind"),
    [
        ("aten::cudnn_convolution", "sm90_xmma_fprop_implicit_gemm_bf16f32_nhwckrsc_nhwc_tilesize", "convolutions"),
        ("aten::cudnn_convolution", "void cudnn::ops::nchwToNhwcKernel<__nv_bfloat16>", "layout copies"),
        ("", "part_statistics", "group norm"),
        ("", "apply", "group norm"),
        ("aten::native_group_norm", "void at::native::RowwiseMomentsCUDAKernel", "group norm"),
        ("aten::_scaled_dot_product_cudnn_attention", "cudnn_generated_fort_native_sdpa", "attention"),
        ("aten::_flash_attention_forward", "flash_fwd_splitkv_combine_kernel", "attention"),
        ("aten::addmm", "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NTN", "linear layers"),
        ("aten::copy_", "void at::native::elementwise_kernel<128, 4, direct_copy>", "copies"),
        ("aten::add_", "void at::native::vectorized_elementwise_kernel<8>", "elementwise and other"),
    ],
)
def test_kinds_of_kernels(operator: str, kernel: str, kind: str) -> None:
    assert kind_of(operator, kernel) == kind


def test_two_orders_are_seen() -> None:
    maps = torch.rand(1, 4, 8, 8)
    turned = maps.contiguous(memory_format=torch.channels_last)
    assert layout_changes(lambda: maps + maps) == [] == layout_changes(lambda: turned * 2)
    (found,) = layout_changes(lambda: maps + turned)
    assert found.startswith("aten.add.Tensor")


def test_wrong_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--sections", "speed"])
    assert "unknown sections: speed; there are machine, peak" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            gpu.main([])
        assert "torch sees no CUDA device" in capsys.readouterr().err
