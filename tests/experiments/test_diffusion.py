"""`pretrain.py diffusion` and its parts: latents with true captions, losses by hand, resumed runs, the folder."""

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
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from experiments import diffusion as diffusion_pretraining
from experiments import latents, pretrain
from experiments.autoencoder import load_autoencoder
from experiments.captions import caption
from experiments.diffusion import CHECKPOINT, pretrain_diffusion
from experiments.diffusion_training import embed_texts, masked_loss, noise_loss, rate_at
from experiments.gauges import attention_ratio, follows, text_gap
from experiments.latents import LatentSet, encode, prepare_latents
from vpd import StableDiffusionBackbone
from vpd.demo.samples import noise_schedule, sample_latents, to_pictures
from vpd.errors import UsageError
from vpd.pretraining.pictures import to_batch
from vpd.prompts.encoder import TextEncoder
from vpd.world.render import render
from vpd.world.sample_scene import sample_scene

pytestmark = pytest.mark.extras

ROOT = Path(__file__).parents[2]
TINY = {"unet_channels": (8, 16, 16, 16), "unet_heads": (1, 2, 2, 2), "layers_per_block": 1}
TINY |= {"text_dim": 16, "text_layers": 1, "heads": 2}
RUN = {"scenes": 4, "steps": 4, "batch_size": 3, "size_px": 32, "workers": 1, "device": "cpu"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(latents, "SCENES_PER_SHARD", 4)
    monkeypatch.setattr(latents, "ENCODED_AT_A_TIME", 3)
    monkeypatch.setattr(diffusion_pretraining, "SCENES_PER_SHARD", 4)
    monkeypatch.setattr(diffusion_pretraining, "NETWORKS", TINY)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("latents")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, store):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "SCENES_PER_SHARD", 4)
        patch.setattr(latents, "ENCODED_AT_A_TIME", 2)
        patch.setattr(diffusion_pretraining, "SCENES_PER_SHARD", 4)
        patch.setattr(diffusion_pretraining, "NETWORKS", TINY)
        out = tmp_path_factory.mktemp("finished")
        return out, pretrain_diffusion(out, latents=store, **RUN)


def test_latents_are_those_of_picture_and_mirror_image(store):
    (path,) = prepare_latents(store, scenes=4, seed=0, size_px=32)
    data = LatentSet([path])
    assert data.latents.shape == (4, 2, 4, 8, 8)
    rendering = render(sample_scene(0, 1), 32)
    expected = encode(load_autoencoder(None), to_batch([rendering.image, rendering.image[:, ::-1]]))
    torch.testing.assert_close(data.latents[1].float(), expected, atol=5e-3, rtol=0)
    assert data.captions[1][0] == caption(rendering) and len(data.captions[1]) == 4


def test_shards_that_are_there_are_kept(store, monkeypatch):
    prepare_latents(store, scenes=4, seed=0, size_px=32)
    monkeypatch.setattr(latents, "_write_shard", lambda *_, **__: pytest.fail("written again"))
    prepare_latents(store, scenes=4, seed=0, size_px=32)


def test_workers_write_what_one_process_writes(tmp_path):
    one, two = (prepare_latents(tmp_path / str(n), scenes=8, seed=5, size_px=32, workers=n) for n in (1, 2))
    for own, other in zip(one, two, strict=True):
        with safe_open(own, "pt") as a, safe_open(other, "pt") as b:
            assert a.metadata() == b.metadata()
            torch.testing.assert_close(a.get_tensor("latents"), b.get_tensor("latents"), atol=2e-3, rtol=0)


def test_mirrored_draws_have_mirrored_captions(store):
    data = LatentSet(prepare_latents(store, scenes=4, seed=0, size_px=32))
    drawn, texts = data.draw(np.random.default_rng(0), 64, short=0.0, empty=0.25)
    assert 5 < texts.count("") < 30
    sides = {}
    for latent, text in zip(drawn, texts, strict=True):
        for place, both in enumerate(data.latents.float()):
            for side in (0, 1):
                if text and torch.equal(latent, both[side]):
                    sides[side] = sides.get(side, 0) + 1
                    assert ("from the left" in text) == (("from the left" in data.captions[place][0]) != bool(side))
    assert min(sides.values()) > 5


