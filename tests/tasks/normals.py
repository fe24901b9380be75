"""A fourth task as someone else would write it: surface normals, learnt from depth, from the same features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from vpd.config import Recipe, Resize, TaskConfig
from vpd.data.geometric import RandomCrop
from vpd.data.sample import Sample, SampleSet
from vpd.data.transforms import Pipeline
from vpd.drawing.overlays import Shown
from vpd.inference.cache import FrozenCaches
from vpd.inference.plan import Asked
from vpd.metrics.accumulator import Accumulator
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.names import embed_names
from vpd.tasks.losses import LossSum
from vpd.tasks.model import PerceptionModel
from vpd.tasks.recipes import recipe_backbone
from vpd.tasks.task import Measures, Seen, truth_of
from vpd.tensors import Batch


def normals_of(depth_m: Tensor) -> Tensor:
    """Unit normals `(b, 3, H, W)` of depth `(b, 1, H, W)`."""
    down, across = (F.pad(depth_m.diff(dim=dim), pad) for dim, pad in ((-2, (0, 0, 0, 1)), (-1, (0, 1))))
    return F.normalize(torch.cat([-across, -down, torch.ones_like(depth_m)], dim=1), dim=1)


class MeanAngle(Accumulator):
    """Mean angle between predicted and true normals, degrees."""

    def __init__(self) -> None:
        self.totals = torch.zeros(2, dtype=torch.float64)

    def row(self, pred: Tensor, target: Tensor) -> Tensor:
        cosine = (pred.double() * normals_of(target[None, None])[0].permute(1, 2, 0)).sum(dim=-1).clamp(-1, 1)
        return torch.stack([cosine.arccos().rad2deg().sum(), torch.tensor(float(cosine.numel()))]).double()

    def values(self, totals: Tensor) -> dict[str, Tensor]:
        return {"mean_deg": totals[..., 0] / totals[..., 1]}


@dataclass(frozen=True)
class NormalsPrediction:
    """Unit normals `(H, W, 3)`."""

    normals: Tensor
    image: Image.Image
    note: str = ""

    def save(self, path: str | Path) -> None:
        self.overlay().save(path)

    def overlay(self) -> Image.Image:
        return Image.fromarray(((self.normals.numpy() + 1) * 127.5).astype(np.uint8))

    def facts(self) -> dict[str, Any]:
        return {"facing": round(float(self.normals[..., 2].mean()), 4)}


class NormalsConfig(TaskConfig):
    task: Literal["normals"] = "normals"
    title: ClassVar[str] = "surface normals"


class NormalsModel(PerceptionModel[NormalsPrediction]):
    """Images -> unit normals."""

    task = "normals"
    config_type = NormalsConfig
    truth = "depth_m"
    output = "normals"
    score, score_is_error = "mean_deg", True
    recipes: ClassVar = {
        "default": {
            "learning_rate": 1e-3,
            "weight_decay": 1e-2,
            "unet_lr_scale": 0.1,
            "batch_size": 2,
            "crop_px": 64,
            "steps": 100,
            "loss_reduction": "global",
        }
    }
    prompt: Tensor

    def __init__(self, config: NormalsConfig, *, backbone: Any, text_encoder: TextEncoder | None = None) -> None:
        super().__init__(config, backbone=backbone, head=nn.Conv2d(backbone.channels[0], 3, 1))
        self.register_buffer("prompt", torch.zeros(1, backbone.text_dim))

    @classmethod
    def begin(cls, source: Any, samples: SampleSet, given: Mapping[str, Any], **options: Any) -> NormalsModel:
        recipe, checkpointing = options.pop("recipe"), options.pop("gradient_checkpointing")
        backbone = recipe_backbone(cls.backbone_type, source, recipe, checkpointing, {})
        model = cls(NormalsConfig(recipe=recipe, backbone=backbone.config, **options), backbone=backbone)
        model.prompt.copy_(embed_names(TextEncoder.from_pretrained(source), ["the surfaces of a room"]))
        return model

    def forward(
        self, images: Tensor, text_embeds: Tensor | None = None, *, caches: FrozenCaches | None = None
    ) -> Tensor:
        _, text = self.read_prompts(text_embeds)
        padded, latents = self.padded(images, caches)
        normals = self.head(self.backbone(padded, text, latents=latents).maps[0])
        normals = F.interpolate(normals, padded.shape[-2:], mode="bilinear")
        return F.normalize(normals[..., : images.shape[-2], : images.shape[-1]], dim=1)

    def loss_sum(self, batch: Batch, *, caches: FrozenCaches | None = None) -> LossSum:
        assert batch.depth_m is not None
        cosine = (self(batch.images, caches=caches) * normals_of(batch.depth_m)).sum(dim=1)
        return (1 - cosine).sum(), torch.tensor(float(cosine.numel()))

    def constant_prompts(self) -> Tensor:
        return self.prompt[None]

    def own_prompts(self) -> Tensor:
        return self.prompt

    def prompts(self, number: int) -> Asked:
        return Asked(text=lambda *_: None, text_shape=lambda _: None, channels=3, kept_bytes=12)

    def answer(self, asked: Asked, seen: Seen, strips: Iterator[Tensor]) -> NormalsPrediction:
        normals = torch.cat([strip.cpu().clone() for strip in strips], dim=1)
        return NormalsPrediction(F.normalize(normals, dim=0).permute(1, 2, 0), seen.image, seen.note)

    def measures(self, sample_set: SampleSet) -> Measures:
        return Measures({"": MeanAngle()}, {"": "angles over all pixels"})

    def measured(self, prediction: NormalsPrediction) -> Tensor:
        return prediction.normals

    def shown(self, sample: Sample, prediction: NormalsPrediction) -> Shown:
        truth = normals_of(torch.from_numpy(truth_of(sample, "depth_m"))[None, None])[0].permute(1, 2, 0)
        return Shown(NormalsPrediction(truth, prediction.image).overlay(), prediction.overlay())

    @classmethod
    def example_batch(cls, size: int, side_px: int) -> Batch:
        images, depth_m = torch.rand(size, 3, side_px, side_px), torch.ones(size, 1, side_px, side_px)
        return Batch(images=images, names=["trial"] * size, depth_m=depth_m)

    @classmethod
    def augmentation(cls, recipe: Recipe, crop_px: int, *, max_depth_m: float = 10.0) -> Pipeline:
        return Pipeline((RandomCrop(crop_px),), pad_px=crop_px)

    @classmethod
    def training_fit(cls, recipe: Recipe, crop_px: int) -> Resize:
        return Resize(size_px=crop_px, max_long_px=4 * crop_px)
