"""Losses that are no numbers, and samples that cannot be read."""

from __future__ import annotations

import json
import logging
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from toy import Toy, ToyData, train_toy

from tiny_data import write_segment_data
from vpd.data.sample import Sample
from vpd.datasets.first_look import look_at_some
from vpd.errors import UsageError
from vpd.files.atomic import read_json_lines
from vpd.training.run import train


class Bad(Toy):
    """A loss, or only the gradient, that is no number at some steps."""

    def __init__(self, steps: set[int], loss: float = math.nan) -> None:
        super().__init__()
        self.bad_steps, self.bad_loss = steps, loss
        self.register_buffer("seen", torch.zeros(1))

    def loss_sum(self, batch: Any, **options: Any) -> Any:
        total, weight = super().loss_sum(batch, **options)
        if len(self.names) not in self.bad_steps:
            return total, weight
        self.seen += math.nan  # as the running statistics of a BatchNorm
        if math.isfinite(self.bad_loss):
            return total + (self.conv.bias - self.conv.bias).sum().sqrt(), weight
        return total * self.bad_loss, weight


@pytest.mark.parametrize(
    ("loss", "what"), [(math.nan, "loss is nan"), (math.inf, "loss is inf"), (0.0, "norm of the gradient is nan")]
)
def test_loss_or_gradient_that_is_no_number_stops_with_its_batch(loss: float, what: str, tmp_path: Path):
    model = Bad({3}, loss)
    with pytest.raises(
        FloatingPointError, match=rf"The {what} at step 3, on the samples sample-\d, sample-\d\."
    ) as error:
        train_toy(tmp_path, model, batch_size=2, checkpoint_every=1)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000001", "step-00000002"]
    assert weights_at(tmp_path, 2).equal(model.conv.weight)
    folder = tmp_path / "bad-batches" / "step-00000003"
    assert str(folder) in str(error.value)
    (part,) = folder.iterdir()
    known = json.loads((part / "names.json").read_text())
    assert known["names"] == model.names[2]
    tensors = load_file(part / "batch.safetensors")
    for number, name in enumerate(known["names"]):
        sample = ToyData()[int(name[-1])]
        assert torch.equal(tensors["labels"][number], torch.from_numpy(sample.labels).long())
        with Image.open(part / f"image-{number:03d}.png") as picture:
            assert np.array_equal(np.asarray(picture), sample.image)


def test_of_the_parts_of_a_step_only_the_bad_one_is_kept(tmp_path: Path):
    with pytest.raises(FloatingPointError, match="at step 2"):
        train_toy(tmp_path, model := Bad({4}), accumulate=2)
    (part,) = (tmp_path / "bad-batches" / "step-00000002").iterdir()
    assert part.name == "process-0-part-1"
    assert json.loads((part / "names.json").read_text())["names"] == model.names[3]


