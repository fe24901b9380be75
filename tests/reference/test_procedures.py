"""Sliding windows, flips and shifted windows give what the original's test procedures give."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from golden_models import golden_model, relative
from golden_set import Golden
from vpd.config import Fit


@torch.no_grad()
def test_segmentation_slides_like_the_reference(golden: Golden) -> None:
    from vpd.inference.resize import mean_probabilities, resize_strips, slide

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
