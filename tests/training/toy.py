"""A model of a few weights with the parts that the loop needs, and data whose loss is exact to share out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from vpd.data.sample import Sample
from vpd.files.atomic import read_json_lines
from vpd.tasks.losses import LossSum, segmentation_loss_sum
from vpd.tasks.segmentation import SegmentationModel
from vpd.tasks.task import Task
from vpd.tensors import Batch
from vpd.training.config import TrainConfig
from vpd.training.loop import Training
from vpd.training.settings import resolve_config


class Toy(Task, nn.Module):
    """Predicts labels by one convolution; no batch statistics, so that a batch may be cut anyhow."""

    score = "mIoU"
    example_batch = SegmentationModel.example_batch

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.backbone = SimpleNamespace(gradient_checkpointing=False)
        self.conv = nn.Conv2d(3, 2, 3)
        self.dropout = nn.Dropout(dropout)
        self.names: list[list[str]] = []

    @property
    def device(self) -> torch.device:
        return self.conv.weight.device

    def loss_sum(self, batch: Batch, *, caches: None = None) -> LossSum:
        self.names.append(batch.names)
        return segmentation_loss_sum(self.dropout(self.conv(batch.images)), batch.labels[:, 1:-1, 1:-1])

    def save(self, folder: Path) -> None:
        save_file(self.state_dict(), folder / "model.safetensors")


class ToyData:
    """Seven random images with random labels, fewer and fewer rows of them: no two batches count the same pixels."""

    classes = ("no", "yes")
    scenes = ()

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Sample:
        random = np.random.default_rng(index)
        image, labels = random.integers(0, 256, (8, 8, 3), np.uint8), random.integers(0, 2, (8, 8), np.uint8)
        labels[:index] = 255
        return Sample(f"sample-{index}", image, labels=labels)


def same(sample: Sample, rng: np.random.Generator) -> Sample:
    """No augmentation."""
    return sample


def toy_config(**changes: object) -> TrainConfig:
    given = {"model": "toy", "data": {"root": "toy"}, "steps": 6, "batch_size": 4, "learning_rate": 0.1, "workers": 0}
    return resolve_config("segment", given, {"clip_norm": None, **changes})


def start_of(values: torch.Tensor) -> torch.Tensor:
    """The same weights to begin with in every run."""
    return torch.linspace(-0.1, 0.1, values.numel()).reshape(values.shape)


def train_toy(folder: Path, model: Toy | None = None, data: ToyData | None = None, **changes: Any) -> Toy:
    """A run from the same weights."""
    model = model or Toy()
    model.conv.load_state_dict({name: start_of(value) for name, value in model.conv.state_dict().items()})
    Training(model, data or ToyData(), same, toy_config(**changes), folder).run()
    return model


def losses_of(folder: Path) -> list[float]:
    """What the log says of the training loss."""
    return [line["loss"] for line in read_json_lines(folder / "log.jsonl") if line["kind"] == "train"]
