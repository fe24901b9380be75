from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vpd
from golden_models import FOLDERS, golden_model, recipe_weights
from golden_set import Golden
from vpd.config import Task
from vpd.errors import UsageError
from vpd.reference.convert import build_published, convert, read_published

TASKS: list[Task] = ["segment", "refer", "depth"]


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
def text_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import tiny_text_model
    from vpd.prompts.tokenizer import clip_tokenizer

    folder = tmp_path_factory.mktemp("text")
    tiny_text_model(64).save_pretrained(folder / "text_encoder")
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
        assert len(model.config.classes) == 150
        assert (model.config.classes[0], model.config.classes[-1]) == ("wall", "flag")
        assert model.head.laterals[1].in_channels == 790
    elif task == "refer":
        assert model.config.token_length == 77
    else:
        assert len(model.config.scenes) == 27
        assert "kitchen" in model.config.scenes
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
        read_published("segment", depth)
    refer = write_published(tmp_path / "refer.pth", "refer", weights["refer"])
    with pytest.raises(UsageError, match="holds no text encoder.*--diffusion"):
        read_published("refer", refer)
    data = depth.read_bytes()
    (tmp_path / "short.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match="truncated or not a PyTorch weight file"):
        read_published("depth", tmp_path / "short.pth")
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UsageError, match="is empty"):
        read_published("depth", tmp_path / "empty.pth")
    with pytest.raises(UsageError, match="There is no file"):
        read_published("depth", tmp_path / "none.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="is no published VPD checkpoint"):
        read_published("depth", tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(UsageError, match="truncated or not a safetensors file"):
        read_published("depth", tmp_path / "text.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UsageError, match="holds a list"):
        read_published("depth", tmp_path / "list.pth")


class Evil:
    def __reduce__(self):
        return (print, ("code in a checkpoint was run",))


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str) -> None:
    path = tmp_path / "evil.pth"
    if way == "torch":
        torch.save({"model": Evil()}, path)
    else:
        path.write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(UsageError, match="would run code when loaded|not a PyTorch weight file"):
        read_published("depth", path)
    assert "was run" not in capsys.readouterr().out


def test_another_text_width_is_refused(tmp_path: Path, weights, tiny_diffusion: Path) -> None:
    refer = write_published(tmp_path / "refer.pth", "refer", weights["refer"])
    with pytest.raises(UsageError, match="16 channels.*needs 64"):
        read_published("refer", refer, diffusion=tiny_diffusion)


def test_known_names() -> None:
    from importlib.resources import files

    ade = json.loads((files("vpd.data") / "ade20k_classes.json").read_text(encoding="utf-8"))
    assert (len(ade), len(set(ade)), ade[7]) == (150, 150, "bed")
