"""`vpd.optimise(model, encoder=...)` and `--encoder`: the model otherwise as it was, what is told, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from linear_codes import exact_encoder, linear_vae
from tiny import CLASSES, tiny_unet
from vpd import SegmentationModel, StableDiffusionBackbone, UsageError, export
from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig, save_tiny_encoder
from vpd.cli import main
from vpd.cli.info import describe_source
from vpd.config import Resize, SegmentConfig
from vpd.inference.memory import network_bytes
from vpd.optimising import fast_dtype, optimise

IMAGE = np.random.default_rng(0).integers(0, 255, (70, 100, 3), dtype=np.uint8)
RANDOM = TinyEncoderConfig(encoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4)


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    backbone = StableDiffusionBackbone(unet=tiny_unet(), vae=linear_vae(scaling_factor=0.5, shift_factor=0.1))
    config = SegmentConfig(backbone=backbone.config, classes=CLASSES, fit=Resize(mode="native"), head_channels=8)
    made = SegmentationModel(config, backbone=backbone).eval()
    torch.nn.init.normal_(made.class_embeddings)
    return made


@pytest.fixture(scope="module")
def folder(model: SegmentationModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that makes exactly the latents of the model's VAE."""
    place = tmp_path_factory.mktemp("encoder")
    save_tiny_encoder(exact_encoder(model.backbone.vae), place)
    return place


def write_random(place: Path, seed: int = 0, **config: Any) -> Path:
    torch.manual_seed(seed)
    save_tiny_encoder(TinyEncoder(RANDOM.model_copy(update=config)), place)
    return place


def scores(model: SegmentationModel, **options: Any) -> torch.Tensor:
    return model.predict(IMAGE, scores=True, **options).scores


def test_an_exact_encoder_changes_nothing(model: SegmentationModel, folder: Path) -> None:
    fast = optimise(model, dtype="float32", encoder=folder)
    torch.testing.assert_close(scores(fast), scores(model), atol=1e-4, rtol=1e-4)
    assert not [name for name, _ in fast.named_parameters() if name.startswith("backbone.vae")]
    assert fast.backbone.strides == model.backbone.strides


@pytest.mark.skipif(fast_dtype(torch.device("cpu")) != torch.bfloat16, reason="this CPU does not compute in bfloat16")
def test_in_bfloat16(model: SegmentationModel, folder: Path) -> None:
    fast = optimise(model, encoder=folder)
    assert fast.dtype == torch.bfloat16
    ours, theirs = scores(fast), scores(model)
    assert (ours - theirs).norm() / theirs.norm() < 4e-2


def test_the_model_stays_as_it_is(model: SegmentationModel) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    encoder, wanted = TinyEncoder(RANDOM), scores(model)
    fast = optimise(model, dtype="float32", encoder=encoder)
    assert (scores(fast) - wanted).abs().max() > 1e-3
    assert torch.equal(scores(model), wanted) and model.backbone.small_encoder is None
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    shared = {value.data_ptr() for value in (*model.parameters(), *encoder.parameters())}
    assert not shared & {value.data_ptr() for value in fast.parameters()}


def test_within_a_budget(model: SegmentationModel) -> None:
    """What the small encoder takes is counted, and not what the VAE would."""
    wide = RANDOM.model_copy(update={"encoder_block_out_channels": (64,) * 4})
    narrow, broad = (optimise(model, dtype="float32", encoder=TinyEncoder(config)) for config in (RANDOM, wide))
    assert network_bytes(broad, (1, 256, 256)) > 2 * network_bytes(narrow, (1, 256, 256))
    assert network_bytes(broad, (1, 256, 256)) >= 64 * 256 * 256 * 4
    torch.testing.assert_close(scores(narrow, memory="1GB"), scores(narrow), atol=1e-5, rtol=1e-5)


def test_requests_that_cannot_be_met(model: SegmentationModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="makes latents of stride 8 with 6 channels; the model needs stride 8 with 4"):
        optimise(model, encoder=write_random(tmp_path / "other", latent_channels=6))
    with pytest.raises(UsageError, match="There is no small encoder"):
        optimise(model, encoder=tmp_path / "none")
    fast = optimise(model, dtype="float32", encoder=write_random(tmp_path / "fits"))
    with pytest.raises(UsageError, match="made by vpd.optimise"):
        export(fast, tmp_path / "exported", target="torch")
    with pytest.raises(UsageError, match="only predicts"):
        fast.save(tmp_path / "saved")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs `vpd` in this process; its status and standard error."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("vpd.cli.quiet_libraries", lambda: None)
    monkeypatch.setattr("vpd.inference.heap.keep_heap", lambda: None)

    def command(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        return int(stop.value.code or 0), capsys.readouterr().err

    return command


def test_command_line(tiny_diffusion: Path, tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    """Predictions say what encoded, go on only with the same; figures are told with it."""
    from tiny_data import write_segment_data

    SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=8).save(tmp_path / "model")
    data, out = write_segment_data(tmp_path / "data"), tmp_path / "out"
    one, other = (write_random(tmp_path / f"encoder-{seed}", seed) for seed in (0, 1))
    words = ("predict", "segment", data / "images/val", "--model", tmp_path / "model", "--size", 64, "--encoder")
    assert run(*words, one, "--out", out)[0] == 0
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert {line["options"]["fast"] for line in lines} == {"auto"}
    assert {line["options"]["dtype"] for line in lines} == {str(fast_dtype(torch.device("cpu"))).removeprefix("torch.")}
    assert len({line["options"]["encoder"] for line in lines}) == 1
    assert run(*words, one, "--out", out)[0] == 0
    status, said = run(*words, other, "--out", out)
    assert status == 2 and "encoder: " in said
    status, said = run(*words, tmp_path / "none", "--out", tmp_path / "nothing")
    assert status == 2 and "There is no small encoder" in said and not (tmp_path / "nothing").exists()

    status, said = run(*words[:-1], "--out", out)
    assert status == 2 and "fast: auto there, none now" in said
    words = ("eval", "segment", "--model", tmp_path / "model", "--data", data, "--encoder", one, "--limit", 1)
    words += ("-s", f"classes=[{', '.join(CLASSES)}]")
    status, said = run(*words, "--out", tmp_path / "scores.json")
    assert status == 0, said
    settings = json.loads((tmp_path / "scores.json").read_text())["settings"]
    assert (settings["fast"], settings["encoder"]) == (True, str(one))


def test_what_it_is(tmp_path: Path) -> None:
    facts = describe_source(write_random(tmp_path / "encoder"))
    assert facts["latents"].startswith("stride 8, 4 channels") and "--encoder" in facts["use"]