def test_damaged_shard_is_named(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"a\.safetensors is damaged .* Remove it and prepare the latents again"):
        LatentSet([tmp_path / "a.safetensors"])
    save_file({"latents": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(UsageError, match=r"b\.safetensors is damaged"):
        LatentSet([tmp_path / "b.safetensors"])


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
    rates = [rate_at(step, 1000) for step in (0, 99, 500, 750, 875, 999)]
    assert rates == pytest.approx([0.01, 1, 1, 1, 0.5, 0.004])
    assert rate_at(500, 1000) == rate_at(500, 2000)  # while it stays, the end may be moved


def test_the_folder_loads_and_knows_its_objective(finished):
    out, report = finished
    assert report.steps == 4 and report.stopped_by is None and set(report.text_gap) == {100, 400, 550, 700, 850}
    assert not (out / CHECKPOINT).exists()
    features = StableDiffusionBackbone.from_pretrained(out)(torch.zeros(1, 3, 64, 64), torch.zeros(1, 2, 16))
    assert set(features.attention) == {8, 16}
    assert TextEncoder.from_pretrained(out).tokens(["the red cube"], length=8).shape == (1, 8, 16)


def test_training_moves_unet_and_text_encoder(finished, tmp_path, store):
    out, _ = finished
    run = diffusion_pretraining.new_run("text", seed=0, data="", size_px=32)
    for part, model in (("unet", run.unet), ("text_encoder", run.text_encoder.model)):
        file = next((out / part).glob("*.safetensors"))
        moved = [not torch.equal(tensor, load_file(file)[name]) for name, tensor in model.state_dict().items()]
        assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("objective", ["text", "masked"])
def test_stopped_run_resumes_to_the_same_weights(tmp_path, store, objective):
    given = {**RUN, "latents": store, "objective": objective}
    pretrain_diffusion(tmp_path / "whole", **given)

    def stop(run, _):
        if run.step == 2:
            signal.raise_signal(signal.SIGTERM)

    report = pretrain_diffusion(tmp_path / "part", on_step=stop, **given)
    assert (report.steps, report.stopped_by) == (2, signal.SIGTERM)
    with pytest.raises(UsageError, match=r"holds an unfinished run\. Go on with it by --resume"):
        pretrain_diffusion(tmp_path / "part", **given)
    with pytest.raises(UsageError, match=r"is of a run with objective .*, not unconditional"):
        pretrain_diffusion(tmp_path / "part", resume=True, **{**given, "objective": "unconditional"})
    with pytest.raises(UsageError, match=r"is of a run with data .* 3 a step, not .* 4 a step"):
        pretrain_diffusion(tmp_path / "part", resume=True, **{**given, "batch_size": 4})
    with pytest.raises(UsageError, match=r"has done 2 steps, more than steps=1\. Give more, or none"):
        pretrain_diffusion(tmp_path / "part", resume=True, **{**given, "steps": 1})
    pretrain_diffusion(tmp_path / "part", resume=True, **{**given, "steps": None})  # as many as it was begun with
    for part in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        whole, resumed = (load_file(tmp_path / name / f"{part}.safetensors") for name in ("whole", "part"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scenes": 5}, r"5 scenes: give a multiple of 4"),
        ({"size_px": 40}, r"Pictures of 40 px: give a multiple of 32"),
        ({"steps": 0}, r"steps=0, batch_size=3: both must be more than 0"),
    ],
)
def test_wrong_numbers(tmp_path, wrong, message):
    with pytest.raises(UsageError, match=message):
        pretrain_diffusion(tmp_path / "out", **{**RUN, **wrong})


def test_gauges_of_a_network_that_knows_nothing(store):
    run = diffusion_pretraining.new_run("text", seed=1, data="", size_px=32)
    data = LatentSet(prepare_latents(store, scenes=4, seed=0, size_px=32))
    gaps = text_gap(run.unet.eval(), run.text_encoder, noise_schedule(), data, count=4)
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


def test_embeddings_have_a_gradient():
    run = diffusion_pretraining.new_run("text", seed=0, data="", size_px=32)
    assert embed_texts(run.text_encoder, ["a red cube", "a cone"]).requires_grad


def test_the_command(tmp_path, store, capsys):
    line = f"diffusion --out {tmp_path / 'out'} --latents {store} --scenes 4 --steps 1 --batch 2 --size 32"
    with pytest.raises(SystemExit, match="^0$"):
        pretrain.main([*line.split(), "--workers", "1", "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "Trained: 1 steps in" in printed and "captions of other pictures" in printed
    assert "step 1, 100% done: loss " in printed  # nobody watches a terminal
    with pytest.raises(SystemExit, match="^2$"):
        pretrain.main([*line.split(), "--steps", "0"])


def test_ctrl_c_while_scenes_are_rendered_says_what_becomes_of_them(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(latents, "render", interrupt)
    line = f"diffusion --out {tmp_path / 'out'} --scenes 4 --steps 1 --batch 2 --size 32 --workers 1"
    with pytest.raises(SystemExit, match="^130$"):
        pretrain.main(line.split())
    assert "Stopped. What is saved stays; go on by the same command with --resume." in capsys.readouterr().out


def test_a_run_interrupted_after_its_last_step_loses_none(tmp_path, store, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(diffusion_pretraining, "text_gap", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pretrain_diffusion(tmp_path, latents=store, **RUN)
    report = pretrain_diffusion(
        tmp_path, latents=store, resume=True, **RUN, on_step=lambda *_: pytest.fail("a step was made again")
    )
    assert report.steps == RUN["steps"] and not (tmp_path / CHECKPOINT).exists()


def test_processes_that_render_end_at_once(tmp_path):
    program = f"""
from experiments.latents import prepare_latents
if __name__ == "__main__":
    prepare_latents({str(tmp_path / "latents")!r}, scenes=4000, seed=0, workers=2)
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
