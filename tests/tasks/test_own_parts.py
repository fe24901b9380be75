"""A backbone, a head and a prompt provider that are not in the package take the places of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vpd
from hand_made import labelled
from tiny import CLASSES
from vpd import SegmentationModel
from vpd.config import Resize, SegmentConfig
from vpd.data.batches import collate
from vpd.evaluation.evaluate import evaluate
from vpd.files.images import pad_to_multiple
from vpd.prompts.encoder import TextEncoder
from vpd.tensors import Features

SMALL = Resize(size_px=64)


class Pyramid(nn.Module):
    """A backbone of two convolutions, which attends to a text by the likeness of pixels and words."""

    channels, strides, attention_strides = (8, 16), (4, 8), (8,)
    latent_stride, text_dim = 4, 12

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.fine, self.coarse = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 16, 2, stride=2)
        self.words = nn.Linear(self.text_dim, 16)

    @classmethod
    def from_config(cls, config: Any) -> Pyramid:
        return cls(config)

    def channels_with_attention(self, num_tokens: int) -> tuple[int, ...]:
        return (8, 16 + num_tokens)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def forward(self, images: Tensor, text_embeds: Tensor, *, latents: Tensor | None = None) -> Features:
        fine = self.fine(pad_to_multiple(images if latents is None else latents, 8)[0]).relu()
        coarse = self.coarse(fine).relu()
        words = self.words(text_embeds).expand(len(coarse), -1, -1)
        attention = torch.einsum("bchw,bkc->bkhw", coarse, words).softmax(dim=1)
        return Features(maps=(fine, coarse), strides=self.strides, attention={8: attention})


class OneLayer(nn.Module):
    """A head: the finest map and the coarser one beside it, once convolved."""

    def __init__(self, channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(sum(channels), num_classes, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        sizes = maps[0].shape[-2:]
        return self.classifier(torch.cat([F.interpolate(part, sizes) for part in maps], dim=1))


class OwnParts(SegmentationModel):
    """Segmentation from that backbone by that head."""

    backbone_type = Pyramid

    @staticmethod
    def new_head(config: SegmentConfig, backbone: Any) -> nn.Module:
        return OneLayer(backbone.channels_with_attention(len(config.classes)), len(config.classes))


@pytest.fixture
def model(tiny_diffusion: Path) -> OwnParts:
    torch.manual_seed(0)
    told = vpd.StableDiffusionBackbone.from_pretrained(tiny_diffusion).config
    made = OwnParts(SegmentConfig(backbone=told, classes=CLASSES, fit=SMALL), backbone=Pyramid(told))
    nn.init.normal_(made.class_embeddings)
    return made


def test_a_backbone_and_a_head_of_ones_own(model: OwnParts, tmp_path: Path) -> None:
    samples = labelled(4)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = collate([samples[index] for index in range(4)])
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert 0 <= evaluate(model, samples)["metrics"]["mIoU"] <= 1
    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    wanted = model.predict(picture, scores=True).scores
    assert torch.equal(model.predict(picture, scores=True, memory="1GB").scores, wanted)
    model.save(tmp_path / "model")
    assert torch.equal(
        vpd.load(tmp_path / "model", device="cpu", task=OwnParts).predict(picture, scores=True).scores, wanted
    )


def test_a_prompt_provider_of_ones_own(tiny_diffusion: Path) -> None:
    asked = []

    def by_definition(encoder: TextEncoder, names: Any) -> Tensor:
        asked.extend(names)
        return encoder.pooled([f"{name}, seen from a car" for name in names])

    made = {
        embed: SegmentationModel.from_diffusion(
            tiny_diffusion, classes=CLASSES, fit=SMALL, head_channels=8, embed=embed
        )
        for embed in (None, by_definition)
    }
    assert asked == list(CLASSES)
    assert not torch.allclose(made[None].class_embeddings, made[by_definition].class_embeddings)
    depth = vpd.DepthModel.from_diffusion(
        tiny_diffusion, scenes=["room"], head_channels=16, feature_channels=32, embed=by_definition
    )
    assert asked[-1] == "room" and depth.scene_embeddings.shape == (1, depth.backbone.text_dim)
