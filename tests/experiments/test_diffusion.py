"""`pretrain.py render` and `diffusion` and their parts: scenes, losses by hand, resumed runs, the folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import descendants, is_running, wait_until
from safetensors.torch import load_file, save_file

from experiments import diffusion as diffusion_pretraining
from experiments import diffusion_training, pretrain, scenes
from experiments.autoencoder import load_autoencoder
from experiments.captions import caption
from experiments.diffusion import CHECKPOINT, LOG, pretrain_diffusion
from experiments.diffusion_training import masked_loss, noise_loss, rate_at
from experiments.gauges import attention_ratio, follows, text_gap
from experiments.scenes import SceneSet, encode, prepare_scenes
from vpd import StableDiffusionBackbone
from vpd.data.geometric import mirror_text
from vpd.demo.samples import noise_schedule, sample_latents, to_pictures
from vpd.errors import UsageError
from vpd.pretraining.pictures import to_batch
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.tokenizer import clip_tokenizer
from vpd.training import muon
from vpd.world.dataset import split_seed
from vpd.world.render import render
from vpd.world.sample_scene import sample_scene

pytestmark = pytest.mark.extras

ROOT = Path(__file__).parents[2]
TINY = {"unet_channels": (8, 16, 16, 16), "unet_heads": (1, 2, 2, 2), "layers_per_block": 1}
TINY |= {"text_dim": 16, "text_layers": 1, "heads": 2}
RUN = {"steps": 5, "batch_size": 3, "device": "cpu"}
SCENES = {"count": 4, "size_px": 32, "device": "cpu"}


def make_small(patch):
    patch.setattr(scenes, "SCENES_PER_SHARD", 4)
    patch.setattr(scenes, "ENCODED_AT_A_TIME", 3)
    patch.setattr(diffusion_pretraining, "NETWORKS", TINY)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    make_small(monkeypatch)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        for split in ("val", "train"):
            assert prepare_scenes(folder, split=split, **SCENES) == 4
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, store):
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        out = tmp_path_factory.mktemp("finished")
        return out, pretrain_diffusion(out, store, **RUN)


def test_latents_and_tokens_are_those_of_picture_and_mirror_image(store):
    data = SceneSet.read(store, "train")
    assert data.latents.shape == (4, 2, 4, 8, 8) and data.tokens.shape == (4, 2, 4, 77)
    rendering = render(sample_scene(split_seed(0, "train"), 1), 32)
    expected = encode(load_autoencoder(None), to_batch([rendering.image, rendering.image[:, ::-1]]))
    torch.testing.assert_close(data.latents[1].float(), expected, atol=5e-3, rtol=0)
    text = caption(rendering)
    for tokens, words in zip(data.tokens[1, :, 0], (text, mirror_text(text)), strict=True):
        assert tokens[: data.longest(slice(0, 1))].tolist() == padded(words, data.longest(slice(0, 1)))
    assert mirror_text(text) != text
    assert data.longest(slice(1, None)) < data.longest(slice(None)) <= 77


def padded(text, length):
    return clip_tokenizer()(text, padding="max_length", truncation=True, max_length=length).input_ids


def test_scenes_that_are_there_are_kept(store, monkeypatch):
    monkeypatch.setattr(scenes, "render", lambda *_: pytest.fail("rendered again"))
    assert prepare_scenes(store, split="train", **SCENES) == 4
    with pytest.raises(UsageError, match=r"holds scenes of 32 px and seed 0, not of 64 px and seed 0"):
        prepare_scenes(store, split="train", **{**SCENES, "size_px": 64})


def test_processes_render_what_this_one_does(tmp_path):
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        assert prepare_scenes(folder, split="test", seed=5, workers=workers, **{**SCENES, "count": 8}) == 8
    one, two = (SceneSet.read(tmp_path / name, "test") for name in "12")
    assert torch.equal(one.latents, two.latents) and torch.equal(one.tokens, two.tokens) and one.mark == two.mark


def test_time_that_is_over_leaves_scenes_for_later(tmp_path, monkeypatch):
    asked, began = {**SCENES, "count": 12}, time.monotonic()
    # the first shard is late, so no other is begun
    there = prepare_scenes(
        tmp_path,
        split="train",
        seconds=30,
        on_shard=lambda *_: monkeypatch.setattr(scenes.time, "monotonic", lambda: began + 3600),
        **asked,
    )
    monkeypatch.undo()
    make_small(monkeypatch)
    assert there == len(SceneSet.read(tmp_path, "train")) == 4
    assert prepare_scenes(tmp_path, split="train", **asked) == 12


def test_draws_are_of_the_kinds_that_were_asked_for(store):
    data = SceneSet.read(store, "train")
    empty = padded("", 77)

    def drawn(**shares):
        latents, tokens = data.draw(torch.Generator().manual_seed(0), 200, length=77, **shares)
        return latents, tokens.tolist()

    latents, tokens = drawn(short=0.0, empty=0.25)
    assert 30 < tokens.count(empty) < 70
    sides = [0, 0]
    for latent, words in zip(latents, tokens, strict=True):
        place, side = next((p, s) for p in range(4) for s in (0, 1) if torch.equal(data.latents[p, s].float(), latent))
        sides[side] += 1
        assert words in (empty, data.tokens[place, side, 0].tolist())
    assert min(sides) > 70
    short = {tuple(words) for words in data.tokens[:, :, 1:].flatten(0, 2).tolist()}
    _, tokens = drawn(short=1.0, empty=0.0)
    assert {tuple(words) for words in tokens} <= short and empty not in tokens
    _, tokens = drawn(short=0.25, empty=0.0)
    assert 30 < sum(tuple(words) in short for words in tokens) < 70


def test_every_fourth_step_has_short_texts_only(store, monkeypatch):
    data, asked = SceneSet.read(store, "train"), []
    draw = SceneSet.draw

    def listening(self, *given, **shares):
        asked.append(shares)
        return draw(self, *given, **shares)

    monkeypatch.setattr(SceneSet, "draw", listening)
    run = diffusion_pretraining.new_run("text", seed=0, data="", size_px=32)
    run.limit = 4
    diffusion_training.train_diffusion(run, data, batch_size=2)
    long, short = data.longest(slice(None)), data.longest(slice(1, None))
    assert [shares["length"] for shares in asked] == [long, long, long, short]
    assert [shares["short"] for shares in asked] == [0.25, 0.25, 0.25, 1.0]


def test_scenes_that_are_missing_damaged_or_mixed(tmp_path, store):
    with pytest.raises(UsageError, match=r"holds no train scenes\. Render them: .*pretrain\.py render --out"):
        SceneSet.read(tmp_path, "train")
    for contents in (b"nothing", None):
        path = tmp_path / "train-00000.safetensors"
        path.write_bytes(contents) if contents else save_file({"latents": torch.zeros(1)}, path)
        with pytest.raises(UsageError, match=r"train-00000\.safetensors is damaged .* Remove it and render"):
            SceneSet.read(tmp_path, "train")
    tensors = load_file(store / "train-00000.safetensors")
    for number in (0, 1):
        kind = {"size_px": "32", "seed": str(number)}
        save_file(tensors, tmp_path / f"train-0000{number}.safetensors", metadata=kind)
    with pytest.raises(UsageError, match=r"are of different sizes or seeds"):
        SceneSet.read(tmp_path, "train")


class Perfect(torch.nn.Module):
    """A network that answers what it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, noisy, timesteps, text_embeds):
        return type("Output", (), {"sample": self.answer(noisy, timesteps)})()


