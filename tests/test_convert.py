from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import vpd
from golden_models import FOLDERS, TASKS, golden_model, recipe_weights
from golden_set import Golden
from vpd.config import Task
from vpd.convert import build_published, convert
from vpd.errors import UsageError
from vpd.weights.untrusted import tensors_only


@pytest.fixture(scope="module")
def weights(golden: Golden) -> dict[Task, dict[str, torch.Tensor]]:
    return {task: recipe_weights(golden, task) for task in TASKS}


def write_published(path: Path, task: Task, state: dict[str, torch.Tensor], *, wrapped: bool = False) -> Path:
    """A file as the original saves it: mmseg's `state_dict` with meta data, or a `model` entry with counters."""
    if task == "segment":
        state = {**state, "sd_model.betas": torch.zeros(1000)}
        contents = {"meta": {"CLASSES": ("wall",), "iter": 80000}, "state_dict": state}
    else:
        if wrapped:
            state = {f"module.{key}": value for key, value in state.items()}
        contents = {"model": state, "epoch": 24, "lr_scheduler": {"last_epoch": 3}}
    torch.save(contents, path)
    return path


@pytest.fixture(scope="module")
def text_source(tmp_path_factory: pytest.TempPathFactory, golden: Golden) -> Path:
    from tiny import tiny_text_model
    from vpd.prompts.tokenizer import clip_tokenizer

    folder = tmp_path_factory.mktemp("text")
    tiny_text_model(golden.json("refer/config.json")["text_dim"]).save_pretrained(folder / "text_encoder")
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_a_converted_model_is_the_model(tmp_path: Path, golden: Golden, weights, text_source: Path, task: Task) -> None:
    checkpoint = write_published(tmp_path / "published.pth", task, weights[task], wrapped=True)
    convert(task, checkpoint, tmp_path / "model", diffusion=text_source)
    loaded = vpd.load(tmp_path / "model", device="cpu")
    wanted = golden_model(golden, task).state_dict()
    got = {key: value for key, value in loaded.state_dict().items() if not key.startswith("text_encoder.")}
    assert set(got) == set(wanted)
    assert all(torch.equal(value, wanted[key]) for key, value in got.items())
    settings = golden.json(f"{FOLDERS[task]}/config.json")["settings"]
    if task == "segment":
        assert len(loaded.config.classes) == settings["num_classes"]
    elif task == "refer":
        assert loaded.config.token_length == settings["token_length"]
        assert loaded.predict(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy(), text="a dog").mask.shape == (8, 8)
    else:
        assert len(loaded.config.scenes) == settings["num_scenes"]
        assert list(loaded.config.deconv_channels) == settings["num_filters"]
    assert loaded.config.recipe == "reference"


@pytest.mark.parametrize("task", TASKS)
def test_full_size_key_lists_convert(golden: Golden, task: Task) -> None:
    """At the true size nothing is missing and nothing is left over; shapes only, so no memory is needed."""
    shapes = golden.json(f"full_size/{FOLDERS[task]}_state_dict_keys.json")
    state = {
        key: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for key, entry in shapes.items()
    }
    model = build_published(task, state, origin="key list")
    unet = model.backbone.config.unet
    assert list(unet["block_out_channels"]) == [320, 640, 1280, 1280]
    assert list(unet["attention_head_dim"]) == [8, 8, 8, 8]
    assert (unet["cross_attention_dim"], unet["use_linear_projection"]) == (768, False)
    if task == "segment":
        count = len(state["class_embeddings"])
        assert len(model.config.classes) == count
        assert count != 150 or (model.config.classes[0], model.config.classes[-1]) == ("wall", "flag")
        assert model.head.laterals[1].in_channels == 640 + count
    elif task == "refer":
        assert model.config.token_length == state["classifier.conv1_3.weight"].shape[1] - 2 * 640
    else:
        count = len(state["encoder.class_embeddings"])
        assert len(model.config.scenes) == count
        assert count != 27 or "kitchen" in model.config.scenes
        assert (model.config.feature_channels, model.config.head_channels) == (1536, 192)


