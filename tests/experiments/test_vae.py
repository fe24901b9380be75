"""`pretrain.py vae`, as a function and on the command line."""

import signal

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from experiments import crops, picture_runs, pretrain
from experiments import vae as pretraining
from experiments.autoencoder import load_autoencoder
from experiments.vae import CHECKPOINT, pretrain_vae
from vpd import StableDiffusionBackbone
from vpd.errors import UsageError
from vpd.files.lock import LOCK_FILE

pytestmark = pytest.mark.extras

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(crops, "PIXELS_PER_BATCH", 16 * 16)
    monkeypatch.setattr(picture_runs, "HELD_OUT", 2)
    monkeypatch.setattr(pretraining, "FINISHING_BATCHES", 2)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(rng.integers(256, size=(20, 30, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")
    return folder


def test_photographs_give_a_whole_folder(images, tmp_path):
    report = pretrain_vae(images, tmp_path / "out", steps=2, size_px=16)
    assert report.steps == 2
    assert report.stopped_by is None
    assert 0 < report.psnr_db < 40
    assert report.hue is None
    parts = {"model_index.json", "vae", "unet", "text_encoder", "tokenizer", "scheduler"}
    assert {path.name for path in (tmp_path / "out").iterdir()} - {LOCK_FILE} == parts
    assert load_autoencoder(tmp_path / "out" / "vae").config.scaling_factor != 0.18215


def test_world_gives_the_same_weights_for_the_same_seed(tmp_path):
    reports = [pretrain_vae("world", tmp_path / name, steps=2, size_px=16, seed=3) for name in "ab"]
    assert 0 <= reports[0].hue <= 1
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    config = "vae/config.json"
    assert (tmp_path / "a" / config).read_bytes() == (tmp_path / "b" / config).read_bytes()


def test_stopped_run_resumes_to_the_same_weights(images, tmp_path):
    pretrain_vae(images, tmp_path / "whole", steps=4, size_px=16)

    def stop(run, _):
        if run.step == 2:
            signal.raise_signal(signal.SIGTERM)

    report = pretrain_vae(images, tmp_path / "part", steps=4, size_px=16, on_step=stop)
    assert (report.stopped_by, report.steps) == (signal.SIGTERM, 2)
    assert {path.name for path in (tmp_path / "part").iterdir()} - {LOCK_FILE} == {CHECKPOINT}
    with pytest.raises(UsageError, match="--resume"):
        pretrain_vae(images, tmp_path / "part", steps=4, size_px=16)
    with pytest.raises(UsageError, match="of a run with images"):
        pretrain_vae(images, tmp_path / "part", steps=4, size_px=32, resume=True)
    with pytest.raises(UsageError, match=r"has done 2 steps .* all of steps=2\. Give more, or no limit"):
        pretrain_vae(images, tmp_path / "part", steps=2, size_px=16, resume=True)
    report = pretrain_vae(images, tmp_path / "part", size_px=16, resume=True)  # to the limit it was begun with
    assert (report.stopped_by, report.steps) == (None, 4)
    assert not (tmp_path / "part" / CHECKPOINT).exists()
    one, other = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "part"))
    assert all((one[name] == other[name]).all() for name in one)


def test_other_files_are_another_run(images, tmp_path):
    pretrain_vae(images, tmp_path / "out", steps=4, size_px=16, on_step=lambda *_: signal.raise_signal(signal.SIGTERM))
    (images / "more.jpg").write_bytes((images / "0.jpg").read_bytes())
    with pytest.raises(UsageError, match=r"of a run with images .* files, .* not .* files, "):
        pretrain_vae(images, tmp_path / "out", steps=4, size_px=16, resume=True)
    assert (tmp_path / "out" / CHECKPOINT).is_file()


def test_checkpoints_are_written_on_the_way(images, tmp_path, monkeypatch):
    monkeypatch.setattr(picture_runs, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)

    class KilledError(Exception):
        pass

    def kill(run, _):
        if run.step == 3:
            raise KilledError

    with pytest.raises(KilledError):
        pretrain_vae(images, tmp_path / "out", steps=4, size_px=16, on_step=kill)
    assert (tmp_path / "out" / CHECKPOINT).is_file()
    assert pretrain_vae(images, tmp_path / "out", steps=4, size_px=16, resume=True).steps == 4


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size_px": 30}, "multiple of 8"),
        ({"stride_px": 5}, "choose one of 4, 8"),
        ({"size_px": 8}, "at least 16"),
        ({"steps": 0}, "more than 0"),
        ({"minutes": -1.0}, "more than 0"),
        ({"images": "nowhere"}, "nowhere is not a folder"),
    ],
)
def test_wrong_requests(tmp_path, kwargs, message):
    with pytest.raises(UsageError, match=message):
        pretrain_vae(**{"images": "world", "out": tmp_path / "out", **kwargs})
    assert not (tmp_path / "out").exists()


def test_unreadable_pictures_are_left_out(images, tmp_path, caplog):
    for name in ("0.jpg", "3.jpg"):
        (images / name).write_text("no image")
    assert pretrain_vae(images, tmp_path / "out", steps=1, size_px=16).psnr_db is not None
    assert any("0.jpg" in record.message for record in caplog.records)


def test_command(images, tmp_path, capsys):
    words = ["vae", "--images", str(images), "--out", str(tmp_path / "out"), "--steps", "1", "--size", "16"]
    with pytest.raises(SystemExit) as end:
        pretrain.main(words)
    assert end.value.code == 0
    assert "Trained: 1 steps" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        pretrain.main(["vae", "--images", str(tmp_path / "none"), "--out", str(tmp_path / "x")])
    assert end.value.code == 2
    assert "is not a folder" in capsys.readouterr().err


def test_stride_8_is_stable_diffusions(images, tmp_path):
    pretrain_vae(images, tmp_path / "out", steps=1, size_px=16, stride_px=8)
    assert StableDiffusionBackbone.from_pretrained(tmp_path / "out").strides == (8, 16, 32, 64)
