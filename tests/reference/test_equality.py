"""The three models equal the original: features, maps, outputs, losses, gradients, optimiser steps, procedures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from golden_models import FOLDERS, golden_inputs, golden_model, largest, relative
from golden_set import Golden
from vpd.config import Fit, Task
from vpd.reference.keys import published_names
from vpd.tasks.losses import referring_loss, segmentation_loss, silog_loss
from vpd.tasks.model import PerceptionModel

TASKS: list[Task] = ["segment", "refer", "depth"]


def file_of(task: Task, name: str) -> str:
    return f"{FOLDERS[task]}/{name}.safetensors"


def features_from_latents(golden: Golden, task: Task, model: PerceptionModel, name: str, dtype: torch.dtype):
    latents = golden.tensor(file_of(task, name), "latents").to(dtype)
    if task == "segment":
        text = model.class_embeddings.expand(len(latents), -1, -1)
    elif task == "refer":
        text = golden.tensor(file_of(task, "golden"), "text_features").to(dtype)
    else:
        text = model.scene_embeddings[golden.tensor(file_of(task, "golden"), "class_ids")][:, None]
    return model.backbone.features(latents, model.adapter(text)), model.adapter(text)


def head_maps(task: Task, features):
    return features.maps if task == "depth" else features.with_attention()


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
    model = golden_model(golden, task)
    features, text = features_from_latents(golden, task, model, "golden", torch.float32)
    assert largest(text, golden.tensor(file_of(task, "golden"), "text_adapted")) < 1e-5
    for level, got in enumerate(head_maps(task, features)):
        if golden.omits(f"{file_of(task, 'golden')}:feat{level}"):
            continue
        wanted = golden.tensor(file_of(task, "golden"), f"feat{level}")
        assert relative(got, wanted) < 1e-4
        assert largest(got, wanted) < 5e-4
    if task != "depth":
        for stride, key in ((16, "attn32"), (32, "attn16")):
            assert relative(features.attention[stride], golden.tensor(file_of(task, "golden"), key)) < 1e-4


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_features_float64(golden: Golden, task: Task) -> None:
    model = golden_model(golden, task, torch.float64)
    features, text = features_from_latents(golden, task, model, "golden_float64", torch.float64)
    assert relative(text, golden.tensor(file_of(task, "golden_float64"), "text_adapted")) < 1e-6
    for level, got in enumerate(head_maps(task, features)):
        assert relative(got, golden.tensor(file_of(task, "golden_float64"), f"feat{level}")) < 1e-6


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_outputs_float32(golden: Golden, task: Task) -> None:
    model = golden_model(golden, task)
    images, text = golden_inputs(golden, task, model, torch.float32)
    got, wanted = model(images, text), golden.tensor(file_of(task, "golden"), "pred_d" if task == "depth" else "logits")
    assert relative(got, wanted) < 1e-4
    assert largest(got, wanted) < 5e-4
    if task == "segment":
        agreeing = (got.argmax(1) == wanted.argmax(1)).float().mean()
        assert agreeing >= 0.999


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_whole_model_float64(golden: Golden, task: Task) -> None:
    model = golden_model(golden, task, torch.float64)
    images, text = golden_inputs(golden, task, model, torch.float64)
    if task == "depth":  # stored as float32 in [0, 1]; mapped to [-1, 1] in float64 here as there
        images = golden.tensor(file_of(task, "golden"), "image").double() * 2 - 1
    got = model(images, text)[..., ::2, ::2]
    assert relative(got, golden.tensor(file_of(task, "golden_float64"), "output_stride2")) < 1e-6


@pytest.mark.parametrize("task", ["segment", "refer"])
@torch.no_grad()
def test_head_from_golden_features(golden: Golden, task: Task) -> None:
    model = golden_model(golden, task)
    maps = tuple(golden.tensor(file_of(task, "golden"), f"feat{level}") for level in range(4))
    assert relative(model.head(maps), golden.tensor(file_of(task, "golden"), "logits_low")) < 1e-4
    if task == "segment":
        for level, got in enumerate(model.head.pyramid(maps)):
            assert relative(got, golden.tensor(file_of(task, "golden"), f"neck{level}")) < 1e-4


@torch.no_grad()
def test_depth_head_from_golden_features(golden: Golden) -> None:
    model = golden_model(golden, "depth")
    maps = tuple(golden.tensor("depth/golden.safetensors", f"feat{level}") for level in range(4))
    fused = model.head.fused(maps)
    assert relative(fused, golden.tensor("depth/golden.safetensors", "conv_feats")) < 1e-4
    cropped = model.head.decode(fused[..., :11, :11])
    assert relative(cropped, golden.tensor("depth/golden.safetensors", "pred_d")) < 1e-4


@pytest.mark.parametrize("size", [480, 512])
@torch.no_grad()
def test_depth_at_other_sizes(golden: Golden, size: int) -> None:
    model = golden_model(golden, "depth")
    images, text = golden_inputs(golden, "depth", model, torch.float32, f"golden_{size}")
    got, wanted = model(images, text), golden.tensor(f"depth/golden_{size}.safetensors", "pred_d")
    assert relative(got, wanted) < 1e-4
    assert largest(got, wanted) < 5e-4


REGIMES = {"train": (True, True), "eval": (False, True), "train_maps_differentiable": (True, False)}
"""Regime -> (train mode, maps detached)."""


def loss_of(golden: Golden, task: Task, model: PerceptionModel, dtype: torch.dtype) -> Tensor:
    images, text = golden_inputs(golden, task, model, dtype)
    target = golden.tensor(file_of(task, "golden"), "target")
    output = model(images, text)
    if task == "segment":
        return segmentation_loss(output, target.long(), count_ignored=True)
    if task == "refer":
        return referring_loss(output, target.long())
    return silog_loss(output, target[:, None].to(dtype))


def published_gradients(task: Task, model: PerceptionModel) -> dict[str, Tensor | None]:
    names = published_names(task, model.state_dict())
    return {names[ours]: parameter.grad for ours, parameter in model.named_parameters()}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("task", TASKS)
def test_loss_and_gradients_float32(golden: Golden, task: Task, regime: str) -> None:
    if task == "depth" and regime == "train_maps_differentiable":
        pytest.skip("depth has one token: its maps are constants, and the golden set has no such regime")
    wanted = golden.entry(f"{FOLDERS[task]}/golden_train.json", regime)
    train, detach = REGIMES[regime]
    model = golden_model(golden, task, detach_maps=detach).train(train)
    loss = loss_of(golden, task, model, torch.float32)
    assert loss.item() == pytest.approx(next(iter(wanted["loss"].values())), rel=1e-5)
    loss.backward()
    compare_norms(published_gradients(task, model), wanted["grad_norm"], wanted["noise_only"], rel=1e-2, noise=1e-4)
    if regime == "train":
        state = {published_names(task, [key])[key]: value for key, value in head_state(model).items()}
        for key in golden.keys(file_of(task, "golden_train")):
            if key.startswith("bn_after/"):
                assert (
                    largest(state[key.removeprefix("bn_after/")], golden.tensor(file_of(task, "golden_train"), key))
                    < 1e-4
                )


def head_state(model: PerceptionModel) -> dict[str, Tensor]:
    # published_names reads layer counts off UNet keys; the head's keys alone do not need them
    return {key: value for key, value in model.state_dict().items() if key.startswith("head.")}


def compare_norms(
    gradients: dict[str, Tensor | None],
    wanted: dict[str, float | None],
    noise_only: list[str],
    rel: float,
    noise: float,
) -> None:
    total = sum(norm**2 for norm in wanted.values() if norm) ** 0.5
    known = {key for key in wanted if key in gradients}
    missing = {key for key, norm in wanted.items() if norm is not None and key not in known}
    assert not missing
    problems = []
    for key in known:
        got, norm = gradients[key], wanted[key]
        if norm is None:
            if got is not None and got.norm() > 0:
                problems.append(f"{key}: the original has no gradient here, ours is {got.norm():.3g}")
        elif key in noise_only:
            if got is not None and got.norm() > noise * total:
                problems.append(f"{key}: noise only in the original, ours is {got.norm():.3g}")
        elif got is None or abs(got.norm().item() - norm) > max(rel * norm, noise * total):
            problems.append(f"{key}: {None if got is None else got.norm().item()} instead of {norm}")
    assert not problems, "\n".join(problems)


@pytest.mark.extras
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("task", TASKS)
def test_loss_and_gradients_float64(golden: Golden, task: Task, regime: str) -> None:
    if task == "depth" and regime == "train_maps_differentiable":
        pytest.skip("depth has one token: its maps are constants, and the golden set has no such regime")
    wanted = golden.entry(f"{FOLDERS[task]}/golden_float64.json", regime)
    train, detach = REGIMES[regime]
    model = golden_model(golden, task, torch.float64, detach_maps=detach).train(train)
    loss = loss_of(golden, task, model, torch.float64)
    assert loss.item() == pytest.approx(wanted["loss"], rel=1e-6)
    loss.backward()
    gradients = published_gradients(task, model)
    total = sum(norm**2 for norm in wanted["grad_norm"].values() if norm) ** 0.5
    for key, norm in wanted["grad_norm"].items():
        if norm is not None:
            assert gradients[key].norm().item() == pytest.approx(norm, rel=1e-6, abs=1e-9 * total), key
    for key in golden.keys(file_of(task, "golden_float64")):
        if key.startswith(f"grad/{regime}/"):
            got = gradients[key.removeprefix(f"grad/{regime}/")]
            want = golden.tensor(file_of(task, "golden_float64"), key)
            assert (got - want).norm() <= 1e-6 * want.norm() + 1e-9 * total, key


def test_regimes_can_be_told_apart(golden: Golden) -> None:
    """Gradient through the maps changes the adapter's gradient by 0.1 to 0.3 per cent: the option is real."""
    grads = {}
    for detach in (True, False):
        model = golden_model(golden, "refer", detach_maps=detach).train()
        loss_of(golden, "refer", model, torch.float32).backward()
        grads[detach] = model.adapter.gamma.grad
    assert 1e-4 < relative(grads[True], grads[False]) < 1e-1


