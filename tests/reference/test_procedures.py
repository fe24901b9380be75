"""Sliding windows, flips and shifted windows give what the original's test procedures give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from golden_models import golden_model, relative
from golden_set import Golden
from vpd.inference.windows import PlainWindows


@torch.no_grad()
def test_segmentation_slides_like_the_reference(golden: Golden) -> None:
    from vpd.inference.resize import resize_stream
    from vpd.inference.run import run_windows
    from vpd.tasks.task import Run, Seen

    file, settings = "procedures/seg_slide.safetensors", golden.json("procedures/seg.json")["slide"]
    model = golden_model(golden, "segment")
    cuts = PlainWindows(settings["crop"], settings["stride"])
    height, width = settings["ori_shape"]

    def logits_of(key: str, *, flip: bool = False) -> Tensor:
        images = golden.tensor(file, key)
        strips = run_windows(model, images.flip(-1) if flip else images, None, cuts)
        return torch.cat(list(strips), dim=-2)[0]

    def resized(logits: Tensor) -> Iterator[Tensor]:
        return (strip.clone() for strip in resize_stream([logits], logits.shape[-2], height, width))

    def mean(*variants: tuple[Tensor, bool]) -> Tensor:
        runs = [Run(logits[None], logits.shape[-2], flipped).of(0) for logits, flipped in variants]
        seen = Seen(0, Image.new("RGB", (width, height)), runs, rows=0, note="")
        return torch.cat([strip.clone() for strip in model.combine(model.prompts(1), seen)], dim=1)

    plain, flipped, scaled = (
        logits_of("slide/image"),
        logits_of("slide/image", flip=True),
        logits_of("slide/image_scaled"),
    )
    assert relative(plain, golden.tensor(file, "slide/logits")[0]) < 1e-4
    rescaled = torch.cat(list(resized(plain)), dim=1)
    assert relative(rescaled, golden.tensor(file, "slide/logits_rescaled")[0]) < 1e-4
    mirrored = mean((flipped, True))
    assert relative(mirrored, golden.tensor(file, "slide/prob_of_flipped")[0]) < 1e-4
    labels = rescaled.argmax(0)
    assert (labels == golden.tensor(file, "slide/label")[0]).float().mean() >= 0.999
    augmented = mean((plain, False), (flipped, True), (scaled, False)).argmax(0)
    assert (augmented == golden.tensor(file, "slide/label_aug")[0]).float().mean() >= 0.999


class Stub:
    """The golden set's stand-in for a network (its README, `depth_validate_stub`)."""

    device, dtype = torch.device("cpu"), torch.float32

    def __call__(self, images: Tensor, text: Tensor, *, caches: None) -> Tensor:
        images = (images + 1) / 2
        ramp = torch.arange(images.shape[-1]) / (images.shape[-1] - 1)
        return images.mean(dim=1, keepdim=True) * (1 + ramp) + 0.5 + 0.1 * text[:, :1, :1, None]


def depth_counts(golden: Golden, kind: str) -> list[int]:
    """Numbers of windows that the set has, fewest first."""
    found = (re.fullmatch(rf"{kind}/pred_shift(\d+)_flip0", name) for name in depth_validated(golden))
    return sorted(int(match[1]) for match in found if match)


def depth_validated(golden: Golden) -> dict[str, Any]:
    return golden.json("procedures/depth.json")["validate"]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("kind", "which"),
    [
        ("model", slice(1)),
        pytest.param("model", slice(1, None), marks=pytest.mark.extras, id="model-more"),
        ("stub", slice(None)),
    ],
)
def test_depth_windows_like_the_reference(golden: Golden, kind: str, which: slice, flip: bool) -> None:
    counts = depth_counts(golden, kind)
    assert counts
    for count in counts[which]:
        check_depth_windows(golden, kind, count, flip)


@torch.no_grad()
def check_depth_windows(golden: Golden, kind: str, count: int, flip: bool) -> None:
    from vpd.inference.run import run_windows
    from vpd.metrics.depth import DepthMetrics
    from vpd.tasks.task import Run, Seen

    file = f"procedures/depth_validate_{kind}.safetensors"
    images = golden.tensor(file, f"{kind}/image").float() * 2 - 1
    scene = golden.tensor(file, f"{kind}/class_id")
    model = golden_model(golden, "depth")
    height, width = images.shape[-2:]
    cuts = PlainWindows(height, (width - height) // (count - 1))
    text: Tensor = model.scene_embeddings[scene][:, None] if kind == "model" else scene[:, None, None].float()
    runs = []
    for is_mirrored in (False, True) if flip else (False,):
        pixels = images.flip(-1) if is_mirrored else images
        depth = torch.cat(list(run_windows(model if kind == "model" else Stub(), pixels, text, cuts)), dim=-2)
        runs.append(Run(depth, height, is_mirrored).of(0))
    seen = Seen(0, Image.new("RGB", (width, height)), runs, rows=0, note="")
    depth = torch.cat([strip.clone() for strip in model.combine(model.prompts(1), seen)], dim=1)[None]
    wanted = golden.tensor(file, f"{kind}/pred_shift{count}_flip{int(flip)}")
    assert relative(depth[0, 0], wanted) < 1e-4
    stored = depth_validated(golden)[f"{kind}/pred_shift{count}_flip{int(flip)}"]
    metrics = DepthMetrics(crop="nyu", max_depth_m=golden.json("depth/config.json")["settings"]["max_depth"])
    metrics.update(depth[:, 0], golden.tensor(file, f"{kind}/depth").float())
    for name, value in metrics.compute().items():
        if name in stored["metrics"]:
            assert value == pytest.approx(stored["metrics"][name], rel=2e-4), name
