"""Training and prediction in channels-last order copy no map into another order, on the path that a GPU takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import vpd
from one_layout import Audit, as_on_a_gpu
from vpd.config import Resize
from vpd.tasks.losses import referring_loss, segmentation_loss
from vpd.tensors import IGNORE_LABEL
from vpd.training.settings import resolve_config
from vpd.training.step import LossOf, set_up

SIDE = 128  # the coarsest map is 2x2, so that it has an order
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "segment": ("segment", {"head_channels": 8}),
    "segment, any classes": ("segment", {"head_channels": 8, "head": "open"}),
    "segment, group norm": ("segment", {"head_channels": 8, "head_norm": "group"}),
    "refer": ("refer", {"head_channels": 8, "token_length": 8}),
    "refer, group norm": ("refer", {"head_channels": 8, "token_length": 8, "head_norm": "group"}),
    "depth": ("depth", {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}),
    "depth, group norm": (
        "depth",
        {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8), "head_norm": "group"},
    ),
}
CLASSES = ("sky", "road", "tree", "car", "house")
NAMES: dict[str, dict[str, Any]] = {"segment": {"classes": CLASSES}, "refer": {}, "depth": {"scenes": ("hall", "shop")}}
TASKS = {"segment": vpd.SegmentationModel, "refer": vpd.ReferringModel, "depth": vpd.DepthModel}
# the picture: 3 channels, where the first map has 128
OF_THE_PICTURE = f"(2, 3, {SIDE}, {SIDE})", f"(1, 3, {SIDE}, {SIDE})"
# without gradient torch may lay out the logits of a finest map, an eighth of the picture's side, as it likes
OF_OPEN_LOGITS = f"(1, {len(CLASSES)}, {SIDE // 8}, {SIDE // 8})"


def new_model(way: str, source: Path) -> Any:
    task, options = HEADS[way]
    torch.manual_seed(0)
    return TASKS[task].from_diffusion(source, fit=Resize(size_px=SIDE), **NAMES[task], **options)


def not_allowed(found: list[str], *allowed: str) -> list[str]:
    return [line for line in found if not any(shape in line for shape in allowed)]


def loss_of(way: str, source: Path) -> tuple[LossOf, Any]:
    """The loss of a bfloat16 step, and a batch."""
    model, task = new_model(way, source), HEADS[way][0]
    settings = {"model": "x", "data": {"root": "x"}, "batch_size": 2, "crop_px": SIDE, "steps": 9}
    config = resolve_config(task, settings | {"precision": "bf16", "channels_last": True})
    set_up(model, config)
    torch.manual_seed(0)
    return LossOf(model.train(), config), type(model).example_batch(2, SIDE)


@pytest.mark.extras
@pytest.mark.parametrize("way", HEADS)
def test_a_training_step_copies_no_map(way: str, tiny_diffusion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward; the loss is that of a CPU's path."""
    loss, batch = loss_of(way, tiny_diffusion)
    torch.manual_seed(0)
    wanted, _ = loss(batch)
    as_on_a_gpu(monkeypatch)
    loss, batch = loss_of(way, tiny_diffusion)
    torch.manual_seed(0)
    with Audit() as audit:
        total, _ = loss(batch)
        total.backward()
    assert not_allowed(audit.found, *OF_THE_PICTURE) == []
    assert float(total.detach()) == pytest.approx(float(wanted.detach()), rel=2e-2)


@pytest.mark.extras
@pytest.mark.parametrize("way", HEADS)
def test_a_prediction_copies_no_map(way: str, tiny_diffusion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_gpu(monkeypatch)
    fast = vpd.optimise(new_model(way, tiny_diffusion).eval(), dtype="bfloat16")
    words = {"text": "the left square"} if HEADS[way][0] == "refer" else {}
    with Audit() as audit:
        fast.predict([torch.rand(3, SIDE, SIDE)], **words)
    assert not_allowed(audit.found, *OF_THE_PICTURE, *([OF_OPEN_LOGITS] if way == "segment, any classes" else [])) == []


@pytest.mark.extras
def test_the_audit_can_fail(tiny_diffusion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_a_gpu(monkeypatch)
    monkeypatch.setattr("vpd.tasks.losses._BY_ROWS_ON", ())
    monkeypatch.setattr("vpd.heads.norms.has_kernel", lambda maps: False)
    loss, batch = loss_of("segment, group norm", tiny_diffusion)
    with Audit() as audit:
        loss(batch)[0].backward()
    found = "\n".join(not_allowed(audit.found, *OF_THE_PICTURE))
    assert all(name in found for name in ("native_group_norm", "_log_softmax", "convolution_backward"))


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "cross_entropy_dice"])
def test_losses_of_rows_are_the_same(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their gradients, weights and ignored pixels."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 6, 7), torch.randint(0, 5, (2, 6, 7))
    labels[0, :2] = IGNORE_LABEL
    masks = torch.where(labels == IGNORE_LABEL, labels, labels % 2)

    def values(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = logits.detach().requires_grad_()
        loss = segmentation_loss(logits, labels, kind=kind, class_weights=(1.0, 2.0, 0.5, 3.0, 0.1))
        pair = referring_loss(logits[:, :2].clone(), masks)
        return loss, pair, torch.autograd.grad(loss + pair, logits)[0]

    wanted = values(logits)
    monkeypatch.setattr("vpd.tasks.losses._BY_ROWS_ON", ("cpu",))
    torch.testing.assert_close(values(logits.contiguous(memory_format=torch.channels_last)), wanted)