@pytest.mark.extras
def test_checkpointing_gives_the_same_gradients(golden: Golden) -> None:
    norms = []
    for checkpointing in (False, True):
        model = golden_model(golden, "segment", torch.float64, detach_maps=False).train()
        model.backbone.gradient_checkpointing = checkpointing
        loss_of(golden, "segment", model, torch.float64).backward()
        norms.append([p.grad.norm().item() for p in model.parameters() if p.grad is not None])
    assert norms[0] == pytest.approx(norms[1], rel=1e-9, abs=1e-12)


@pytest.mark.extras
@pytest.mark.parametrize("task", TASKS)
def test_three_optimiser_steps(golden: Golden, task: Task) -> None:
    """In float64: Adam turns rounding noise of small gradients into steps, 1.4e-4 of the third float32 loss."""
    from vpd.training.optimisers import VALUES, build_optimiser, parameter_groups, set_learning_rate

    stored = golden.entry(f"procedures/{FOLDERS[task]}.json", "three_steps")
    model = golden_model(golden, task, torch.float64).train()
    names = published_names(task, model.state_dict())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    values = VALUES["reference"][task]
    groups = parameter_groups(
        model.named_parameters(),
        task=task,
        recipe="reference",
        learning_rate=values.learning_rate,
        weight_decay=values.weight_decay,
        unet_lr_scale=values.unet_lr_scale,
        published_name=names.__getitem__,
    )
    optimiser = build_optimiser(groups)
    for step, wanted in enumerate(stored["loss"]):
        if "lr" in stored:
            set_learning_rate(optimiser, stored["lr"][step])
        optimiser.zero_grad()
        loss = loss_of(golden, task, model, torch.float64)
        assert loss.item() == pytest.approx(wanted, rel=5e-5)
        loss.backward()
        optimiser.step()
    noise_only = set(golden.json(f"{FOLDERS[task]}/golden_train.json")["train"]["noise_only"])
    for ours, parameter in model.named_parameters():
        wanted = stored["delta_norm"][names[ours]]
        if names[ours] not in noise_only:
            got = (parameter.detach() - before[ours]).norm().item()
            assert got == pytest.approx(wanted, rel=5e-2, abs=1e-9), names[ours]


