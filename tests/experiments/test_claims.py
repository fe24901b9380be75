"""The experiments on the paper's claims, a few steps on a few scenes: `experiments/claims.py`."""

import json
import sys

import numpy as np
import pytest
import torch

from experiments import claims, claims_arms, claims_report, claims_runs
from experiments.claims_arms import tiers
from experiments.claims_models import Sources, weights_hash
from experiments.claims_report import steps_to
from experiments.claims_runs import best_rate, pack_rows, unpack_rows
from experiments.miniature import write_diffusion_folder
from vpd.errors import UsageError
from vpd.weights.shipped import shipped_diffusion

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module", autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def four_labels(monkeypatch):
    for module in (claims_arms, claims_report, claims_runs):
        monkeypatch.setattr(module, "LABELS", (4,))


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    return [
        f"--backbone={name}={write_diffusion_folder(folder / name, unet_channels=(16,) * 4, text_dim=16, seed=seed)}"
        for seed, name in enumerate(("text", "random"))
    ]


@pytest.fixture
def command(monkeypatch, backbones):
    def call(name, results, *options):
        if name != "report":
            options = (*backbones, "--steps=2", "--seeds=1", "--test-scenes=4", "--batch-size=4", *options)
        monkeypatch.setattr(sys, "argv", ["claims.py", name, str(results), *options])
        claims.main()

    return call


def lines_of(path):
    return {line["key"]: line for line in map(json.loads, path.read_text().splitlines())}


def without_times(line):
    return {name: value for name, value in line.items() if name != "cpu_s"}


def test_runs_repeat_resume_and_make_a_report(command, four_labels, tmp_path, capsys):
    results, again = tmp_path / "results.jsonl", tmp_path / "again.jsonl"
    only = "--only=task=refer,regime=frozen,maps=on,latents=scaled"
    command("run", results, only)
    whole = results.read_text()
    assert len(lines_of(results)) == 12  # of two backbones: 3 trials and one run; no text twice, shuffled, adapter
    command("run", results, only)
    assert results.read_text() == whole

    again.write_text("".join(whole.splitlines(keepends=True)[:6]))
    command("run", again, only)
    assert {key: without_times(line) for key, line in lines_of(again).items()} == {
        key: without_times(line) for key, line in lines_of(results).items()
    }

    command("plan", results, only)
    assert "12 planned, 0 left" in capsys.readouterr().out
    command("report", results, "--out", str(tmp_path / "report"))
    report = tmp_path / "report"
    assert {path.name for path in report.iterdir()} == {"tables.md", "curves.png", "differences.png"}
    tables = (report / "tables.md").read_text()
    assert "backbone random" in tables
    assert "no text (control)" in tables and "| frozen, adapter on | 4 |" in tables


@pytest.mark.parametrize(
    "only",
    [
        "task=depth,regime=frozen,tokens=many",
        "task=segment,regime=full,maps=detached",
        "task=segment,regime=frozen,maps=off",
        "task=segment,regime=frozen,prompt=shuffled",
        "task=refer,regime=frozen,adapter=on,prompt=null",
        "task=refer,regime=gentle,prompt=null",
        "task=depth,regime=full,latents=unscaled",
    ],
)
def test_every_factor_runs(command, four_labels, tmp_path, only):
    results = tmp_path / "results.jsonl"
    command("run", results, f"--only={only}", "--full-batch-size=2")
    runs = [line for line in lines_of(results).values() if not line["trial"]]
    assert len(runs) == 1
    assert np.isfinite(runs[0]["score"])


def test_time_that_is_up_stops_before_the_next_run(command, four_labels, tmp_path, capsys):
    command("run", tmp_path / "results.jsonl", "--minutes=0")
    assert not (tmp_path / "results.jsonl").exists()
    assert "Time is up" in capsys.readouterr().out


def test_rows_survive_packing():
    rows = torch.tensor([[1.0, 4096.0, 0.125], [3.0, 5.0, 7.0]], dtype=torch.float64)
    assert torch.equal(unpack_rows(pack_rows(rows)), rows)


def test_steps_to_a_target_lie_between_those_that_were_measured():
    steps, values = np.array([10.0, 20.0, 40.0]), np.array([0.1, 0.3, 0.5])
    assert steps_to(steps, values, 0.4, is_error=False) == pytest.approx(30)
    assert steps_to(steps, values, 0.05, is_error=False) == 10
    assert steps_to(steps, values, 0.6, is_error=False) is None
    assert steps_to(steps, 1 - values, 0.6, is_error=True) == pytest.approx(30)


def test_best_rate_is_the_least_error_or_the_largest_share():
    trials = [{"rate": 1e-3, "score": None}, {"rate": 3e-3, "score": 0.5}, {"rate": 1e-2, "score": 0.7}]
    assert best_rate([{"task": "depth", **trial} for trial in trials]) == 3e-3
    assert best_rate([{"task": "refer", **trial} for trial in trials]) == 1e-2


def test_each_arm_differs_from_the_papers_model_in_one_factor_or_reads_nothing():
    for arm in (arm for group in tiers() for arm in group):
        changed = arm.changed()
        assert len(changed) <= 1 or set(changed) in ({"backbone", "prompt"}, {"adapter", "prompt"})


def test_the_random_backbone_is_the_shipped_one_before_its_training(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["claims.py", "random", str(tmp_path / "random")])
    claims.main()
    shipped = shipped_diffusion()
    sources = Sources({"text": str(shipped), "random": str(tmp_path / "random")})  # checks that the VAE is the same
    assert sources.weights("random") != sources.weights("text")
    unets = [json.loads((folder / "unet" / "config.json").read_text()) for folder in (shipped, tmp_path / "random")]
    assert unets[0].pop("_name_or_path", None) == unets[1].pop("_name_or_path", None) and unets[0] == unets[1]
    with pytest.raises(SystemExit, match="2"):
        claims.main()
    assert "random holds a model (model_index.json)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbone=text"], "text: give NAME=FOLDER"),
        (["--backbone=text=world", "--backbone=text=world"], "each name once"),
        (["--backbone=text=no/where/at/all"], "There is no no/where/at/all"),
        (["--backbone=random=world"], "give its folder"),
        (["--backbone=txet=world"], "Unknown backbones: txet. Known: text, random"),
        (["--backbone=text=world", "--only=task=refr"], "--only task=refr: no arm"),
        (["--backbone=text=world", "--only=colour=red"], "Unknown fields: colour"),
    ],
)
def test_wrong_backbones_and_arms_are_told(monkeypatch, tmp_path, capsys, words, message):
    monkeypatch.setattr(sys, "argv", ["claims.py", "plan", str(tmp_path / "runs.jsonl"), *words])
    with pytest.raises(SystemExit, match="2"):
        claims.main()
    assert message in capsys.readouterr().err


def test_a_folder_without_weights_has_no_hash(tmp_path):
    with pytest.raises(UsageError, match=r"unet holds no \*\.safetensors"):
        weights_hash(tmp_path, "unet")
