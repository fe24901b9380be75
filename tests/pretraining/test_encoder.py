"""`vpd pretrain encoder`, in the library and on the command line."""

import signal

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
from vpd.pretraining import distillation, pictures
from vpd.pretraining.distillation import Distillation, distillation_config, latent_error, wanted_latents
from vpd.pretraining.encoder import RUN, find_teacher, new_encoder, pretrain_encoder
from vpd.pretraining.pictures import RandomSquare
from vpd.tensors import Batch
from vpd.training.loop import Training


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(distillation, "PIXELS_PER_STEP", 16 * 16)
    monkeypatch.setattr(pictures, "HELD_OUT", 2)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(256, size=(20, 30, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def pretrain(images, out, model, **options):
    return pretrain_encoder(images, out, model=model, size_px=16, device="cpu", **{"workers": 0, **options})


def stop_after(monkeypatch, step, number=signal.SIGTERM):
    """Let a signal come while a step is under way."""
    seen = []

    def loss_sum(self, batch, *, caches=None):
        seen.append(batch)
        if len(seen) == step:
            signal.raise_signal(number)
        return usual(self, batch, caches=caches)

    usual = Distillation.loss_sum
    monkeypatch.setattr(Distillation, "loss_sum", loss_sum)


def test_photographs(images, tmp_path, tiny_diffusion):
    """The folder is for this very VAE: its stride and channels, and latents times its factor."""
    report = pretrain(images, tmp_path / "out", tiny_diffusion, steps=2)
    assert report.steps == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} - {LOCK_FILE} == {CONFIG_FILE, WEIGHTS_FILE, RUN}
    assert sorted(path.name for path in (tmp_path / "out" / RUN).iterdir()) == ["curves.svg", "log.jsonl"]
    encoder = load_tiny_encoder(tmp_path / "out")
    assert encoder.config == TinyEncoderConfig()
    vae = vpd.StableDiffusionBackbone.from_pretrained(tiny_diffusion).vae
    with Image.open(images / "0.png") as image:
        pixels = pictures.to_batch([pictures.middle_crop(image, 16)])
    wanted = scale_latents(vae, encode_mode(vae, pixels))
    error = float((encoder(pixels) - wanted).norm() / wanted.norm())
    assert report.latent_error == pytest.approx(error, rel=1e-3)


def test_world_gives_the_same_weights_for_the_same_seed(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        pretrain("world", tmp_path / name, "world", steps=2, seed=seed)
    one, same, other = ((tmp_path / name / WEIGHTS_FILE).read_bytes() for name in "abc")
    assert one == same != other
    assert load_tiny_encoder(tmp_path / "a").config.latent_stride == 4


def test_it_learns(tmp_path):
    """The latents of two pictures, seen again and again."""
    teacher = find_teacher("world")
    form = TinyEncoderConfig(encoder_block_out_channels=(32,) * 3, num_encoder_blocks=(1, 1, 1))
    student = Distillation(new_encoder(form, seed=0), lambda images: wanted_latents(teacher, images))
    _, held_out, _ = pictures.find_pictures("world", size_px=32, seed=0)
    shown = list(pictures.middles(held_out, 32))
    before = latent_error(student.backbone, teacher, shown)
    config = distillation_config(model="", images="", size_px=32, steps=100, seed=0, workers=0, use_bf16=False)
    Training(student, held_out, RandomSquare(32), config.model_copy(update={"batch_size": 2}), tmp_path).run()
    assert latent_error(student.backbone.eval(), teacher, shown) < 0.6 * before


def test_loss_by_hand():
    """As far off as zeros is 1, whatever the size of the latents."""
    encoder = new_encoder(TinyEncoderConfig(encoder_block_out_channels=(8,) * 3, num_encoder_blocks=(1, 1, 1)), seed=0)
    batch = Batch(images=torch.rand(2, 3, 16, 16) * 2 - 1, names=["", ""])
    made = encoder(batch.images).detach()
    for share in (0.5, 2.0):
        total, weight = Distillation(encoder, lambda _, share=share: share * made).loss_sum(batch)
        assert float(total / weight) == pytest.approx(((1 - share) / share) ** 2, rel=1e-4)


def test_the_teacher_may_be_an_adapted_model(tmp_path, tiny_diffusion):
    """Its VAE is that of the diffusion model, without a decoder."""
    model = vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=["sky"], head_channels=8)
    model.save(tmp_path / "model")
    one, other = (find_teacher(source).state_dict() for source in (tmp_path / "model", tiny_diffusion))
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
    assert not [name for name in one if name.startswith(("decoder", "post_quant"))]


def test_stopped_run_resumes_to_the_same_weights(images, tmp_path, tiny_diffusion, monkeypatch):
    pretrain(images, tmp_path / "whole", tiny_diffusion, steps=4)

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="^143$"):
        stop_after(patch, 2)
        pretrain(images, tmp_path / "part", tiny_diffusion, steps=4)
    assert {path.name for path in (tmp_path / "part").iterdir()} - {LOCK_FILE} == {RUN}
    with pytest.raises(UsageError, match="--resume"):
        pretrain(images, tmp_path / "part", tiny_diffusion, steps=4)
    with pytest.raises(UsageError, match="of a run whose model was"):
        pretrain(images, tmp_path / "part", "world", steps=4, resume=True)
    with pytest.raises(UsageError, match="of a run whose seed was 0, not 1"):
        pretrain(images, tmp_path / "part", tiny_diffusion, seed=1, resume=True)
    with pytest.raises(UsageError, match=r"has done 2 steps, which is all of steps=2\. Give more, or no limit"):
        pretrain(images, tmp_path / "part", tiny_diffusion, steps=2, resume=True)
    (images / "more.png").write_bytes((images / "0.png").read_bytes())
    with pytest.raises(UsageError, match="of a run whose images are others now"):
        pretrain(images, tmp_path / "part", tiny_diffusion, resume=True)
    (images / "more.png").unlink()
    assert pretrain(images, tmp_path / "part", tiny_diffusion, resume=True).steps == 4  # as it was begun
    one, other = (load_file(tmp_path / name / WEIGHTS_FILE) for name in ("whole", "part"))
    assert all((one[name] == other[name]).all() for name in one)


def test_a_run_interrupted_after_its_last_step_loses_none(images, tmp_path, tiny_diffusion, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("vpd.pretraining.encoder.latent_error", interrupt)
        pretrain(images, tmp_path / "out", tiny_diffusion, steps=2)
    monkeypatch.setattr(Distillation, "loss_sum", lambda *_, **__: pytest.fail("a step was made again"))
    assert pretrain(images, tmp_path / "out", tiny_diffusion, resume=True).latent_error > 0


def test_minutes_are_made_into_steps(images, tmp_path, tiny_diffusion, caplog):
    caplog.set_level("INFO", logger="vpd")
    report = pretrain(images, tmp_path / "out", tiny_diffusion, minutes=0.005)
    assert f"0.005 minutes are {report.steps} steps" in caplog.text
    assert pretrain(images, tmp_path / "short", tiny_diffusion, minutes=10, steps=1).steps == 1  # whichever ends first


def test_unreadable_pictures_are_named_and_left_out(images, tmp_path, tiny_diffusion, caplog):
    (images / "1.png").write_text("no image")
    assert pretrain(images, tmp_path / "out", tiny_diffusion, steps=4).latent_error > 0
    assert "1.png" in caplog.text


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