@torch.no_grad()
def test_segmentation_slides_like_the_reference(golden: Golden) -> None:
    from vpd.tasks.inference import resize_strips, slide
    from vpd.tasks.segmentation import mean_probabilities

    file, settings = "procedures/seg_slide.safetensors", golden.json("procedures/seg.json")["slide"]
    model = golden_model(golden, "segment")
    fit = Fit(mode="native", window_px=settings["crop"], stride_px=settings["stride"])
    height, width = settings["ori_shape"]

    def logits_of(key: str, *, flip: bool = False) -> Tensor:
        images = golden.tensor(file, key)
        return torch.cat(list(slide(model, images.flip(-1) if flip else images, fit)), dim=-2)[0]

    plain, flipped, scaled = (
        logits_of("slide/image"),
        logits_of("slide/image", flip=True),
        logits_of("slide/image_scaled"),
    )
    assert relative(plain, golden.tensor(file, "slide/logits")[0]) < 1e-4
    rescaled = torch.cat(list(resize_strips(plain, height, width)), dim=1)
    assert relative(rescaled, golden.tensor(file, "slide/logits_rescaled")[0]) < 1e-4
    mirrored = torch.cat(list(mean_probabilities([(flipped, True)], height, width)), dim=1)
    assert relative(mirrored, golden.tensor(file, "slide/prob_of_flipped")[0]) < 1e-4
    labels = rescaled.argmax(0)
    assert (labels == golden.tensor(file, "slide/label")[0]).float().mean() >= 0.999
    variants = [(plain, False), (flipped, True), (scaled, False)]
    augmented = torch.cat([part.argmax(0) for part in mean_probabilities(variants, height, width)])
    assert (augmented == golden.tensor(file, "slide/label_aug")[0]).float().mean() >= 0.999