def test_noise_loss_by_hand():
    alpha_bars = noise_schedule().alphas_cumprod
    latents_, words = torch.randn(3, 4, 8, 8), torch.zeros(3, 2, 16)
    timesteps = torch.tensor([10, 500, 999])
    level = alpha_bars[timesteps][:, None, None, None]
    finds_noise = Perfect(lambda noisy, _: (noisy - level.sqrt() * latents_) / (1 - level).sqrt())
    loss = noise_loss(finds_noise, latents_, words, alpha_bars, torch.Generator().manual_seed(0), timesteps)
    assert loss.abs().max() < 1e-6
    silent = Perfect(lambda noisy, _: torch.zeros_like(noisy))
    loss = noise_loss(silent, latents_, words, alpha_bars, torch.Generator().manual_seed(0), timesteps)
    noise = torch.randn(latents_.shape, generator=torch.Generator().manual_seed(0)).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss, noise * torch.stack([1 / alpha_bars[10], 1 / alpha_bars[500], torch.tensor(8.0)]))


def test_timesteps_are_spread_over_the_schedule():
    seen = []
    listens = Perfect(lambda noisy, timesteps: seen.append(timesteps) or noisy)
    alpha_bars = noise_schedule().alphas_cumprod
    noise_loss(listens, torch.randn(10, 4, 8, 8), torch.zeros(10, 2, 16), alpha_bars, torch.Generator().manual_seed(3))
    assert sorted((seen[0] // 100).tolist()) == list(range(10))


def test_masked_loss_counts_what_was_hidden():
    truth = torch.ones(2, 4, 8, 8)
    given = []
    copies = Perfect(lambda masked, _: given.append(masked) or masked)
    assert masked_loss(copies, truth, torch.zeros(2, 2, 16), torch.Generator().manual_seed(0)) == pytest.approx(1.0)
    assert 0.2 < float(given[0].mean()) < 0.6
    patches = given[0].unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert torch.equal(patches.amin(-1), patches.amax(-1))
    answers = Perfect(lambda masked, _: torch.ones_like(masked))
    assert masked_loss(answers, truth, torch.zeros(2, 2, 16), torch.Generator().manual_seed(0)) == 0


def test_rate_rises_stays_and_falls():
    rates = [rate_at(step, 1000) for step in (0, 149, 500, 600, 800, 999)]
    assert rates == pytest.approx([1 / 150, 1, 1, 1, 0.5, 0.0025])
    assert rate_at(500, 1000) == rate_at(500, 2000) == rate_at(500, None)  # while it stays, the end may be moved


def test_the_folder_loads_and_the_log_tells_of_the_run(finished):
    out, report = finished
    assert report.steps == 5 and report.stopped_by is None
    assert set(report.text_gap) == set(report.noise_errors) == {100, 400, 550, 700, 850}
    assert not (out / CHECKPOINT).exists()
    features = StableDiffusionBackbone.from_pretrained(out)(torch.zeros(1, 3, 64, 64), torch.zeros(1, 2, 16))
    assert set(features.attention) == {8, 16}
    assert TextEncoder.from_pretrained(out).tokens(["the red cube"], length=8).shape == (1, 8, 16)
    begun, first, last, end = lines_of(out)
    assert "4 train scenes at 32 px, seed 0" in begun["data"] and begun["objective"] == "text"
    assert [(line["step"], line["of"]) for line in (first, last)] == [(1, 5), (5, 5)]
    assert end["trained"] == 5 and end["pictures"] == 15
    assert end["text_gap"] == {str(timestep): gap for timestep, gap in report.text_gap.items()}


def lines_of(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_training_moves_unet_and_text_encoder(finished):
    out, _ = finished
    run = diffusion_pretraining.new_run("text", seed=0, data="", size_px=32)
    for part, model in (("unet", run.unet), ("text_encoder", run.text_encoder.model)):
        file = next((out / part).glob("*.safetensors"))
        moved = [not torch.equal(tensor, load_file(file)[name]) for name, tensor in model.state_dict().items()]
        assert sum(moved) > 0.9 * len(moved)


def stop_at(step):
    def stop(run, _):
        if run.step == step:
            signal.raise_signal(signal.SIGTERM)

    return stop


def assert_same_weights(one, two):
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        whole, resumed = (load_file(folder / f"{part}.safetensors") for folder in (one, two))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("objective", ["text", "unconditional", "masked"])
def test_stopped_run_resumes_to_the_same_weights(tmp_path, store, objective):
    given = {**RUN, "scenes": store, "objective": objective}
    other = "text" if objective == "unconditional" else "unconditional"
    pretrain_diffusion(tmp_path / "whole", **given)
    report = pretrain_diffusion(tmp_path / "part", on_step=stop_at(2), **given)
    assert (report.steps, report.stopped_by) == (2, signal.SIGTERM)
    with pytest.raises(UsageError, match=r"holds an unfinished run\. Go on with it by --resume"):
        pretrain_diffusion(tmp_path / "part", **given)
    with pytest.raises(UsageError, match=rf"is of a run with objective {objective}, not {other}"):
        pretrain_diffusion(tmp_path / "part", resume=True, **{**given, "objective": other})
    with pytest.raises(UsageError, match=r"is of a run with data .* 3 a step, not .* 4 a step"):
        pretrain_diffusion(tmp_path / "part", resume=True, **{**given, "batch_size": 4})
    with pytest.raises(UsageError, match=r"has done 2 steps, more than steps=1\. Give more, or none"):
        pretrain_diffusion(tmp_path / "part", resume=True, **{**given, "steps": 1})
    pretrain_diffusion(tmp_path / "part", resume=True, **{**given, "steps": None})  # as many as it was begun with
    assert_same_weights(tmp_path / "whole", tmp_path / "part")
    assert [line["step"] for line in lines_of(tmp_path / "part") if "step" in line] == [1, 5]


def test_the_layout_and_steps_of_gpus_are_saved_and_resumed(tmp_path, store, finished, monkeypatch):
    """Channels-last weights, kernels moved together: on a GPU, nothing else would notice that they cannot be saved."""
    monkeypatch.setattr(muon, "_at_once", lambda _: 99)
    begin = diffusion_training.DiffusionRun.__post_init__

    def as_on_a_gpu(run):
        run.unet.to(memory_format=torch.channels_last)
        begin(run)

    monkeypatch.setattr(diffusion_training.DiffusionRun, "__post_init__", as_on_a_gpu)
    assert pretrain_diffusion(tmp_path, store, on_step=stop_at(2), **RUN).steps == 2
    assert pretrain_diffusion(tmp_path, store, resume=True, **RUN).steps == RUN["steps"]
    start = diffusion_pretraining.new_run("text", seed=0, data="", size_px=32).unet.state_dict()
    name = "unet/diffusion_pytorch_model.safetensors"
    expected, got = load_file(finished[0] / name), load_file(tmp_path / name)
    moved, off = (sum((one[key] - expected[key]).square().sum() for key in start) for one in (start, got))
    assert off.sqrt() < 0.5 * moved.sqrt()  # first steps but for rounding in bfloat16; steps astray are over 1 off


def test_controls_learn_from_the_same_pictures_and_noise(store, monkeypatch):
    data, seen = SceneSet.read(store, "train"), []

    def listening(run, latents, tokens, generator):
        seen.append((latents, generator.get_state()))
        return torch.zeros(())

    monkeypatch.setattr(diffusion_training, "_move", listening)
    for objective in ("text", "unconditional"):
        run = diffusion_pretraining.new_run(objective, seed=0, data="", size_px=32)
        run.limit = 2
        diffusion_training.train_diffusion(run, data, batch_size=2)
    for with_text, without in zip(seen[:2], seen[2:], strict=True):
        assert all(map(torch.equal, with_text, without))


def test_a_run_of_seconds_finds_its_number_of_steps(tmp_path, store, monkeypatch):
    monkeypatch.setattr(diffusion_training, "SETTLING_STEPS", 1)
    monkeypatch.setattr(diffusion_training, "TIMED_STEPS", 2)
    monkeypatch.setattr(diffusion_training, "LEAST_STEPS", 3)
    given = {**RUN, "scenes": store, "steps": None}
    report = pretrain_diffusion(tmp_path / "short", seconds=1e-3, **given)
    assert report.steps == 3 + 3 and lines_of(tmp_path / "short")[-2]["of"] == 6
    report = pretrain_diffusion(tmp_path / "long", seconds=1000, on_step=stop_at(4), **given)
    assert report.steps == 4
    run = diffusion_pretraining.new_run("text", seed=0, data=lines_of(tmp_path / "long")[0]["data"], size_px=32)
    run.restore(tmp_path / "long" / CHECKPOINT)
    assert run.limit > 100 and run.budget_s == 1000
    report = pretrain_diffusion(tmp_path / "long", resume=True, **{**given, "steps": 6})
    assert report.steps == 6


def test_a_run_of_seconds_stopped_early_goes_on_with_them(tmp_path, store, monkeypatch):
    monkeypatch.setattr(diffusion_training, "LEAST_STEPS", 1)
    given = {**RUN, "scenes": store, "steps": None}
    report = pretrain_diffusion(tmp_path, seconds=1e-3, on_step=stop_at(2), **given)
    assert report.steps == 2
    monkeypatch.setattr(diffusion_training, "SETTLING_STEPS", 1)
    monkeypatch.setattr(diffusion_training, "TIMED_STEPS", 1)
    assert pretrain_diffusion(tmp_path, resume=True, **given).steps == 2 + 2 + 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 5}, r"5 scenes: give a multiple of 4"),
        ({"size_px": 40}, r"Pictures of 40 px: give a multiple of 32"),
        ({"workers": 0}, r"workers=0: at least one"),
    ],
)
def test_wrong_numbers_of_scenes(tmp_path, wrong, message):
    with pytest.raises(UsageError, match=message):
        prepare_scenes(tmp_path / "out", split="train", **{**SCENES, **wrong})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, r"steps=0, seconds=None: give one of them, and more than 0"),
        ({"seconds": 3}, r"steps=5, seconds=3: give one of them"),
        ({"steps": None, "seconds": -1}, r"seconds=-1: give one of them, and more than 0"),
        ({"batch_size": 0}, r"batch_size=0: it must be more than 0"),
    ],
)
def test_wrong_numbers(tmp_path, store, wrong, message):
    with pytest.raises(UsageError, match=message):
        pretrain_diffusion(tmp_path / "out", store, **{**RUN, **wrong})


