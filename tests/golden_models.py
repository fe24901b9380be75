"""The golden networks: weights made by the recipe of the golden set, under the published key names."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golden_set import Golden
from vpd.config import Task
from vpd.convert import build_published
from vpd.tasks.losses import referring_loss, segmentation_loss, silog_loss
from vpd.tasks.model import PerceptionModel

TASKS: list[Task] = ["segment", "refer", "depth"]
FOLDERS: dict[Task, str] = {"segment": "seg", "refer": "refer", "depth": "depth"}


@lru_cache(maxsize=3)
def recipe_weights(golden: Golden, task: Task) -> dict[str, Tensor]:
    """Every weight as a function of its key, shape and the set's seed (golden README, weight recipe)."""
    folder = FOLDERS[task]
    seed = golden.json(f"{folder}/config.json")["seed"]
    shapes = golden.json(f"{folder}/state_dict_keys.json")
    return {key: _weight(key, entry["shape"], seed) for key, entry in shapes.items() if not key.startswith("sd_model.")}


def _weight(key: str, shape: list[int], seed: int) -> Tensor:
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return torch.zeros((), dtype=torch.int64)
    state = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32)
    u = (2 * state.random_sample(int(np.prod(shape))) - 1).reshape(shape)
    if last == "class_embeddings":
        value = np.sqrt(3) * u
    elif last == "gamma":
        value = 0.3 + 0.2 * u
    elif last == "running_var":
        value = 1 + 0.5 * u
    elif last == "running_mean":
        value = 0.2 * u
    elif len(shape) >= 2:
        value = u * np.sqrt(3 / np.prod(shape[1:]))
        if ".to_q." in key or ".to_k." in key:
            value = value * 2
        elif key.startswith(("decoder.", "last_layer_depth.")):
            value = value * 1.5
    else:
        value = 1 + 0.2 * u if last == "weight" else 0.1 * u
    return torch.from_numpy(value.astype(np.float16).astype(np.float32))


def golden_model(golden: Golden, task: Task, dtype: torch.dtype = torch.float32, **changes: Any) -> PerceptionModel:
    """The golden network of a task in eval mode; `changes` go to the backbone's configuration."""
    state = {key: value.clone() for key, value in recipe_weights(golden, task).items()}
    settings = golden.json(f"{FOLDERS[task]}/config.json")["settings"]
    model = build_published(task, state, origin="recipe", max_depth_m=settings.get("max_depth", 10.0)).eval()
    if task == "segment":
        model.head.dropout.p = 0.0  # as in the golden set
    model.backbone.config = model.backbone.config.model_copy(update=changes)
    return model.to(dtype)


def golden_inputs(
    golden: Golden, task: Task, model: PerceptionModel, dtype: torch.dtype, file: str = "golden"
) -> tuple[Tensor, Tensor]:
    """Images in [-1, 1] and text embeddings."""
    name = f"{FOLDERS[task]}/{file}.safetensors"
    images = golden.tensor(name, "image").to(dtype)
    if task == "segment":
        return images, model.class_embeddings.expand(len(images), -1, -1)
    if task == "refer":
        return images, golden.tensor(name, "text_features").to(dtype)
    return images * 2 - 1, model.scene_embeddings[golden.tensor(name, "class_ids")][:, None]


def file_of(task: Task, name: str) -> str:
    return f"{FOLDERS[task]}/{name}.safetensors"


def loss_of(golden: Golden, task: Task, model: PerceptionModel, dtype: torch.dtype) -> Tensor:
    """Loss on the golden batch."""
    images, text = golden_inputs(golden, task, model, dtype)
    target = golden.tensor(file_of(task, "golden"), "target")
    output = model(images, text)
    if task == "segment":
        return segmentation_loss(output, target.long(), count_ignored=True)
    if task == "refer":
        return referring_loss(output, target.long())
    return silog_loss(output, target[:, None].to(dtype))


def group_rates(procedures: dict[str, Any]) -> dict[str, float]:
    """Rates of the set's parameter groups, as `parameter_groups` takes them."""
    groups = [group for group in procedures["param_groups"] if group["params"]]
    rates = {name: group["lr"] for group in groups for name in group["params"]}
    (unet,) = (rate for name, rate in rates.items() if name.endswith("diffusion_model.time_embed.0.weight"))
    peak = max(rates.values())
    decay = max(group["weight_decay"] for group in groups)
    return {"learning_rate": peak, "weight_decay": decay, "unet_lr_scale": unet / peak}


def assert_close(got: Tensor, wanted: tuple[Tensor, int], limit: float = 1e-4, element: float | None = None) -> None:
    """Compare with (every n-th row and column, n), as `Golden.sampled` gives it."""
    expected, step = wanted
    got = got[..., ::step, ::step]
    assert got.shape == expected.shape
    assert relative(got, expected) < limit
    assert element is None or largest(got, expected) < element


def relative(got: Tensor, wanted: Tensor) -> float:
    """L2 distance over the L2 norm."""
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()


def largest(got: Tensor, wanted: Tensor) -> float:
    """Largest difference over the largest magnitude."""
    return ((got.double() - wanted.double()).abs().max() / wanted.double().abs().max()).item()
