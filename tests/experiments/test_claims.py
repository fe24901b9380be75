"""The experiments on the paper's claims, a few steps on a few scenes: `experiments/claims.py`."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from experiments import claims, claims_arms, claims_control, claims_curves, claims_report, claims_runs, claims_verdicts
from experiments.claims_arms import Arm, paper_model, tiers
from experiments.claims_control import write_control
from experiments.claims_curves import steps_to
from experiments.claims_models import Sources, exchanged, weights_hash
from experiments.claims_results import metric_of, pack_rows, score_of, unpack_rows
from experiments.claims_runs import best_rate
from experiments.claims_scenes import NAMES, WITHHELD, Scenes
from experiments.claims_verdicts import verdict
from experiments.diffusion import new_run
from experiments.miniature import write_diffusion_folder
from experiments.paired_intervals import Difference
from vpd.errors import UsageError
from vpd.weights.shipped import shipped_diffusion

pytestmark = pytest.mark.extras
PAGE = "<!-- verdicts -->\nold\n<!-- end -->\nkept\n<!-- runs -->\n<!-- end -->\n<!-- progress -->\n<!-- end -->\n"


@pytest.fixture(scope="module", autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def four_labels(monkeypatch):
    for module in (claims_arms, claims_report, claims_runs, claims_curves, claims_verdicts):
        monkeypatch.setattr(module, "LABELS", (4,))


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    return [
        f"--backbone={name}={write_diffusion_folder(folder / name, unet_channels=(16,) * 4, text_dim=16, seed=seed)}"
        for seed, name in enumerate(("text", "random", "unconditional"))
    ]


@pytest.fixture
def command(monkeypatch, backbones):
    def call(name, results, *options):
        if name != "report":
            options = (
                *backbones,
                "--length=0.02",
                "--size=64",
                "--seeds=1",
                "--test-scenes=4",
                "--batch-size=4",
                *options,
            )
        monkeypatch.setattr(sys, "argv", ["claims.py", name, str(results), *options])
        claims.main()

    return call


def lines_of(path):
    return {line["key"]: line for line in map(json.loads, path.read_text().splitlines())}


def without_times(line):
    return {name: value for name, value in line.items() if name != "cpu_s"}


def test_runs_repeat_resume_and_make_a_report(command, four_labels, tmp_path, capsys):
    results, again, page = tmp_path / "results.jsonl", tmp_path / "again.jsonl", tmp_path / "page.md"
    only = "--only=task=segment,regime=frozen"
    command("run", results, only)
    whole = results.read_text()
    assert len(lines_of(results)) == 12  # of three backbones: two trials and a run; maps off, published; empty text
    command("run", results, only)
    assert results.read_text() == whole

    page.write_text(PAGE)
    report = tmp_path / "report"
    command("report", results, "--out", str(report), "--page", str(page))
    assert {path.name for path in report.iterdir()} == {"tables.md", "curves.png", "runs.jsonl.xz"}
    tables = (report / "tables.md").read_text()
    assert "| frozen | 4 | random weights | " in tables and "exchanged in the test" in tables
    text = page.read_text()
    assert "old" not in text and "kept" in text and "**pre-trained features beat random ones**" in text
    assert "6 runs and 6 trials of rates" in text and "| frozen, 4 | 0 of 18 | 6 of 18 |" in text

    kept = [json.loads(line) for line in whole.splitlines()][:6]
    claims_report.write_packed(tmp_path / "begun.xz", kept)
    command("run", again, only, "--from", str(tmp_path / "begun.xz"))
    assert {key: without_times(line) for key, line in lines_of(again).items()} == {
        key: without_times(line) for key, line in lines_of(results).items()
    }
    command("plan", results, only)
    assert "12 planned, 0 left" in capsys.readouterr().out
    command("report", report / "runs.jsonl.xz", "--out", str(tmp_path / "second"))
    assert (tmp_path / "second" / "tables.md").read_text() == tables


@pytest.mark.parametrize(
    "only",
    [
        "task=depth,regime=frozen,prompt=null,backbone=text",
        "task=segment,regime=frozen,backbone=unconditional",
        "task=colours,regime=frozen,maps=off",
        "task=open,regime=frozen,prompt=exchanged",
        "task=open,regime=frozen,maps=off",
        "task=refer,regime=frozen,backbone=random",
        "task=refer,regime=adapter,prompt=null",
        "task=refer,regime=adapter,adapter=off",
        "task=refer,regime=full,prompt=null",
        "task=refer,regime=frozen,maps=published",
        "task=depth,regime=full,adapter=off",
    ],
)
def test_every_factor_runs(command, four_labels, tmp_path, only):
    results = tmp_path / "results.jsonl"
    command("run", results, f"--only={only}", "--full-batch-size=2")
    runs = [line for line in lines_of(results).values() if not line["trial"]]
    assert len(runs) == 1
    rows = unpack_rows(runs[0]["task"], runs[0]["rows"])
    assert score_of(runs[0]["task"], rows) == pytest.approx(runs[0]["score"], abs=1e-4, nan_ok=True)


def test_maps_that_are_off_share_what_is_computed(backbones):
    sources = Sources(dict(word.removeprefix("--backbone=").split("=", 1) for word in backbones))
    base = paper_model("segment", 4, "frozen")
    on, off = (sources.backbone(arm) for arm in (base, claims_arms.replace(base, maps="off")))
    text = torch.zeros(1, 3, 16)
    with_maps, without = on(torch.zeros(1, 3, 32, 32), text), off(torch.zeros(1, 3, 32, 32), text)
    assert off.kept.misses == 1 and off.attention_strides == () == tuple(without.attention)
    assert with_maps.attention and torch.equal(with_maps.maps[0], without.maps[0])


def test_names_of_colours_and_shapes_that_have_no_label():
    scenes = Scenes(32, {"train": 12, "val": 2, "test": 12})
    assert len(NAMES) == 35 and len(WITHHELD) == 8
    train, test = (scenes.get("open", split, 0) for split in ("train", "test"))
    assert not set(train.batch.labels.unique().tolist()) & set(WITHHELD)
    assert 255 in train.batch.labels and 255 not in test.batch.labels
    everything = scenes.get("colours", "train", 0).batch.labels
    assert set(everything[train.batch.labels == 255].unique().tolist()) <= set(WITHHELD)
    shapes = scenes.get("segment", "test", 0)
    assert torch.equal(shapes.batch.labels.clamp(max=3), test.batch.labels.clamp(max=3))
    assert (shapes.batch.labels[shapes.small] >= 3).all()  # of objects only
    assert 0 < shapes.small.float().mean() < 0.1
    assert sorted(exchanged(NAMES)) == sorted(NAMES) and exchanged(NAMES)[:3] == NAMES[:3]


def test_time_that_is_up_stops_before_the_next_run(command, four_labels, tmp_path, capsys):
    command("run", tmp_path / "results.jsonl", "--minutes=0")
    assert not (tmp_path / "results.jsonl").exists()
    assert "Time is up" in capsys.readouterr().out


def test_rows_survive_packing():
    labels = torch.tensor([[3, 4], [0, 255]])
    for task in ("segment", "colours"):
        rows = torch.stack([metric_of(task).row(torch.tensor([[3, 5], [0, 0]]), labels)] * 2)
        assert torch.equal(unpack_rows(task, pack_rows(task, rows)), rows.double())
    masks = torch.stack([metric_of("refer").row(torch.ones(2, 2), torch.tensor([[1, 0], [0, 0]]))])
    assert score_of("refer", unpack_rows("refer", pack_rows("refer", masks))) == 0.25


def test_a_verdict_needs_an_interval_without_zero_on_the_right_side():
    better, unclear, worse = Difference(2, 1, 3), Difference(0, -1, 1), Difference(-2, -3, -1)
    assert verdict("refer", [(3, better), (3, better)]) == "holds"
    assert verdict("refer", [(3, better), (3, unclear)]) == "holds (256 labels); not seen (64 labels)"
    assert verdict("refer", [(3, unclear), (1, unclear)]) == "not seen¹"
    assert verdict("depth", [(3, worse), None]) == "holds (256 labels)"  # less is better
    assert verdict("depth", [(2, better), (2, better)]) == "the opposite"
    assert verdict("refer", [(3, Difference(0.002, 0.001, 0.003)), None]) == "not seen (256 labels)"  # sure, and tiny


def test_runs_of_other_experiments_are_refused(tmp_path, monkeypatch, capsys):
    arm = Arm("depth", 64, "frozen")
    line = {**vars(arm), "seed": 0, "trial": False, "key": f"{arm.name},latents=unscaled,seed=0 200x16"}
    (tmp_path / "runs.jsonl").write_text(json.dumps(line))
    monkeypatch.setattr(sys, "argv", ["claims.py", "report", str(tmp_path / "runs.jsonl"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        claims.main()
    assert "factors that are unknown here" in capsys.readouterr().err


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
        assert len(changed) <= 1 or (arm.backbone == "unconditional" and set(changed) == {"backbone", "prompt"})


def test_the_random_backbone_is_the_shipped_one_before_its_training(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["claims.py", "random", str(tmp_path / "random")])
    claims.main()
    shipped = shipped_diffusion()
    sources = Sources({"text": str(shipped), "random": str(tmp_path / "random")})  # checks that the VAE is the same
    assert sources.weights("random") != sources.weights("text")
    unets = [json.loads((folder / "unet" / "config.json").read_text()) for folder in (shipped, tmp_path / "random")]
    for unet in unets:
        for name in ("_name_or_path", "sample_size"):  # where it lay, and on what latents it was trained
            unet.pop(name, None)
    assert unets[0] == unets[1]
    with pytest.raises(SystemExit, match="2"):
        claims.main()
    assert "random holds a model (model_index.json)" in capsys.readouterr().err


def test_a_control_is_put_together_and_reads_something_better_than_at_the_start(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(claims_control, "SCENES", 16)
    monkeypatch.setattr(claims_control, "CHECKED", 4)
    state = new_run("unconditional", seed=3, data="", size_px=32).unet.state_dict()
    names = sorted(state)
    for half in (0, 1):
        save_file({name: state[name].half() for name in names[half::2]}, tmp_path / f"{half}.safetensors")
    halves = [tmp_path / f"{half}.safetensors" for half in (0, 1)]
    write_control(tmp_path / "control", halves, steps=3, size_px=32)
    before, after = map(float, re.findall(r"t = 400: (\S+) before, (\S+) after", capsys.readouterr().out)[0])
    assert after < before
    kept = UNet2DConditionModel.from_pretrained(tmp_path / "control" / "unet").state_dict()
    assert all(torch.equal(kept[name], state[name].half().float()) for name in names)
    with pytest.raises(UsageError, match="not the weights of such a UNet"):
        write_control(tmp_path / "other", halves[:1], steps=1, size_px=32)


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
        weights_hash(tmp_path / "unet")