def test_gauges_of_a_network_that_knows_nothing(store):
    run = diffusion_pretraining.new_run("text", seed=1, data="", size_px=32)
    errors, gaps = text_gap(run.unet.eval(), run.text_encoder, noise_schedule(), SceneSet.read(store, "val"))
    assert min(errors.values()) > 0.5
    assert all(abs(gap) < 0.05 for gap in gaps.values())
    vae = load_autoencoder(None)
    renderings = [render(sample_scene(3, index), 32) for index in range(3)]
    ratios = attention_ratio(run.unet, run.text_encoder, vae, renderings)
    assert set(ratios) == {1, 2} and all(0.8 < ratio < 1.2 for ratio in ratios.values())
    sampled = sample_latents(run.unet, run.text_encoder, noise_schedule(), ["a red cube", ""], steps=2, side=8)
    pictures = to_pictures(vae, sampled)
    assert sampled.shape == (2, 4, 8, 8) and pictures[0].shape == (32, 32, 3) and pictures[0].dtype == np.uint8
    again = sample_latents(run.unet, run.text_encoder, noise_schedule(), ["a red cube", ""], steps=2, side=8)
    assert torch.equal(sampled, again)


def test_guidance_makes_the_text_count():
    run = diffusion_pretraining.new_run("text", seed=1, data="", size_px=32)
    texts = ["a red cube", ""]
    plain, guided = (
        sample_latents(run.unet, run.text_encoder, noise_schedule(), texts, steps=1, side=8, guidance=guidance)
        for guidance in (0.0, 4.0)
    )
    assert not torch.allclose(plain[0], guided[0]) and torch.allclose(plain[1], guided[1], atol=1e-5)


