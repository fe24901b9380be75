"""`vpd info --card`: every kind of model, and every request that cannot be met."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import vpd
from fake_hub import FakeHub, serving
from single_files import SHAPES, write_single_file
from tiny import tiny_unet, tiny_vae
from vpd.cli.card_info import find_subject
from vpd.training import cards

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    unet, vae = tiny_unet(**SHAPES, attention_head_dim=8), tiny_vae(**SHAPES)
    return write_single_file(tmp_path_factory.mktemp("single") / "sd.safetensors", unet, vae, {})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_diffusion: Path) -> Iterator[FakeHub]:
    shutil.copytree(tiny_diffusion, tmp_path / "hub" / "acme" / "sd")
    with serving(tmp_path, monkeypatch) as server:
        yield server


@pytest.mark.extras
def test_the_whole_answer(vpd_command: Command, models: dict[str, Path]) -> None:
    result = vpd_command("info", models["segment"], "--card", "2GB,8GB")
    assert result.status == 0
    lines = result.out.splitlines()
    assert "predict: segment, 3 classes: sky, tree, car" in lines
    assert "train: pictures of 64 px at a time" in lines
    assert [line.split() for line in lines if line.startswith(" ")] == [["2", "GB", "8", "GB"]] * 2
    ways = [line[:34].strip() for line in lines]
    assert [way for way in ways if way in cards.WAYS] == list(cards.WAYS)
    for way in cards.WAYS:
        small, large = next(line for line in lines if line[:34].strip() == way)[34:].split()
        assert 0 < int(small) < int(large)
    for words in ("not measured on a GPU", "--memory", "in blended windows", "-s accumulate=auto tries what fits"):
        assert words in result.out


def test_a_run_and_words_for_referring(
    vpd_command: Command, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "WAYS", {"head": {"mode": "head"}})
    shutil.copytree(models["refer"], tmp_path / "run" / "model")
    result = vpd_command("info", tmp_path / "run", "--card", "8GB")
    assert result.status == 0
    assert "predict: refer, expressions of up to 8 tokens" in result.out and "made smaller" in result.out
    assert "windows" not in result.out


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_adapted_models(models: dict[str, Path], task: str) -> None:
    subject, what = find_subject(str(models[task]), None)
    assert subject.task.task == task and subject.crop_px == 64 and what.startswith(f"{task}, ")
    model = vpd.load(models[task])
    assert subject.config == model.config
    encoder = model.text_encoder
    assert (subject.text_encoder_bytes > 0) == (encoder is not None)
    if encoder is not None:
        assert subject.text_encoder_bytes == 4 * sum(value.numel() for value in encoder.parameters())


@pytest.mark.parametrize("source", ["world-segment", "world-refer", "world-depth"])
def test_shipped_models(source: str) -> None:
    subject, _ = find_subject(source, None)
    assert source.endswith(subject.task.task)


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (None, "a model for segment of 150 classes, made of it (--task for others)"),
        ("refer", "a model for refer, made of it"),
        ("depth", "a model for depth of 27 scenes, made of it"),
    ],
)
def test_diffusion_models(tiny_diffusion: Path, single: Path, task: str | None, told: str) -> None:
    for source in (str(tiny_diffusion), str(single), "world"):
        subject, what = find_subject(source, task)
        assert (what, subject.task.task) == (told, task or "segment")
        assert subject.config.backbone.map_scale == "log_ratio"  # as the default recipe trains
    folder = find_subject(str(tiny_diffusion), task)[0]
    assert folder.crop_px == 3 * 8 * 8  # three times the size that it was made at
    assert (folder.text_encoder_bytes > 0) == (task == "refer")


def test_a_pickled_single_file_is_the_same(single: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    torch.save({"state_dict": load_file(single)}, tmp_path / "sd.ckpt")
    found, wanted = (find_subject(str(path), None)[0].config for path in (tmp_path / "sd.ckpt", single))
    assert found == wanted


def test_of_a_hub_id_configurations_are_enough(hub: FakeHub, models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["depth"], hub.root / "acme" / "depth")
    assert find_subject("acme/sd", "refer")[0].task.task == "refer"
    assert find_subject("acme/depth", None)[0].config.scenes == ("kitchen", "office")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    (hub.root / "acme" / "empty").mkdir()
    (hub.root / "acme" / "empty" / "README.md").write_text("nothing")
    with pytest.raises(vpd.UsageError, match="acme/empty has no configuration"):
        find_subject("acme/empty", None)


def test_requests_that_cannot_be_met(
    vpd_command: Command, models: dict[str, Path], tiny_diffusion: Path, tmp_path: Path
) -> None:
    cut = shutil.copytree(tiny_diffusion, tmp_path / "cut")
    (cut / "vae" / "config.json").unlink()
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux" / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    save_file({"decode_head.conv_seg.weight": torch.zeros(2)}, tmp_path / "vpd.safetensors")
    save_file({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    card = ("--card", "8GB")
    for words, said in (
        ((models["depth"], "--card", "24"), "--card 24: give its unit too: 24GB."),
        ((models["depth"], *card, "--task", "refer"), "is a model for depth, but --task refer was asked for"),
        ((models["depth"], "--task", "refer"), "--task refer goes with --card"),
        ((tiny_diffusion, *card, "--task", "boxes"), "There is no task 'boxes'. Choose one of: segment"),
        ((cut, *card), "has no vae/config.json"),
        ((tmp_path / "flux", *card), "is Flux"),
        ((tmp_path / "other.safetensors", *card), "is no diffusion model. --card counts for models"),
        ((tmp_path / "vpd.safetensors", *card), "is a published checkpoint: convert it first"),
        ((tmp_path / "lora.safetensors", *card), "is a LoRA file"),
        ((tmp_path / "none", *card), "There is no model folder"),
        ((tmp_path, *card), "is not a model folder"),
    ):
        result = vpd_command("info", *words)
        assert result.status == 2 and said in result.err, words
