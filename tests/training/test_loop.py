from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy import Toy, ToyData, losses_of, same, start_of, toy_config, train_toy

from vpd.data.sample import Sample
from vpd.errors import UsageError
from vpd.files.atomic import read_json_lines
from vpd.tasks.segmentation import SegmentationModel
from vpd.training.config import TrainConfig
from vpd.training.loop import Training
from vpd.training.schedules import schedule_of, total_steps
from vpd.training.step import micro_batch_size, step_seed


def test_accumulated_batches_are_one_large_batch(tmp_path: Path):
    whole = train_toy(tmp_path / "whole", batch_size=4)
    for accumulate in (2, 4):
        cut = train_toy(tmp_path / f"cut-{accumulate}", batch_size=4, accumulate=accumulate)
        assert [*chain(*cut.names)] == [*chain(*whole.names)]
        torch.testing.assert_close(cut.conv.weight, whole.conv.weight, atol=1e-5, rtol=0)
        losses = [losses_of(tmp_path / name) for name in ("whole", f"cut-{accumulate}")]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_as_published_the_means_of_the_batches_are_averaged(tmp_path: Path):
    class Watched(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.means: list[float] = []

        def loss_sum(self, batch: Any, **options: Any) -> Any:
            total, weight = super().loss_sum(batch, **options)
            self.means.append(float(total.detach() / weight))
            return total, weight

    changes = {"batch_size": 4, "steps": 1, "loss_reduction": "batch"}
    cut = train_toy(tmp_path / "cut", Watched(), accumulate=2, **changes)
    assert losses_of(tmp_path / "cut") == pytest.approx([sum(cut.means) / 2])
    train_toy(tmp_path / "whole", **changes)
    assert losses_of(tmp_path / "whole") != pytest.approx(losses_of(tmp_path / "cut"), abs=1e-3)
    # the gradient of the mean, shown by the first mean of Adam
    state = load_file(tmp_path / "cut" / "checkpoints" / "step-00000001" / "optimiser.safetensors")
    again = Toy()
    again.conv.load_state_dict({name: start_of(value) for name, value in again.conv.state_dict().items()})
    stream = Training(again, ToyData(), same, toy_config(accumulate=2, **changes), tmp_path)._stream()
    for _, batch in zip(range(2), stream, strict=False):
        (again.loss_sum(batch)[0] / again.loss_sum(batch)[1] / 2).backward()
    torch.testing.assert_close(state["exp_avg/conv.weight"], 0.1 * again.conv.weight.grad)


def test_a_step_without_any_label_changes_nothing_and_stops_nothing(tmp_path: Path):
    class Unlabelled(ToyData):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return Sample(sample.name, sample.image, labels=np.full_like(sample.labels, 255))

    trained = train_toy(tmp_path, data=Unlabelled(), weight_decay=0.0, steps=2)
    assert torch.equal(trained.conv.weight, start_of(trained.conv.weight))
    assert losses_of(tmp_path) == [0.0]


def test_learning_moves_the_weights_as_adamw_does(tmp_path: Path):
    trained = train_toy(tmp_path / "run", steps=1, batch_size=7, weight_decay=0.5, schedule={"kind": "poly"}).conv
    # Adam's first step is the rate times the sign of the gradient, after the decay, which biases are spared
    for values, decay in ((trained.weight, 0.5), (trained.bias, 0.0)):
        moved = values - start_of(values) * (1 - 0.1 * decay)
        torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.1), atol=1e-4, rtol=0)


def test_randomness_is_a_function_of_seed_and_step(tmp_path: Path):
    runs = [
        train_toy(tmp_path / name, Toy(dropout=0.5), seed=seed).conv.weight
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    seeds = [step_seed(seed, step, rank) for seed in range(3) for step in range(3) for rank in range(3)]
    assert len(set(seeds)) == 27 and min(seeds) >= 0 and max(seeds) < 2**63


def test_long_gradients_are_shortened(tmp_path: Path):
    train_toy(tmp_path, steps=1, clip_norm=1e-3)
    (line,) = read_json_lines(tmp_path / "log.jsonl")
    assert line["grad_norm"] > 1e-3  # what is logged is the norm before
    state = load_file(tmp_path / "checkpoints" / "step-00000001" / "optimiser.safetensors")
    means = [value.square().sum() for name, value in state.items() if name.startswith("exp_avg/")]
    assert float(sum(means)) ** 0.5 == pytest.approx(0.1 * 1e-3, rel=1e-4)  # Adam's first mean: a tenth of the gradient


def test_bf16_computes_the_loss_under_autocast_and_keeps_float32_weights(tmp_path: Path):
    dtypes = []

    class Watched(Toy):
        def loss_sum(self, batch: Any, **options: Any) -> Any:
            dtypes.append(self.conv(batch.images).dtype)
            return super().loss_sum(batch, **options)

    model = train_toy(tmp_path, Watched(), precision="bf16", steps=1)
    assert dtypes == [torch.bfloat16] and model.conv.weight.dtype == torch.float32


def test_gradient_checkpointing_is_handed_to_the_backbone(tmp_path: Path):
    assert train_toy(tmp_path / "on", gradient_checkpointing=True, steps=1).backbone.gradient_checkpointing
    assert not train_toy(tmp_path / "off", steps=1).backbone.gradient_checkpointing


def test_log_tells_loss_rate_and_pace(tmp_path: Path):
    train_toy(tmp_path, steps=5, log_every=2)
    lines = read_json_lines(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 5]
    for line in lines:
        assert set(line) == {
            *("step", "kind", "loss", "learning_rate", "grad_norm", "samples_per_s", "wait_share", "left_s")
        }
        assert 0 <= line["wait_share"] <= 1 and line["samples_per_s"] > 0
    assert lines[0]["learning_rate"] == pytest.approx(0.1 * (1 - 1 / 5))
    assert lines[0]["left_s"] > lines[-1]["left_s"] == 0


def config(**changes: Any) -> TrainConfig:
    return toy_config(**changes)


def test_steps_follow_from_epochs_and_the_size_of_the_data():
    assert total_steps(config(steps=9), 100) == 9
    assert total_steps(config(epochs=2, batch_size=8), 100) == 25
    assert total_steps(config(epochs=1, batch_size=8), 3) == 1


def test_samples_of_a_step_are_shared_out_evenly():
    assert micro_batch_size(config(batch_size=16, accumulate=2), 4) == 2
    with pytest.raises(UsageError, match=r"batch_size=6 must be a multiple of accumulate=2 times 2 processes"):
        micro_batch_size(config(batch_size=6, accumulate=2), 2)


def test_schedule_is_the_recipes_unless_another_is_asked_for():
    recipe = schedule_of(config(steps=100), SegmentationModel, samples=100)
    assert recipe(0) < 0.001 and recipe(50) == pytest.approx(0.05)  # warm-up, then a line to 0
    straight = schedule_of(config(steps=100, schedule={"power": 2.0}), SegmentationModel, samples=100)
    assert (straight(0), straight(50)) == (pytest.approx(0.1), pytest.approx(0.025))
    tent = schedule_of(config(steps=100, schedule={"kind": "rise_fall", "floor": 0.5}), SegmentationModel, samples=100)
    assert (tent(49), tent(99)) == (pytest.approx(0.1), pytest.approx(0.05))
