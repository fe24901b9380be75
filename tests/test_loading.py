from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vpd
from tiny import CLASSES
from vpd import SegmentationModel, UsageError


@pytest.fixture(scope="module")
def saved(tiny_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=8).save(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_dtype(saved: Path) -> None:
    assert vpd.load(saved, device="cpu").dtype == torch.float32
    model = vpd.load(saved, device="cpu", dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert model.predict(torch.zeros(20, 30, 3, dtype=torch.uint8).numpy()).labels.shape == (20, 30)
    with pytest.raises(UsageError, match="Unknown dtype 'int7'. Choose one of"):
        vpd.load(saved, dtype="int7")
    with pytest.raises(UsageError, match="There is no device 'cuda:99'|There is no device 'nonsense'"):
        vpd.load(saved, device="nonsense")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "format version 99; this vpd reads 1"),
        ({"format_version": None}, "is not a model of this library"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"classes": []}, "classes: "),
        ({"head_channels": 16}, "does not fit its config.json"),
    ],
)
def test_damaged_configuration(copy: Path, changes: dict, message: str) -> None:
    edit(copy, **changes)
    with pytest.raises(UsageError, match=message):
        vpd.load(copy)


def test_damaged_files(copy: Path, tmp_path: Path, tiny_diffusion: Path) -> None:
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:5000])
    with pytest.raises(UsageError, match="truncated or damaged"):
        vpd.load(copy)
    weights.unlink()
    with pytest.raises(UsageError, match="the model folder is not complete"):
        vpd.load(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read as JSON"):
        vpd.load(copy)
    with pytest.raises(UsageError, match="is a diffusion model, not a trained perception model"):
        vpd.load(tiny_diffusion)
    with pytest.raises(UsageError, match="it has no config.json"):
        vpd.load(tmp_path)
    (tmp_path / "file.pth").touch()
    with pytest.raises(UsageError, match="is a file; a model is a folder.*vpd convert"):
        vpd.load(tmp_path / "file.pth")
    with pytest.raises(UsageError, match="There is no model folder ./nothing. Shipped models: world-segment, "):
        vpd.load("./nothing")
    (tmp_path / "run/checkpoints/step-5").mkdir(parents=True)
    (tmp_path / "run/checkpoints/step-5/config.json").touch()
    with pytest.raises(UsageError, match=r"step-5/config.json cannot be read as JSON"):
        vpd.load(tmp_path / "run")
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError, match="it has no config.json"):
        vpd.load(tmp_path)
    with pytest.raises(UsageError, match="world is a diffusion model, .*: world-segment, .* vpd train TASK"):
        vpd.load("world")


def test_save_where_nothing_can_be_written(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="it is a file|Cannot write"):
        vpd.load(saved).save(tmp_path / "file")


def test_no_tensor_is_copied_twice(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model starts without two copies in memory: each tensor goes straight from the mapped file to its type."""
    import vpd.loading

    made: list[torch.Tensor] = []
    placed = vpd.loading._placed
    monkeypatch.setattr(vpd.loading, "_placed", lambda *options: made.append(placed(*options)) or made[-1])
    model = vpd.load(saved, device="cpu", dtype="bfloat16")
    ours = {tensor.data_ptr() for tensor in made}
    assert {value.data_ptr() for key, value in model.state_dict().items() if not key.startswith("text_enc")} == ours
    assert all(tensor.dtype in (torch.bfloat16, torch.int64) for tensor in made)
    assert vpd.load(saved, device="cpu", dtype="float64").dtype == torch.float64


def test_text_encoder_is_read_in_its_type(tiny_diffusion: Path, tmp_path: Path) -> None:
    vpd.ReferringModel.from_diffusion(tiny_diffusion, head_channels=8).save(tmp_path / "model")
    model = vpd.load(tmp_path / "model", device="cpu", dtype="bfloat16")
    assert {value.dtype for value in model.text_encoder.parameters()} == {torch.bfloat16}


def test_public_names() -> None:
    assert all(getattr(vpd, name) is not None for name in vpd.__all__)
    assert set(vpd.__all__) <= set(dir(vpd))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        vpd.nonsense  # noqa: B018


def test_an_unfinished_run_is_not_looked_for_on_the_hub(tmp_path: Path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"run is a training run that has no model/ yet. Finish it by --resume"):
        vpd.load(tmp_path / "run" / "model")


def test_names_that_compiling_and_parallel_training_change(saved: Path, copy: Path) -> None:
    path = copy / "model.safetensors"
    with safe_open(path, "pt") as file:
        notes = file.metadata()
    renamed = {f"module.{key.replace('unet.', 'unet._orig_mod.', 1)}": value for key, value in load_file(path).items()}
    save_file(renamed, path, metadata=notes)
    wanted = vpd.load(saved).state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in vpd.load(copy).state_dict().items())


def test_a_part_of_a_diffusion_model_is_named(tiny_diffusion: Path) -> None:
    with pytest.raises(UsageError, match="it is of a UNet2DConditionModel: of a diffusion model give the whole folder"):
        vpd.load(tiny_diffusion / "unet")


@pytest.mark.parametrize("source", [None, 3, b"model", [], "", " "])
def test_what_is_no_name_of_a_model(source: object) -> None:
    with pytest.raises(UsageError, match="is no model: give its folder"):
        vpd.load(source)  # type: ignore[arg-type]


def test_what_is_no_name_of_a_device(saved: Path) -> None:
    with pytest.raises(UsageError, match="no device None here"):
        vpd.load(saved, device=None)  # type: ignore[arg-type]
