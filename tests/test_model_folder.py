"""Models stored without their base: small, equal when they come back, and honest about what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vpd
from vpd.cli.info import describe_source
from vpd.config import LoraSettings
from vpd.errors import UsageError
from vpd.weights.difference import DOWN, UP, leave_out, low_rank, put_back
from vpd.weights.sources import recorded_source

CLASSES = ["cube", "wall"]


def new_model(**options) -> vpd.SegmentationModel:
    torch.manual_seed(0)
    return vpd.SegmentationModel.from_diffusion("world", classes=CLASSES, head_channels=8, **options)


@pytest.fixture(scope="module")
def images():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def outputs(model, images):
    model.eval()
    with torch.no_grad():
        return model(images)


def test_frozen_model_comes_back_bit_equal_from_a_small_folder(tmp_path: Path, images) -> None:
    model = new_model()
    with torch.no_grad():
        model.adapter.gamma.normal_()
    model.save(tmp_path, base="world")
    assert (tmp_path / "model.safetensors").stat().st_size < 1e6  # the UNet alone has 35 MB
    assert not any(name.startswith("backbone") for name in load_file(tmp_path / "model.safetensors"))
    assert torch.equal(outputs(vpd.load(tmp_path, device="cpu"), images), outputs(model, images))


@pytest.mark.parametrize("half", [False, True])
def test_merged_lora_is_stored_as_factors(tmp_path: Path, images, half: bool) -> None:
    pytest.importorskip("peft")
    model = new_model()
    model.add_lora(LoraSettings(rank=4, alpha=8))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".lora_B." in name:
                value.normal_(std=0.1)
    model.merge_lora()
    expected = outputs(model, images)
    assert (outputs(new_model(), images) - expected).abs().max() > 0.01 * expected.abs().max()
    model.save(tmp_path, base="world", half=half)
    stored = load_file(tmp_path / "model.safetensors")
    factors = [value for name, value in stored.items() if name.endswith((UP, DOWN))]
    assert factors and all(min(value.shape) <= 4 for value in factors)
    loaded = vpd.load(tmp_path, device="cpu")
    error = (outputs(loaded, images) - expected).abs().max() / expected.abs().max()
    assert error < (5e-3 if half else 1e-5)
    loaded.save(tmp_path / "whole")  # once loaded it is a model like any other
    assert torch.equal(outputs(vpd.load(tmp_path / "whole", device="cpu"), images), outputs(loaded, images))


def test_referring_model_takes_its_text_encoder_from_the_base(tmp_path: Path) -> None:
    model = vpd.ReferringModel.from_diffusion("world", head_channels=8, token_length=8)
    model.save(tmp_path, base="world")
    assert not (tmp_path / "text_encoder").exists()
    loaded = vpd.load(tmp_path, device="cpu")
    assert torch.equal(loaded.encode_texts(["the red cube"]), model.encode_texts(["the red cube"]))
    assert "world" in describe_source(tmp_path)["base"]


def test_another_base_of_the_same_name_is_noticed(tmp_path: Path) -> None:
    new_model().save(tmp_path, base="world")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["base"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match="was made from another world than the one that is here"):
        vpd.load(tmp_path)
    config["base"] = {"source": "world"}
    path.write_text(json.dumps(config))
    with pytest.raises(UsageError, match="does not say well where its other weights are: fingerprint"):
        vpd.load(tmp_path)


def test_base_must_be_known_everywhere(tmp_path: Path, tiny_diffusion: Path) -> None:
    model = vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=8)
    with pytest.raises(UsageError, match="give world or a hub id"):
        model.save(tmp_path / "out", base=str(tiny_diffusion))
    assert not (tmp_path / "out").exists()


def test_a_file_cannot_send_the_loader_to_a_path(
    tmp_path: Path, tiny_diffusion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_model().save(tmp_path, base="world")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    for source in (str(tiny_diffusion), "a/b", "../b"):
        (tmp_path / "a" / "b").mkdir(exist_ok=True)
        config["base"] |= {"source": source, "text_encoder": True}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UsageError, match="give world or a hub id"):
            vpd.load(tmp_path)


def test_factors_without_partner_are_refused(tmp_path: Path) -> None:
    new_model().save(tmp_path, base="world")
    path = tmp_path / "model.safetensors"
    name = "backbone.unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    save_file({**load_file(path), name + UP: torch.zeros(32, 2)}, path)
    with pytest.raises(UsageError, match="low-rank factors of backbone.unet.* are incomplete"):
        vpd.load(tmp_path)


@pytest.mark.parametrize(("up", "down"), [((3, 2), (3, 4)), ((), (2, 4)), ((3, 2, 1), (2, 4)), ((3, 2), (2, 5))])
def test_factors_that_do_not_fit_are_refused(up, down) -> None:
    with pytest.raises(UsageError, match="low-rank factors of a are incomplete or do not fit"):
        put_back({"a" + UP: torch.zeros(up), "a" + DOWN: torch.zeros(down)}, {"a": torch.zeros(3, 4)})


def test_another_text_encoder_than_the_base_has_is_kept(tmp_path: Path) -> None:
    model = vpd.ReferringModel.from_diffusion("world", head_channels=8, token_length=8)
    with torch.no_grad():
        model.text_encoder.model.get_input_embeddings().weight.mul_(1.5)
    model.save(tmp_path, base="world")
    assert (tmp_path / "text_encoder").is_dir()
    loaded = vpd.load(tmp_path, device="cpu")
    assert torch.equal(loaded.encode_texts(["the red cube"]), model.encode_texts(["the red cube"]))


def test_only_float32_can_be_compared_with_the_base(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="This model is bfloat16; load it in float32 to save it without its base"):
        new_model().to(torch.bfloat16).save(tmp_path / "out", base="world")
    assert not (tmp_path / "out").exists()


def test_a_folder_called_world_is_not_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_model().save(tmp_path / "model", base="world")
    (tmp_path / "world").mkdir()
    monkeypatch.chdir(tmp_path)
    assert vpd.load("model", device="cpu").config.classes == tuple(CLASSES)


def test_change_of_full_rank_is_stored_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    base = {"a": torch.randn(20, 30, generator=generator), "b": torch.randn(40, generator=generator)}
    weights = {"a": torch.randn(20, 30, generator=generator), "b": base["b"], "c": torch.ones(3)}
    stored = leave_out(weights, base)
    assert set(stored) == {"a", "c"}
    assert all(torch.equal(value, weights[name]) for name, value in put_back(stored, base).items())


def test_factors_are_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(64, 3, generator=generator) @ torch.randn(3, 80, generator=generator)
    factors = low_rank(change, scale=1.0)
    assert factors is not None and factors[0].shape == (64, 3)
    torch.testing.assert_close(factors[0] @ factors[1], change, rtol=0, atol=1e-4)
    assert low_rank(torch.randn(64, 80, generator=generator), scale=1.0) is None
    assert low_rank(torch.randn(4, 3, 3, 3, generator=generator), scale=1.0) is None


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "text_encoder/mine.txt", "tokenizer/mine.txt"])
def test_files_that_are_no_model_of_ours_stay(tmp_path: Path, name: str) -> None:
    path, model = tmp_path / name, new_model()
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"model_type": "clip"}')
    told = tmp_path / name.partition("/")[0]
    with pytest.raises(UsageError, match=f"^Saving a model would write over 1 file that it did not make: {told}. Give"):
        model.save(tmp_path)
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    path.unlink()
    if "/" in name:
        path.parent.rmdir()
    model.save(tmp_path)
    (tmp_path / "config.json").unlink()  # cut off
    model.save(tmp_path)
    assert vpd.load(tmp_path, device="cpu").config.classes == tuple(CLASSES)


def test_a_source_behind_a_link_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "blob").touch()
    (tmp_path / "v1-5.safetensors").symlink_to(tmp_path / "blob")  # as caches of downloads have them
    assert recorded_source(tmp_path / "v1-5.safetensors") == str(tmp_path / "v1-5.safetensors")
    assert recorded_source("owner/model") == "owner/model"