def test_every_wrong_key_is_named(weights) -> None:
    state = dict(weights["segment"])
    del state["gamma"]
    del state["unet.unet.diffusion_model.input_blocks.1.0.in_layers.2.weight"]
    state["decode_head.extra"] = torch.zeros(1)
    state["neck.fpn_convs.0.conv.bias"] = torch.zeros(5)
    with pytest.raises(UsageError) as error:
        build_published("segment", state, origin="file.pth")
    message = str(error.value)
    assert "4 keys" in message
    for line in (
        "missing gamma",
        "missing unet.unet.diffusion_model.input_blocks.1.0.in_layers.2.weight",
        "unexpected decode_head.extra",
        "neck.fpn_convs.0.conv.bias has shape (5,), needs (32,)",
    ):
        assert line in message


def test_head_count(weights) -> None:
    model = build_published("segment", dict(weights["segment"]), origin="file", heads=4)
    assert list(model.backbone.config.unet["attention_head_dim"]) == [4, 4, 4, 4]
    with pytest.raises(UsageError, match="cannot be split into 7 heads; give another --heads"):
        build_published("segment", dict(weights["segment"]), origin="file", heads=7)


def test_wrong_files(tmp_path: Path, weights) -> None:
    depth = write_published(tmp_path / "depth.pth", "depth", weights["depth"])
    with pytest.raises(UsageError, match="is a published depth checkpoint, not a segment one.*vpd convert depth"):
        convert("segment", depth, tmp_path / "model")
    refer = write_published(tmp_path / "refer.pth", "refer", weights["refer"])
    with pytest.raises(UsageError, match="holds no text encoder.*--diffusion"):
        convert("refer", refer, tmp_path / "model")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="is no published VPD checkpoint"):
        convert("depth", tmp_path / "other.safetensors", tmp_path / "model")
    torch.save({"model": 3}, tmp_path / "number.pth")
    with pytest.raises(UsageError, match="'model' is no dictionary of weights"):
        convert("depth", tmp_path / "number.pth", tmp_path / "model")


