from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vpd.errors import UsageError
from vpd.training import checkpoints
from vpd.training.checkpoints import (
    Checkpoint,
    add_scores,
    clean_checkpoints,
    latest_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    restore_optimiser,
    save_checkpoint,
    scored_checkpoints,
)
from vpd.training.optimisers import build_optimiser


def make_optimiser(model: nn.Module) -> torch.optim.AdamW:
    rates = {"lr": 0.1, "lr_scale": 1.0}
    decayed = [(name, p) for name, p in model.named_parameters() if p.ndim > 1]
    rest = [(name, p) for name, p in model.named_parameters() if p.ndim <= 1]
    return build_optimiser([{"params": rest, **rates}, {"params": decayed, **rates}])


def take_step(model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    model(torch.ones(2, 3)).square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()


@pytest.fixture
def model() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def save(root: Path, step: int, model: nn.Module, optimiser: torch.optim.Optimizer, **scores: float) -> Checkpoint:
    def save_model(folder: Path) -> None:
        torch.save(model.state_dict(), folder / "weights")

    return save_checkpoint(root, step, save_model=save_model, optimiser=optimiser, scores=scores)


def test_optimiser_goes_on_bit_equal_whatever_the_order_of_parameters(tmp_path: Path, model: nn.Linear):
    optimiser = make_optimiser(model)
    take_step(model, optimiser)
    checkpoint = save(tmp_path, 1, model, optimiser)
    again = nn.Linear(3, 2)
    again.load_state_dict(torch.load(checkpoint.folder / "weights", weights_only=True))
    fresh = build_optimiser([{"params": list(again.named_parameters()), "lr": 0.1, "lr_scale": 1.0}])
    restore_optimiser(read_checkpoint(checkpoint.folder, verify=True), fresh)
    for _ in range(3):
        take_step(model, optimiser)
        take_step(again, fresh)
    assert torch.equal(model.weight, again.weight) and torch.equal(model.bias, again.bias)


def test_state_that_is_no_tensor_survives(tmp_path: Path, model: nn.Linear):
    optimiser = make_optimiser(model)
    take_step(model, optimiser)
    optimiser.state[model.weight]["seen"] = 7
    fresh = make_optimiser(model)
    restore_optimiser(read_checkpoint(save(tmp_path, 1, model, optimiser).folder, verify=False), fresh)
    assert fresh.state[model.weight]["seen"] == 7
    assert "seen" not in fresh.state[model.bias]


def test_other_parameters_are_refused(tmp_path: Path, model: nn.Linear):
    optimiser = make_optimiser(model)
    take_step(model, optimiser)
    checkpoint = save(tmp_path, 1, model, optimiser)
    other = make_optimiser(nn.ModuleDict({"more": model}))
    with pytest.raises(UsageError, match="optimiser state for 'bias', which this run does not train"):
        restore_optimiser(checkpoint, other)


def test_latest_is_the_newest_complete_one(tmp_path: Path, model: nn.Linear, caplog: pytest.LogCaptureFixture):
    assert latest_checkpoint(tmp_path / "none") is None
    for step in (999, 1000, 2000):
        save(tmp_path, step, model, make_optimiser(model), mIoU=0.5)
    assert latest_checkpoint(tmp_path).step == 2000
    weights = tmp_path / "step-00002000" / "weights"
    weights.write_bytes(weights.read_bytes()[:-1])
    found = latest_checkpoint(tmp_path)
    assert found == Checkpoint(tmp_path / "step-00001000", 1000, {"mIoU": 0.5}, {})
    assert "step-00002000 is not used: weights has" in caplog.text


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "state.json").unlink(), "state.json is missing or damaged"),
        (lambda folder: (folder / "state.json").write_text('{"step": 1'), "state.json is missing or damaged"),
        (lambda folder: (folder / "state.json").write_text("[]"), "state.json is missing or damaged"),
        (lambda folder: (folder / "weights").unlink(), "weights is missing"),
        (lambda folder: (folder / "weights").write_bytes(b""), "weights has 0 bytes instead of"),
        (lambda folder: flip_a_bit(folder / "weights"), "weights has changed since it was written"),
        (lambda folder: set_version(folder / "state.json", 2), "format_version is 2, this release reads 1"),
    ],
)
def test_damage_is_told_apart(damage, problem: str, tmp_path: Path, model: nn.Linear):
    checkpoint = save(tmp_path, 1, model, make_optimiser(model))
    assert read_checkpoint(checkpoint.folder, verify=True) == checkpoint
    damage(checkpoint.folder)
    with pytest.raises(ValueError, match=problem):
        read_checkpoint(checkpoint.folder, verify=True)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def set_version(path: Path, version: int) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": version}))