def test_follows_by_hand():
    picture = np.full((8, 8, 3), 128, dtype=np.uint8)
    picture[2:6, 2:6] = (200, 20, 20)
    labels = np.zeros((8, 8), dtype=np.int64)
    labels[2:6, 2:6] = 4  # cube
    assert follows("red", "cube", picture, labels, label=3) == (True, True)
    assert follows("red", "cone", picture, labels, label=3) == (True, False)
    assert follows("blue", "cube", picture, labels, label=3) == (False, True)
    assert follows("red", "cube", picture, np.zeros_like(labels), label=3) == (False, False)


def test_the_whole_recipe_by_its_commands(tmp_path, capsys):
    """Render, train with text and, as many steps, without, load both."""
    stored = tmp_path / "scenes"
    call(f"render --out {stored} --count 8 --val 4 --size 32 --workers 1 --device cpu")
    assert "8 of 8 train scenes are in" in capsys.readouterr().out
    call(f"diffusion --scenes {stored} --out {tmp_path / 'text'} --steps 2 --batch 2 --device cpu")
    printed = capsys.readouterr().out
    assert "Trained: 2 steps in" in printed and "captions of other pictures" in printed
    assert "step 2, 100% done: loss " in printed  # nobody watches a terminal
    control = f"--out {tmp_path / 'control'} --objective unconditional"
    call(f"diffusion --scenes {stored} {control} --steps 2 --batch 2 --device cpu")
    assert "captions of other pictures" not in capsys.readouterr().out
    errors = [set(lines_of(tmp_path / name)[-1]["noise_errors"]) for name in ("text", "control")]
    assert errors[0] == errors[1] != set()
    for name in ("text", "control"):
        assert StableDiffusionBackbone.from_pretrained(tmp_path / name).text_dim == 16
    call(f"diffusion --scenes {stored} --out {tmp_path / 'other'} --steps 0", status=2)