ODD: dict[str, tuple[Task, str, torch.Tensor, str]] = {
    "one dimension": ("segment", "decode_head.conv_seg.weight", torch.zeros(7), r"conv_seg.weight has shape \(7,\)"),
    "scalar": ("segment", "class_embeddings", torch.tensor(1.0), r"class_embeddings has shape \(\)"),
    "no classes": ("segment", "class_embeddings", torch.zeros(0, 64), r"class_embeddings has shape \(0, 64\)"),
    "no scenes": ("depth", "encoder.class_embeddings", torch.zeros(0, 64), r"has shape \(0, 64\)"),
    "whole numbers": ("segment", "gamma", torch.zeros(64, dtype=torch.int64), "gamma is int64, needs a floating"),
    "many tokens": ("refer", "classifier.conv1_3.weight", torch.zeros(1, 9999), r"token_length=\d{4} .*77"),
    "few tokens": ("refer", "classifier.conv1_3.weight", torch.zeros(1, 3), r"token_length=-\d+ .*3"),
    "no channels": ("depth", "decoder.deconv_layers.0.weight", torch.zeros(16, 0, 2, 2), r"deconv_channels"),
    "odd latents": ("depth", "encoder.encoder_vq.encoder.conv_out.weight", torch.tensor(1.0), "odd.pth"),
    "odd text": (
        "segment",
        "unet.unet.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight",
        torch.zeros(3, 0),
        "odd.pth",
    ),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_are_one_clear_error(weights, kind: str) -> None:
    task, key, value, message = ODD[kind]
    with pytest.raises(UsageError, match=message) as error:
        build_published(task, {**weights[task], key: value}, origin="odd.pth")
    assert "odd.pth" in str(error.value)


@pytest.mark.parametrize("settings", [{"heads": 0}, {"max_depth_m": -1.0}, {"max_depth_m": float("nan")}])
def test_odd_settings_are_named(weights, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"^{next(iter(settings))}="):
        build_published("depth", dict(weights["depth"]), origin="file.pth", **settings)


def test_an_incomplete_checkpoint_is_named(weights) -> None:
    state = {key: value for key, value in weights["segment"].items() if key != "class_embeddings"}
    with pytest.raises(UsageError, match="file.pth is not a complete segment checkpoint: 'class_embeddings'"):
        build_published("segment", state, origin="file.pth")


def test_only_known_keys_are_dropped(weights) -> None:
    unused = ["sd_model.betas", "sd_model.posterior_mean_coef2", "encoder_vq.decoder.conv_in.weight"]
    unused += ["unet.unet.diffusion_model.out.2.bias", "encoder_vq.loss.logvar"]
    odd = ["sd_model.model.surprise.weight", "sd_model.betas.0", "unet.unet.diffusion_model.out.9.weight"]
    state = {**weights["segment"], **{key: torch.zeros(1) for key in unused + odd}}
    with pytest.raises(UsageError, match=r"does not fit \(3 keys\)") as error:
        build_published("segment", state, origin="file.pth")
    assert all(f"unexpected {key}" in str(error.value) for key in odd)


def test_another_text_width_is_refused(tmp_path: Path, weights, tiny_diffusion: Path) -> None:
    refer = write_published(tmp_path / "refer.pth", "refer", weights["refer"])
    with pytest.raises(UsageError, match="16 channels.*needs 64"):
        convert("refer", refer, tmp_path / "model", diffusion=tiny_diffusion)
    depth = write_published(tmp_path / "depth.pth", "depth", weights["depth"])
    with pytest.raises(UsageError, match="16 channels.*needs 64"):
        convert("depth", depth, tmp_path / "model", diffusion=tiny_diffusion)


@pytest.mark.parametrize("task", TASKS)
def test_a_diffusion_model_that_is_not_there_is_named(tmp_path: Path, weights, task: Task) -> None:
    checkpoint = write_published(tmp_path / "file.pth", task, weights[task])
    with pytest.raises(UsageError, match="no/such/folder"):
        convert(task, checkpoint, tmp_path / "model", diffusion="no/such/folder")


def test_a_converted_model_finds_its_text_encoder(
    tmp_path: Path, weights, text_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_published(tmp_path / "file.pth", "segment", weights["segment"])
    assert convert("segment", checkpoint, tmp_path / "model").config.backbone.source == str(checkpoint)
    monkeypatch.chdir(tmp_path.parent)
    short = Path(tmp_path.name, "file.pth")  # which looks like a hub id
    assert convert("segment", short, tmp_path / "model").config.backbone.source == str(checkpoint.resolve())
    monkeypatch.chdir(text_source.parent)
    convert("segment", checkpoint, tmp_path / "model", diffusion=text_source.name)
    monkeypatch.chdir(tmp_path)
    model = vpd.load(tmp_path / "model", device="cpu")
    assert model.config.backbone.source == str(text_source.resolve())
    assert model.config.notes["converted_from"] == "file.pth"
    assert model.with_classes(["cat", "class_0"]).config.classes == ("cat", "class_0")


@pytest.mark.parametrize(
    ("saved", "first"),
    [
        (("cat ", "dog", "bed", "sky", "car", "sea", "hat"), "cat"),
        (["cat", "dog"], "class_0"),
        (("cat",) * 7, "class_0"),
        ((1, 2, 3, 4, 5, 6, 7), "class_0"),
        (None, "class_0"),
    ],
    ids=["fit", "too few", "not distinct", "no words", "none"],
)
def test_class_names_beside_the_weights(tmp_path: Path, weights, saved: Any, first: str) -> None:
    torch.save({"meta": {"CLASSES": saved}, "state_dict": weights["segment"]}, tmp_path / "file.pth")
    assert convert("segment", tmp_path / "file.pth", tmp_path / "model").config.classes[0] == first


def test_known_names() -> None:
    from importlib.resources import files

    ade = json.loads((files("vpd.data") / "ade20k_classes.json").read_text(encoding="utf-8"))
    assert (len(ade), len(set(ade)), ade[7]) == (150, 150, "bed")


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, weights) -> None:
    key = "unet.unet.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    state = {**weights["segment"], key: torch.full_like(weights["segment"][key], torch.nan)}
    with pytest.raises(UsageError, match=f"holds NaN or infinity, the first is {key}"):
        convert("segment", write_published(tmp_path / "nan.pth", "segment", state), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_names_of_compiled_modules_are_understood(weights) -> None:
    names = {key: f"module.{key.replace('unet.unet.', 'unet.unet._orig_mod.')}" for key in weights["segment"]}
    state = {names[key]: value for key, value in weights["segment"].items()}
    model = build_published("segment", tensors_only(state), origin="file.PT")
    wanted = build_published("segment", dict(weights["segment"]), origin="file.PT").state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())
