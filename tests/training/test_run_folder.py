"""Room on the disk is known of before it is needed."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy import Toy, ToyData, same, toy_config

from vpd.errors import UsageError
from vpd.files.atomic import read_json_lines
from vpd.model_folder import CHECKPOINTS
from vpd.training import run_folder
from vpd.training.checkpoints import latest_checkpoint
from vpd.training.loop import Training
from vpd.training.run_folder import check_space, checkpoint_bytes, checkpoints_at_once, folder_bytes

SLACK = 32 * 2**20


def set_free(monkeypatch: pytest.MonkeyPatch, *free_bytes: float) -> None:
    """The disk has so many bytes free whenever it is asked, the last of them from then on."""
    answers = list(free_bytes)

    def usage(_folder: Path) -> Any:
        return SimpleNamespace(free=answers.pop(0) if len(answers) > 1 else answers[0])

    monkeypatch.setattr(run_folder.shutil, "disk_usage", usage)


def training(folder: Path, **changes: Any) -> Training:
    return Training(Toy(), ToyData(), same, toy_config(**changes), folder)


def test_size_of_a_checkpoint_follows_from_weights_and_optimiser(tmp_path: Path):
    model = torch.nn.Linear(1000, 500)
    weights = 4 * (500 * 1000 + 500)
    optimiser = torch.optim.AdamW(model.parameters())
    assert checkpoint_bytes(model, optimiser, state_bytes=8) == weights * 3 + SLACK  # foreseen
    assert checkpoint_bytes(model, optimiser, state_bytes=2) == weights * 1.5 + SLACK
    model(torch.ones(1, 1000)).sum().backward()
    optimiser.step()
    assert checkpoint_bytes(model, optimiser, state_bytes=8) == pytest.approx(weights * 3 + SLACK, abs=10)
    for parameter in list(model.parameters())[1:]:
        parameter.requires_grad_(False)
    frozen = torch.optim.AdamW([model.weight])
    assert checkpoint_bytes(model, frozen, state_bytes=8) == weights + 2 * 4 * 500 * 1000 + SLACK


def test_folder_counts_what_is_below_it(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"12345")
    (tmp_path / "c").write_bytes(b"1")
    assert folder_bytes(tmp_path) == 6 and folder_bytes(tmp_path / "none") == 0


def test_lack_is_told_in_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    set_free(monkeypatch, 1.5e9)
    check_space(tmp_path, 1_500_000_000, "for it.")
    with pytest.raises(UsageError, match=rf"{tmp_path} has 1.50 GB free, and 2.25 GB are needed for it\."):
        check_space(tmp_path, 2_250_000_000, "for it.")
    monkeypatch.undo()
    check_space(tmp_path, 1, "for it.")
    with pytest.raises(UsageError, match="are needed"):
        check_space(tmp_path, shutil.disk_usage(tmp_path).total, "for it.")


def test_checkpoints_that_lie_there_at_once():
    def at_once(start_step: int = 0, steps: int = 100, *, has_scores: bool = False, **changes: Any) -> int:
        config = toy_config(steps=steps, checkpoint_every=10, validate_every=25, keep=2, **changes)
        return checkpoints_at_once(config, start_step, steps, has_scores=has_scores)

    assert at_once() == 3  # two that are kept, one that is being written
    assert at_once(has_scores=True) == 4  # and the best
    assert at_once(steps=5) == 1  # only the last one is ever written
    assert at_once(steps=15) == 2
    assert at_once(15, steps=20) == 2  # the one that was there, and the last


def test_run_does_not_begin_without_room_for_its_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    set_free(monkeypatch, 1e8)
    with pytest.raises(
        UsageError, match=r"checkpoints has 0.10 GB free, and 0.13 GB are needed for 4 checkpoints of"
    ) as error:
        Training(
            Toy(), ToyData(), same, toy_config(checkpoint_every=1, keep=2), tmp_path, validation_set=ToyData()
        ).run()
    assert "keep=2" in str(error.value) and "smaller keep" in str(error.value)
    assert not (tmp_path / "log.jsonl").exists()
    training(tmp_path, checkpoint_every=1, keep=1).run()


def test_disk_that_is_full_later_leaves_the_older_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    set_free(monkeypatch, 1e12, 1e12, 1e12, 1e6)
    with pytest.raises(
        UsageError, match=r"0.00 GB free, and 0.03 GB are needed for the checkpoint after step 3.*--resume"
    ):
        training(tmp_path, checkpoint_every=1, log_every=1).run()
    assert latest_checkpoint(tmp_path / CHECKPOINTS).step == 2
    assert [line["step"] for line in read_json_lines(tmp_path / "log.jsonl")] == [1, 2, 3]