def stub(images: Tensor, text: Tensor) -> Tensor:
    """The golden set's stand-in for a network (its README, `depth_validate_stub`)."""
    images = (images + 1) / 2
    ramp = torch.arange(images.shape[-1]) / (images.shape[-1] - 1)
    return images.mean(dim=1, keepdim=True) * (1 + ramp) + 0.5 + 0.1 * text[:, :1, :1, None]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("kind", "count"), [("model", 2), pytest.param("model", 3, marks=pytest.mark.extras), ("stub", 2), ("stub", 5)]
)
@torch.no_grad()
def test_depth_windows_like_the_reference(golden: Golden, kind: str, count: int, flip: bool) -> None:
    from vpd.metrics.depth import DepthMetrics

    file = f"procedures/depth_validate_{kind}.safetensors"
    images = golden.tensor(file, f"{kind}/image").float() * 2 - 1
    scene = golden.tensor(file, f"{kind}/class_id")
    model = golden_model(golden, "depth")
    height, width = images.shape[-2:]
    fit = Fit(mode="native", window_px=height, stride_px=(width - height) // (count - 1), flip=flip)
    text: Tensor = model.scene_embeddings[scene][:, None] if kind == "model" else scene[:, None, None].float()
    forward: Callable[[Tensor, Tensor], Tensor] = model if kind == "model" else stub
    depth = model.fitted_depth(images, text, fit, forward)
    wanted = golden.tensor(file, f"{kind}/pred_shift{count}_flip{int(flip)}")
    assert relative(depth[0, 0], wanted) < 1e-4
    stored = golden.json("procedures/depth.json")["validate"][f"{kind}/pred_shift{count}_flip{int(flip)}"]
    metrics = DepthMetrics(crop="nyu")
    metrics.update(depth[:, 0], golden.tensor(file, f"{kind}/depth").float())
    for name, value in metrics.compute().items():
        if name in stored["metrics"]:
            assert value == pytest.approx(stored["metrics"][name], rel=2e-4), name
