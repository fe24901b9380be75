"""The golden numbers on a GPU in float32: ten times what CPUs are held to, as sums come in another order there."""

from __future__ import annotations

import pytest
import torch

from golden_models import FOLDERS, TASKS, assert_close, file_of, golden_inputs, golden_model
from golden_set import Golden
from vpd.config import Task
from vpd.tasks.losses import referring_loss, segmentation_loss, silog_loss
from vpd.weights.key_names import published_names

LIMIT, ELEMENT = 1e-3, 5e-3
"""L2 distance over the norm, and the largest difference over the largest value."""


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_features(golden: Golden, task: Task, device: torch.device) -> None:
    model, file = golden_model(golden, task).to(device), file_of(task, "golden")
    if task == "segment":
        text = model.class_embeddings[None]
    elif task == "refer":
        text = golden.tensor(file, "text_features").to(device)
    else:
        text = model.scene_embeddings[golden.tensor(file, "class_ids").to(device)][:, None]
    features = model.backbone(None, model.adapter(text), latents=golden.tensor(file, "latents").to(device))
    for level, got in enumerate(features.maps if task == "depth" else features.with_attention()):
        assert got.device.type == device.type
        assert_close(got.cpu(), golden.sampled(file, f"feat{level}"), LIMIT, ELEMENT)


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_outputs(golden: Golden, task: Task, device: torch.device) -> None:
    model = golden_model(golden, task).to(device)
    images, text = golden_inputs(golden, task, model, torch.float32)
    wanted = golden.sampled(file_of(task, "golden"), "pred_d" if task == "depth" else "logits")
    assert_close(model(images.to(device), text.to(device)).cpu(), wanted, LIMIT, ELEMENT)


def test_depth_is_that_of_the_cpu(golden: Golden, device: torch.device) -> None:
    """Of whose pictures the compact set has none."""
    found = []
    images, target = torch.rand(2, 3, 96, 128) * 2 - 1, torch.rand(2, 1, 96, 128) * 8 + 1
    for place in (torch.device("cpu"), device):
        model = golden_model(golden, "depth").to(place)
        output = model(images.to(place), model.scene_embeddings[:2, None])
        loss = silog_loss(output, target.to(place))
        loss.backward()
        norms = {name: value.grad.norm().item() for name, value in model.named_parameters() if value.grad is not None}
        found.append((output.detach().cpu(), loss.item(), norms))
    (wanted, loss_of_cpu, norms_of_cpu), (got, loss_here, norms) = found
    assert_close(got, (wanted, 1), LIMIT, ELEMENT)
    assert loss_here == pytest.approx(loss_of_cpu, rel=1e-3)
    total = sum(norm**2 for norm in norms_of_cpu.values()) ** 0.5
    assert norms == pytest.approx(norms_of_cpu, rel=5e-2, abs=1e-3 * total)


@pytest.mark.parametrize("task", TASKS)
def test_loss_and_gradients(golden: Golden, task: Task, device: torch.device) -> None:
    wanted = golden.entry(f"{FOLDERS[task]}/golden_train.json", "train")
    model = golden_model(golden, task, detach_maps=True).to(device).train()
    images, text = golden_inputs(golden, task, model, torch.float32)
    target = golden.tensor(file_of(task, "golden"), "target").to(device)
    output = model(images.to(device), text.to(device))
    if task == "segment":
        loss = segmentation_loss(output, target.long(), count_ignored=True)
    else:
        loss = referring_loss(output, target.long()) if task == "refer" else silog_loss(output, target[:, None])
    assert loss.item() == pytest.approx(next(iter(wanted["loss"].values())), rel=1e-3)
    loss.backward()
    names = published_names(task, model.state_dict())
    total = sum(norm**2 for norm in wanted["grad_norm"].values() if norm) ** 0.5
    compared = 0
    for ours, parameter in model.named_parameters():
        norm = wanted["grad_norm"].get(names[ours])
        if norm and names[ours] not in wanted["noise_only"]:
            assert parameter.grad is not None, ours
            assert parameter.grad.norm().item() == pytest.approx(norm, rel=5e-2, abs=1e-3 * total), ours
            compared += 1
    assert compared > 100