def test_the_newest_and_the_best_are_kept(tmp_path: Path, model: nn.Linear):
    saved = [save(tmp_path, step, model, make_optimiser(model), mIoU=step % 3) for step in (1, 2, 3, 4, 5)]
    prune_checkpoints(tmp_path, keep=2, best=saved[1])
    assert [folder.name[-1] for folder in sorted(tmp_path.iterdir())] == ["2", "4", "5"]
    assert [found.step for found in scored_checkpoints(tmp_path, "mIoU")] == [2, 4, 5]
    assert scored_checkpoints(tmp_path, "rmse") == []


def test_remains_of_a_killed_run_are_cleaned_away(tmp_path: Path, model: nn.Linear):
    for step in (1, 2, 3):
        save(tmp_path, step, model, make_optimiser(model))
    for name in (".partial-step-00000004", ".removing-step-00000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").touch()
    clean_checkpoints(tmp_path, after_step=2)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_failed_write_leaves_the_old_folder_and_no_rest(tmp_path: Path, model: nn.Linear, monkeypatch):
    optimiser = make_optimiser(model)
    take_step(model, optimiser)
    save(tmp_path, 1, model, optimiser, mIoU=0.25)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(UsageError, match=r"Cannot write .*step-00000001: No space left on device\. .* --resume"):
        save(tmp_path, 1, model, optimiser)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000001"]
    assert latest_checkpoint(tmp_path).scores == {"mIoU": 0.25}


@pytest.mark.parametrize("limit", [0.2, 0.9])
def test_disk_that_fills_while_writing_leaves_the_older_checkpoints(limit: float, tmp_path: Path):
    """A real limit of the system on the size of a file, below that of the weights, or of the optimiser's state."""
    model = nn.Linear(200, 100)
    optimiser = make_optimiser(model)
    model(torch.ones(1, 200)).sum().backward()
    optimiser.step()

    def save_model(folder: Path) -> None:
        save_file(model.state_dict(), folder / "model.safetensors")

    checkpoint = save_checkpoint(tmp_path, 1, save_model=save_model, optimiser=optimiser, scores={})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (checkpoint.folder / "optimiser.safetensors").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit * size), before[1]))
    try:
        with pytest.raises(UsageError, match=r"Cannot write .*step-00000002: .*[Ff]ile too large"):
            save_checkpoint(tmp_path, 2, save_model=save_model, optimiser=optimiser, scores={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000001"]
    assert latest_checkpoint(tmp_path) == checkpoint


@pytest.mark.parametrize("file", ["model.safetensors", "optimiser.safetensors"])
def test_disk_that_gives_back_something_else_is_found_out_at_once(
    file: str, tmp_path: Path, model: nn.Linear, monkeypatch: pytest.MonkeyPatch
):
    optimiser = make_optimiser(model)
    take_step(model, optimiser)
    is_faulty = False

    def write(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_file(tensors, path)
        if is_faulty and path.name == file:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)

    def save_verified(step: int) -> Checkpoint:
        return save_checkpoint(
            tmp_path,
            step,
            save_model=lambda folder: write(model.state_dict(), folder / "model.safetensors"),
            optimiser=optimiser,
            scores={},
            tensors={"model.safetensors": model.state_dict()},
        )

    monkeypatch.setattr(checkpoints, "save_file", write)
    good = save_verified(1)
    is_faulty = True
    with pytest.raises(UsageError, match=rf"{file} of the checkpoint .* does not read back as it was written \("):
        save_verified(2)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-00000001"]
    assert latest_checkpoint(tmp_path) == good


def test_scores_measured_later_are_added(tmp_path: Path, model: nn.Linear):
    checkpoint = save(tmp_path, 1, model, make_optimiser(model))
    add_scores(checkpoint, {"mIoU": 0.5})
    assert read_checkpoint(checkpoint.folder, verify=True).scores == {"mIoU": 0.5}
