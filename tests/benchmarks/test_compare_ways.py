"""The comparison as a user runs it: every way's figures are there, as the documentation says."""

from __future__ import annotations

import json
from pathlib import Path

import compare_ways
import pytest
import torch

import vpd
from tiny import CLASSES
from vpd import UsageError
from vpd.config import Resize


@pytest.fixture(scope="module")
def folder(tiny_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = vpd.SegmentationModel.from_diffusion(
        tiny_diffusion, classes=CLASSES, head_channels=8, fit=Resize(size_px=64)
    )
    model.save(folder := tmp_path_factory.mktemp("model") / "segment")
    return folder


@pytest.fixture(autouse=True)
def small_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of a product small enough for a test."""
    whole = compare_ways.machine_peaks
    monkeypatch.setattr(compare_ways, "machine_peaks", lambda device, dtype: whole(device, dtype, size=64, repeats=1))


@pytest.mark.extras
def test_what_the_documentation_says(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    names = ["reference", "diffusers", "exact", "exact+heap", "fast", "small-encoder"]
    words = f"--px 64 --prompts 3 --rounds 1 --threads {threads} --device cpu --ways {','.join(names)}"
    curves, out = "--sizes 64,128 --classes 1,3 --batches 1,2", tmp_path / "bench"
    compare_ways.main([*f"{words} {curves}".split(), "--model", str(folder), "--out", str(out)])
    said = capsys.readouterr().out
    assert "| times faster |" in said and "| none: random |" in said and "matrix" in said
    found = json.loads((out / "bench.json").read_text(encoding="utf-8"))
    assert found["format_version"] == 1 and found["model"] == str(folder)
    assert (found["px"], found["prompts"], found["rounds"], found["clock"]) == (64, 3, 1, "cpu_s")
    assert found["machine"]["threads"] == threads and found["machine"]["device"] == "cpu"
    assert found["skipped"] == {}
    assert set(found["peak_gflop_per_s"]["float32"]) == {"matrix", "convolution"}
    assert list(found["ways"]) == names
    for name, facts in found["ways"].items():
        for part in ("", "encoder_", "unet_"):
            for clock in ("cpu_s", "wall_s"):
                seconds = facts["seconds"][f"{part}{clock}"]
                assert 0 <= seconds["min"] <= seconds["median"] <= seconds["max"]
        assert set(facts["gflop"]) == set(facts["peak_mib"]) == {"encoder", "unet"}
        if name == "small-encoder":
            assert facts["errors"] is None  # random weights have none to tell
        else:
            assert max(facts["errors"]) < (4e-2 if name == "fast" else 1e-5)
        assert facts["share_of_peak"] > 0 and facts["dtype"] in found["peak_gflop_per_s"]
    assert found["ways"]["reference"]["times_faster"] == 1
    for axis, numbers in (("size", [64, 128]), ("classes", [1, 3]), ("batch", [1, 2])):
        assert list(found["growth"][axis]) == names
        for points in found["growth"][axis].values():
            assert [point[axis] for point in points] == numbers
            for ratio in ("time", "unet_time", "gflop", "encoder_peak", "unet_peak"):
                assert points[0][f"{ratio}_ratio"] == 1
            assert points[1]["gflop_ratio"] > 1 and points[1]["images_per_s"] > 0
            assert points[1]["unet_peak_ratio"] > 1  # by prompts too, which the encoder knows nothing of
            assert (points[1]["encoder_peak_ratio"] > 1) == (axis != "classes")
    assert (out / "table.md").read_text(encoding="utf-8").strip() in said
    pytest.importorskip("matplotlib")
    assert (out / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_requests_that_cannot_be_met(folder: Path, tmp_path: Path) -> None:
    given = ["--model", str(folder), "--device", "cpu"]
    for words, said in (
        ("--ways fastest", "Unknown way 'fastest'. Choose among: reference, diffusers"),
        ("--sizes 64,big", "--sizes 64,big: give whole numbers above 0"),
        ("--batches 0", "--batches 0: give whole numbers above 0"),
        ("--px 100", "A side of 100 px does not fit: give multiples of 64 px"),
        ("--px 64 --sizes 64,65", "A side of 65 px does not fit"),
        (f"--model {tmp_path / 'none'}", "There is no model folder"),
    ):
        with pytest.raises(UsageError, match=said):
            compare_ways.main([*given, *words.split()])
    for words in ("--size huge", f"--model {folder} --size tiny"):
        with pytest.raises(SystemExit):
            compare_ways.main(words.split())
