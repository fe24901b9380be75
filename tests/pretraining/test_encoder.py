"""`vpd pretrain encoder`, in the library and on the command line."""

import signal
from itertools import repeat

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vpd
import vpd.cli
from vpd.backbones.tiny_encoder import CONFIG_FILE, WEIGHTS_FILE, TinyEncoderConfig, load_tiny_encoder
from vpd.backbones.vae_walk import encode_mode, scale_latents
from vpd.errors import UsageError
from vpd.files.lock import LOCK_FILE
from vpd.pretraining import crops, picture_runs
from vpd.pretraining.encoder import CHECKPOINT, find_teacher, new_encoder, pretrain_encoder
from vpd.pretraining.encoder_training import EncoderRun, latent_error
from vpd.pretraining.image_training import train_on_images


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(crops, "PIXELS_PER_BATCH", 16 * 16)
    monkeypatch.setattr(picture_runs, "HELD_OUT", 2)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(256, size=(20, 30, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def pretrain(images, out, model, **options):
    return pretrain_encoder(images, out, model=model, size_px=16, device="cpu", **options)


def test_photographs(images, tmp_path, tiny_diffusion):
    """The folder is for this very VAE: its stride and channels, and latents times its factor."""
    report = pretrain(images, tmp_path / "out", tiny_diffusion, steps=2)
    assert (report.steps, report.stopped_by) == (2, None)
    assert {path.name for path in (tmp_path / "out").iterdir()} - {LOCK_FILE} == {CONFIG_FILE, WEIGHTS_FILE}
    encoder = load_tiny_encoder(tmp_path / "out")
    assert encoder.config == TinyEncoderConfig()
    vae = vpd.StableDiffusionBackbone.from_pretrained(tiny_diffusion).vae
    with Image.open(images / "0.png") as image:
        pixels = crops.to_batch([crops.middle_crop(image, 16)])
    wanted = scale_latents(vae, encode_mode(vae, pixels))
    error = float((encoder(pixels) - wanted).norm() / wanted.norm())
    assert report.latent_error == pytest.approx(error, rel=1e-3)


def test_world_gives_the_same_weights_for_the_same_seed(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        pretrain("world", tmp_path / name, "world", steps=2, seed=seed)
    one, same, other = ((tmp_path / name / WEIGHTS_FILE).read_bytes() for name in "abc")
    assert one == same != other
    assert load_tiny_encoder(tmp_path / "a").config.latent_stride == 4


def test_it_learns():
    """The latents of two pictures, seen again and again."""
    teacher = find_teacher("world")
    config = TinyEncoderConfig(encoder_block_out_channels=(32,) * 3, num_encoder_blocks=(1, 1, 1))
    run = EncoderRun(new_encoder(config, seed=0), teacher=teacher)
    pictures = picture_runs.Pictures.find("world", size_px=32, seed=0).held_out()
    before = latent_error(run.network, teacher, pictures)
    train_on_images(run, repeat(torch.cat(pictures)), steps=100, bf16=False)
    assert latent_error(run.network, teacher, pictures) < 0.5 * before


def test_the_teacher_may_be_an_adapted_model(tmp_path, tiny_diffusion):
    """Its VAE is that of the diffusion model, without a decoder."""
    model = vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=["sky"], head_channels=8)
    model.save(tmp_path / "model")
    one, other = (find_teacher(source).state_dict() for source in (tmp_path / "model", tiny_diffusion))
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
    assert not [name for name in one if name.startswith(("decoder", "post_quant"))]


def test_stopped_run_resumes_to_the_same_weights(images, tmp_path, tiny_diffusion):
    pretrain(images, tmp_path / "whole", tiny_diffusion, steps=4)

    def stop(run, _):
        if run.step == 2:
            signal.raise_signal(signal.SIGTERM)

    report = pretrain(images, tmp_path / "part", tiny_diffusion, steps=4, on_step=stop)
    assert (report.stopped_by, report.steps, report.latent_error) == (signal.SIGTERM, 2, None)
    assert {path.name for path in (tmp_path / "part").iterdir()} - {LOCK_FILE} == {CHECKPOINT}
    with pytest.raises(UsageError, match="--resume"):
        pretrain(images, tmp_path / "part", tiny_diffusion, steps=4)
    with pytest.raises(UsageError, match="of a run with model"):
        pretrain(images, tmp_path / "part", "world", steps=4, resume=True)
    assert pretrain(images, tmp_path / "part", tiny_diffusion, steps=4, resume=True).stopped_by is None
    assert not (tmp_path / "part" / CHECKPOINT).exists()
    one, other = (load_file(tmp_path / name / WEIGHTS_FILE) for name in ("whole", "part"))
    assert all((one[name] == other[name]).all() for name in one)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size_px": 30}, "multiple of 8"),
        ({"steps": 0}, "more than 0"),
        ({"images": "nowhere"}, "nowhere is not a folder"),
        ({"model": "nowhere"}, "There is no nowhere. Give a folder in diffusers layout"),
    ],
)
def test_wrong_requests(tmp_path, kwargs, message):
    with pytest.raises(UsageError, match=message):
        pretrain_encoder(**{"images": "world", "out": tmp_path / "out", "model": "world", **kwargs})
    assert not (tmp_path / "out").exists()


def test_a_vae_of_another_stride(tmp_path, monkeypatch):
    vae = find_teacher("world")
    vae.register_to_config(block_out_channels=(8,) * 5)
    monkeypatch.setattr("vpd.pretraining.encoder.find_teacher", lambda model: vae)
    with pytest.raises(UsageError, match="VAE of mine has stride 16; small encoders are made for 2, 4, 8"):
        pretrain_encoder("world", tmp_path / "out", model="mine")


def test_command(images, tmp_path, capsys):
    words = [
        "pretrain",
        "encoder",
        "--images",
        str(images),
        "--model",
        "world",
        "--out",
        str(tmp_path / "out"),
        "--size",
        "16",
    ]
    with pytest.raises(SystemExit) as end:
        vpd.cli.main([*words, "--steps", "1"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "Trained: 1 steps" in said and "% off on pictures not trained on" in said and "--encoder" in said
    with pytest.raises(SystemExit) as end:
        vpd.cli.main(
            ["pretrain", "encoder", "--images", str(images), "--model", str(tmp_path), "--out", str(tmp_path / "x")]
        )
    assert end.value.code == 2
    assert "has no vae/config.json" in capsys.readouterr().err


def test_what_a_run_came_to_is_not_written_over(images, tmp_path, tiny_diffusion):
    pretrain(images, tmp_path / "out", tiny_diffusion, steps=1)
    before = (tmp_path / "out" / WEIGHTS_FILE).read_bytes()
    for resume in (False, True):
        with pytest.raises(UsageError, match="holds a model already, .*Give another folder, or remove it"):
            pretrain(images, tmp_path / "out", tiny_diffusion, steps=2, resume=resume)
    assert (tmp_path / "out" / WEIGHTS_FILE).read_bytes() == before
    with pytest.raises(UsageError, match="holds a model already"):
        pretrain(images, tiny_diffusion / "vae", tiny_diffusion, steps=1)
