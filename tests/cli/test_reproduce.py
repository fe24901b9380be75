"""Every command of docs/reproduce.md runs, on synthetic data in the true layouts and tiny models."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import data_layouts
from golden_models import TASKS, recipe_weights
from golden_set import Golden
from tiny import write_tiny_diffusion

pytestmark = pytest.mark.extras

PAGE = Path(__file__).parents[2] / "docs" / "reproduce.md"
STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SMALL_RUN = (
    *("steps=2", "batch_size=2", "accumulate=1", "workers=0", "crop_px=64", "model_options.head_channels=16"),
    *("validate_every=2", "validate_limit=2", "checkpoint_every=2", "log_every=1", "pictures=1", "precision=no"),
)
SMALL_HEAD = {
    "segment": ("model_options.published_prompts=false",),
    "refer": (),
    "depth": (
        *("model_options.published_prompts=false", "model_options.feature_channels=32"),
        "model_options.deconv_channels=[8, 8, 8]",
    ),
}


def commands() -> list[str]:
    """The lines of the page's bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def downloads(tmp_path: Path, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the page tells to download, small."""
    write_tiny_diffusion(tmp_path / "sd", cross_attention_dim=golden.json("refer/config.json")["text_dim"])
    data_layouts.write_ade20k(tmp_path / "ADEChallengeData2016")
    for dataset in ("refcoco", "refcoco+", "refcocog"):
        data_layouts.write_refcoco(tmp_path / "refer", dataset=dataset)
    data_layouts.write_nyu(tmp_path / "nyu_depth_v2")
    data_layouts.write_nyu_mat(tmp_path / "nyu_depth_v2" / "nyu_depth_v2_labeled.mat")
    data_layouts.write_kitti(tmp_path / "kitti")
    names = {"segment": "vpd_ade20k.pth", "refer": "vpd_refcoco.pth", "depth": "vpd_nyu.pth"}
    for task in TASKS:
        entry = "state_dict" if task == "segment" else "model"
        torch.save({entry: recipe_weights(golden, task)}, tmp_path / names[task])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(line: str) -> list[str]:
    """The words of a command, with a tiny diffusion model and few, small steps."""
    program, verb, *words = shlex.split(line.replace(STABLE_DIFFUSION, "sd"))
    assert program == "vpd"
    if verb == "train":
        settings = (*SMALL_RUN, *SMALL_HEAD[words[0]])
        words += ["--model", "sd", *(word for setting in settings for word in ("-s", setting))]
    if verb == "eval":
        words += ["--limit", "2", "--workers", "0"]
    return [verb, *words]


def test_every_command_of_the_page_runs(downloads: Path, vpd_command: Callable[..., Any]) -> None:
    lines = commands()
    assert len(lines) > 20
    for line in lines:
        result = vpd_command(*small(line))
        assert result.status == 0, f"{line}\n{result.out}\n{result.err}"
    for run in ("ade20k", "refcoco", "refcoco-plus", "refcocog", "nyu", "kitti"):
        assert (downloads / "runs" / run / "model" / "config.json").is_file()
        assert (downloads / "runs" / run / "config.yaml").is_file()
    reports = {path.parent.name for path in (downloads / "reports").glob("*/scores.json")}
    assert {"ade20k", "ade20k-multi-scale", "refcoco-val", "refcoco-testA", "nyu", "kitti"} <= reports
    assert any((downloads / "submission" / "ade20k").rglob("*.png"))


def test_a_run_repeats_from_its_own_configuration(downloads: Path, vpd_command: Callable[..., Any]) -> None:
    line = next(line for line in commands() if "ade20k-reference" in line)
    first = vpd_command(*small(line))
    assert first.status == 0, first.err
    again = vpd_command("train", "segment", "--config", "runs/ade20k/config.yaml", "--out", "runs/again")
    assert again.status == 0, again.err
    first_weights, second_weights = (
        load_file(downloads / "runs" / run / "model" / "model.safetensors") for run in ("ade20k", "again")
    )
    assert all(torch.equal(value, second_weights[name]) for name, value in first_weights.items())
    configs = [
        json.loads((downloads / "runs" / run / "model" / "config.json").read_text()) for run in ("ade20k", "again")
    ]
    assert {key for key in configs[0] if configs[0][key] != configs[1][key]} <= {"saved_together"}
