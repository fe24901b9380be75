"""Latents, features, attention maps and outputs of the three models equal the original's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from golden_models import TASKS, assert_close, file_of, golden_inputs, golden_model, largest, relative
from golden_set import Golden
from vpd.config import Task
from vpd.tasks.model import PerceptionModel
from vpd.tensors import Features


def features_from_latents(
    golden: Golden, task: Task, model: PerceptionModel, name: str, dtype: torch.dtype
) -> tuple[Features, Tensor]:
    latents = golden.tensor(file_of(task, name), "latents").to(dtype)
    if task == "segment":
        text = model.class_embeddings.expand(len(latents), -1, -1)
    elif task == "refer":
        text = golden.tensor(file_of(task, "golden"), "text_features").to(dtype)
    else:
        text = model.scene_embeddings[golden.tensor(file_of(task, "golden"), "class_ids")][:, None]
    return model.backbone(None, model.adapter(text), latents=latents), model.adapter(text)


def head_maps(task: Task, features: Features) -> tuple[Tensor, ...]:
    return features.maps if task == "depth" else features.with_attention()


def maps_for_head(golden: Golden, task: Task, model: PerceptionModel) -> tuple[Tensor, ...]:
    """The golden features, or where the set has only samples of them, ours from the golden latents."""
    file = file_of(task, "golden")
    stored = [golden.sampled(file, f"feat{level}") for level in range(4)]
    if all(step == 1 for _, step in stored):
        return tuple(maps for maps, _ in stored)
    return head_maps(task, features_from_latents(golden, task, model, "golden", torch.float32)[0])


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_latents_are_the_unscaled_mode(golden: Golden, task: Task) -> None:
    model = golden_model(golden, task)
    images, _ = golden_inputs(golden, task, model, torch.float32)
    padded = torch.nn.functional.pad(images, (0, -images.shape[-1] % 64, 0, -images.shape[-2] % 64))
    assert largest(model.backbone.encode(padded), golden.tensor(file_of(task, "golden"), "latents")) < 1e-5


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_features_and_maps_float32(golden: Golden, task: Task) -> None:
    model, file = golden_model(golden, task), file_of(task, "golden")
    features, text = features_from_latents(golden, task, model, "golden", torch.float32)
    assert largest(text, golden.tensor(file, "text_adapted")) < 1e-5
    for level, got in enumerate(head_maps(task, features)):
        assert_close(got, golden.sampled(file, f"feat{level}"), element=5e-4)
    if task != "depth":
        for stride, key in ((16, "attn32"), (32, "attn16")):
            assert_close(features.attention[stride], golden.sampled(file, key))


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_features_float64(golden: Golden, task: Task) -> None:
    model, file = golden_model(golden, task, torch.float64), file_of(task, "golden_float64")
    features, text = features_from_latents(golden, task, model, "golden_float64", torch.float64)
    assert relative(text, golden.tensor(file, "text_adapted")) < 1e-6
    for level, got in enumerate(head_maps(task, features)):
        assert_close(got, golden.sampled(file, f"feat{level}"), 1e-6)


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_outputs_float32(golden: Golden, task: Task) -> None:
    model = golden_model(golden, task)
    images, text = golden_inputs(golden, task, model, torch.float32)
    got = model(images, text)
    wanted, step = golden.sampled(file_of(task, "golden"), "pred_d" if task == "depth" else "logits")
    assert_close(got, (wanted, step), element=5e-4)
    if task == "segment":
        agreeing = (got[..., ::step, ::step].argmax(1) == wanted.argmax(1)).float().mean()
        assert agreeing >= 0.999


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_whole_model_float64(golden: Golden, task: Task) -> None:
    model = golden_model(golden, task, torch.float64)
    images, text = golden_inputs(golden, task, model, torch.float64)
    if task == "depth":  # stored as float32 in [0, 1]; mapped to [-1, 1] in float64 here as there
        images = golden.tensor(file_of(task, "golden"), "image").double() * 2 - 1
    got = model(images, text)[..., ::2, ::2]
    assert_close(got, golden.sampled(file_of(task, "golden_float64"), "output_stride2"), 1e-6)


@pytest.mark.parametrize("task", ["segment", "refer"])
@torch.no_grad()
def test_head(golden: Golden, task: Task) -> None:
    model, file = golden_model(golden, task), file_of(task, "golden")
    maps = maps_for_head(golden, task, model)
    assert_close(model.head(maps), golden.sampled(file, "logits_low"))
    if task == "segment":
        for level, got in enumerate(model.head.pyramid(maps)):
            assert_close(got, golden.sampled(file, f"neck{level}"))


@torch.no_grad()
def test_depth_head(golden: Golden) -> None:
    model, file = golden_model(golden, "depth"), "depth/golden.safetensors"
    fused = model.head.fused(maps_for_head(golden, "depth", model))
    assert_close(fused, golden.sampled(file, "conv_feats"))
    side = golden.json("depth/config.json")["settings"]["image_size"] // 32  # without the padding
    assert_close(model.head.decode(fused[..., :side, :side]), golden.sampled(file, "pred_d"), element=5e-4)


@torch.no_grad()
def test_depth_at_other_sizes(golden: Golden) -> None:
    model, sizes = golden_model(golden, "depth"), golden.json("depth/config.json")["extra_sizes"]
    assert sizes
    for size in sizes:
        images, text = golden_inputs(golden, "depth", model, torch.float32, f"golden_{size}")
        assert_close(model(images, text), golden.sampled(f"depth/golden_{size}.safetensors", "pred_d"), element=5e-4)