@pytest.mark.parametrize("loss", [math.nan, 0.0])
def test_bad_steps_are_skipped_and_change_nothing(loss: float, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    changes = {"batch_size": 2, "checkpoint_every": 1, "keep": 9, "on_bad_loss": "skip", "log_every": 1}
    model = train_toy(tmp_path, Bad({2, 3, 5}, loss), steps=6, max_bad_steps=3, **changes)
    at = [weights_at(tmp_path, step) for step in range(1, 7)]
    assert [not torch.equal(one, other) for one, other in pairwise(at)] == [0, 0, 1, 0, 1]
    states = [
        load_file(tmp_path / "checkpoints" / f"step-0000000{step}" / "optimiser.safetensors") for step in range(1, 7)
    ]
    assert [int(state["step/conv.weight"]) for state in states] == [1, 1, 1, 2, 2, 3]
    assert torch.equal(states[0]["exp_avg/conv.weight"], states[2]["exp_avg/conv.weight"])
    assert model.conv.weight.isfinite().all() and model.seen.item() == 0
    lines = read_json_lines(tmp_path / "log.jsonl")
    skipped = [line for line in lines if line["kind"] == "skipped"]
    assert [(line["step"], line["samples"]) for line in skipped] == [
        (step, model.names[step - 1]) for step in (2, 3, 5)
    ]
    assert [line["loss"] is None for line in lines if line["kind"] == "train"] == [0, 1, 1, 0, 1, 0]
    assert caplog.text.count("The step is skipped") == 3 and not (tmp_path / "bad-batches").exists()


def test_too_many_skipped_steps_in_a_row_stop(tmp_path: Path):
    with pytest.raises(FloatingPointError, match=r"at step 5, .*, after 2 others in a row\. They are saved in"):
        train_toy(tmp_path, Bad({1, 3, 4, 5}), batch_size=2, on_bad_loss="skip", max_bad_steps=3)
    assert [path.name for path in (tmp_path / "bad-batches").iterdir()] == ["step-00000005"]


def weights_at(folder: Path, step: int) -> torch.Tensor:
    return load_file(folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors")["conv.weight"]


class Torn(ToyData):
    """Some files cannot be read."""

    def __init__(self, bad: set[int], size: int = 7) -> None:
        self.bad, self.size = bad, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise UsageError(f"{index}.png: the file is empty")
        return super().__getitem__(index)


def test_unreadable_samples_are_named_and_replaced_alike_by_any_worker(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        alone = train_toy(tmp_path / "alone", data=Torn({5}))
    assert caplog.text.count("Sample 5 cannot be read and is replaced by another: 5.png: the file is empty") == 1
    (line,) = read_json_lines(tmp_path / "alone" / "bad-samples.jsonl")
    assert (line["index"], line["problem"]) == (5, "5.png: the file is empty") and 1 <= line["step"] <= 2
    assert all("sample-5" not in names for names in alone.names)
    helped = train_toy(tmp_path / "helped", data=Torn({5}), workers=2)
    assert torch.equal(helped.conv.weight, alone.conv.weight) and helped.names == alone.names
    whole = train_toy(tmp_path / "whole")
    assert not torch.equal(whole.conv.weight, alone.conv.weight)


@pytest.mark.parametrize(
    ("bad", "size", "share", "is_allowed"),
    [
        ({1}, 7, 0.01, True),  # the first one never fails a small set
        ({1, 2}, 7, 0.01, False),
        ({1, 2}, 7, 0.3, True),
        ({1}, 7, 0.0, False),
    ],
)
def test_too_many_unreadable_samples_end_the_run(bad, size, share, is_allowed, tmp_path: Path):
    if is_allowed:
        train_toy(tmp_path, data=Torn(bad, size), max_bad_share=share)
        return
    with pytest.raises(UsageError) as error:
        train_toy(tmp_path, data=Torn(bad, size), max_bad_share=share)
    message = str(error.value)
    assert f"{len(bad)} of the 7 training samples cannot be read" in message
    assert f"max_bad_share={share:g} allows" in message
    assert all(f"{index}.png: the file is empty" in message for index in bad)
    assert "bad-samples.jsonl" in message and "vpd data check" in message
    assert {line["index"] for line in read_json_lines(tmp_path / "bad-samples.jsonl")} == bad


def test_data_of_which_nothing_can_be_read_fails_with_names(tmp_path: Path):
    with pytest.raises(UsageError, match=r"None of 8 samples drawn one after the other .*: \d.png: the file is empty"):
        train_toy(tmp_path, data=Torn(set(range(7))), max_bad_share=1.0)


def test_a_resumed_run_records_an_unreadable_sample_once(tmp_path: Path):
    train_toy(tmp_path, data=Torn({5}))
    train_toy(tmp_path, data=Torn({5}))
    assert len(read_json_lines(tmp_path / "bad-samples.jsonl")) == 1


@pytest.mark.parametrize(
    ("bad", "share", "is_allowed"), [({3, 4, 5}, 0.01, True), ({3, 4, 5, 6}, 0.01, False), ({3}, 0.0, False)]
)
def test_a_first_look_finds_what_many_samples_have(bad: set[int], share: float, is_allowed: bool):
    if is_allowed:
        look_at_some(Torn(bad), max_share=share)
        return
    with pytest.raises(UsageError, match=rf"Of 7 training .* {len(bad)} cannot be used: 3.png: .*vpd data check"):
        look_at_some(Torn(bad), max_share=share)


def test_wrong_class_list_is_told_before_the_model_is_read(settings: dict[str, Any], tmp_path: Path):
    root = write_segment_data(tmp_path / "data")
    (root / "classes.json").write_text('["left"]')
    with pytest.raises(UsageError, match=r"cannot be used: .*label [12] at row .* outside the class list \(0, ignored"):
        train("segment", tmp_path / "run", settings | {"data": {"root": str(root)}, "model": "/no model is looked for"})
    assert not (tmp_path / "run").exists()


def test_the_end_of_a_run_says_what_did_not_count(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    train_toy(tmp_path / "good")
    assert "In this run" not in caplog.text
    train_toy(tmp_path / "bad", Bad({3}, math.nan), Torn({1, 2}), on_bad_loss="skip", max_bad_share=0.5, batch_size=2)
    (told,) = (message for message in caplog.messages if message.startswith("In this run"))
    assert "and were replaced: 2 (bad-samples.jsonl); steps skipped for a bad loss: 1 (log.jsonl)" in told