def call(line, status=0):
    with pytest.raises(SystemExit, match=f"^{status}$"):
        pretrain.main(line.split())


def test_ctrl_c_while_scenes_are_rendered_says_what_becomes_of_them(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scenes, "render", interrupt)
    call(f"render --out {tmp_path / 'out'} --count 4 --val 4 --size 32 --workers 1 --device cpu", status=130)
    assert "Stopped. What is saved stays; go on by the same command." in capsys.readouterr().out


def test_a_run_interrupted_after_its_last_step_loses_none(tmp_path, store, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(diffusion_pretraining, "text_gap", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pretrain_diffusion(tmp_path, store, **RUN)
    report = pretrain_diffusion(
        tmp_path, store, resume=True, **RUN, on_step=lambda *_: pytest.fail("a step was made again")
    )
    assert report.steps == RUN["steps"] and not (tmp_path / CHECKPOINT).exists()


def test_processes_that_render_end_at_once(tmp_path):
    program = f"""
from experiments.scenes import prepare_scenes
if __name__ == "__main__":
    prepare_scenes({str(tmp_path / "scenes")!r}, split="train", count=4000, size_px=128, workers=2)
"""
    (tmp_path / "program.py").write_text(program)
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, tmp_path / "program.py"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | paths)
    try:
        # with the tracker of their resources
        wait_until(lambda: len(descendants(running.pid)) >= 3, "no processes to render came", running=running)
        renderers = descendants(running.pid)
        running.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in running.communicate(timeout=30)[1]
        deadline = time.monotonic() + 10  # a shard takes longer
        while any(map(is_running, renderers)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        running.kill()
