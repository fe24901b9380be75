"""Draws docs/concepts/*.svg from the code: shapes and counts of Stable Diffusion 1.5's size, on the meta device.

Write them anew: python tests/concept_figures.py
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from concept_parts import box, curve, million, named, svg, text, way
from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.bench.measuring import SD15
from vpd.config import BackboneConfig, LoraSettings, ReferConfig, Resize, SegmentConfig
from vpd.datasets.nyu import nyu_scenes
from vpd.inference.resize import fitted_size
from vpd.inference.windows import Cuts, PlainWindows, SmoothWindows
from vpd.prompts.names import imagenet_templates
from vpd.tasks.depth import REFERENCE_FIT
from vpd.tasks.segmentation import SegmentationModel
from vpd.tensors import GAIN, Features, scale_attention

FOLDER = Path(__file__).parents[1] / "docs" / "concepts"
SIDE_PX, CLASSES = 512, 150
PICTURE = 375, 1242  # height and width of KITTI's, for windows


class Sized(NamedTuple):
    """A segmentation model of Stable Diffusion 1.5's size without data, and what it gives for one picture."""

    model: SegmentationModel
    latents: Tensor
    features: Features
    logits: Tensor


@cache
def sized() -> Sized:
    """With 150 classes, for a picture of 512 px."""
    config = SegmentConfig(
        classes=tuple(f"class {number}" for number in range(CLASSES)),
        backbone=BackboneConfig(**SD15, map_scale="log_ratio"),
        fit=Resize(),
    )
    with torch.device("meta"), torch.no_grad():
        model = SegmentationModel(config, backbone=StableDiffusionBackbone.from_config(config.backbone)).eval()
        latents = model.backbone.encode(torch.empty(1, 3, SIDE_PX, SIDE_PX))
        features = model.backbone(None, torch.empty(1, CLASSES, model.backbone.text_dim), latents=latents)
        return Sized(model, latents, features, model.head(features.with_attention()))


def weights(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def lora_values(unet: nn.Module, rank: int = LoraSettings().rank) -> int:
    """What `LoraSettings` adds: two matrices beside each projection of each attention layer."""
    ends = ("to_q", "to_k", "to_v", "to_out.0")
    layers = [layer for name, layer in unet.named_modules() if name.endswith(ends) and ".attn" in name]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def shape(tensor: Tensor) -> str:
    return " × ".join(map(str, tensor.shape[1:]))


def one_pass_svg() -> str:
    """From picture and words to labels, through the UNet once; maps are drawn to scale."""
    model, latents, features, logits = sized()
    backbone, top, middle, head_x = model.backbone, 120, 265, 760
    scale = 1.25  # pixels of the figure to a step of a map
    side = latents.shape[-1] * scale
    parts = [
        named(20, 24, 150, 60, f"{CLASSES} class names", "put into sentences"),
        way("M170 54 H196"),
        named(198, 24, 130, 60, "text encoder", "frozen, run once"),
        way("M328 54 H354", "said"),
        named(356, 24, 130, 60, "text adapter", f"{million(weights(model.adapter))} weights", kind="learns"),
        way(f"M421 84 V{top - 2}", "said"),
        text(432, 106, f"{CLASSES} × {backbone.text_dim}: every position looks at every name", "dim small"),
        named(20, middle - 55, 110, 110, "picture", f"3 × {SIDE_PX} × {SIDE_PX}"),
        way(f"M130 {middle} H146"),
        named(148, middle - 40, 106, 80, "VAE encoder", f"{million(weights(backbone.vae))} weights", "frozen"),
        way(f"M254 {middle} H266"),
        box(268, middle - side / 2, side, side, "map"),
        text(268 + side / 2, middle + side / 2 + 16, "latents", "dim small mid"),
        text(268 + side / 2, middle + side / 2 + 32, shape(latents), "dim small mid"),
        way(f"M348 {middle} H362"),
        box(364, top, 114, 290, "learns"),
        *(
            text(421, middle - 16 + 18 * line, words, "ink bold mid" if not line else "dim small mid")
            for line, words in enumerate(
                ("UNet", f"{million(weights(backbone.unet))} weights", "run once, at", "time step 1")
            )
        ),
    ]
    y = top
    for maps, stride in zip(features.maps, features.strides, strict=True):
        width = maps.shape[-1] * scale
        row, label = y + max(width, 36) / 2, 500 + side + 14
        parts += [way(f"M478 {row:g} H496"), box(500, row - width / 2, width, width, "map")]
        if (attention := features.attention.get(stride)) is None:
            parts.append(text(label, row + 4, shape(maps)))
        else:
            parts.append(box(500 + width + 4, row - width / 2, width, width, "words"))
            parts += [text(label, row - 4, shape(maps)), text(label, row + 13, f"+ {shape(attention)}")]
        parts.append(way(f"M{head_x - 44} {row:g} H{head_x - 3}"))
        y += max(width, 36) + 22
    out_x = head_x + 124
    parts += [
        named(head_x, top, 96, 290, "head", f"{million(weights(model.head))} weights", kind="learns"),
        way(f"M{head_x + 96} {middle} H{out_x - 4}"),
        box(out_x, middle - side / 2, side, side, "map"),
        text(out_x + side / 2, middle + side / 2 + 16, shape(logits), "dim small mid"),
        text(out_x + side / 2, middle + side / 2 + 32, "then full size", "dim small mid"),
    ]
    keys = (
        ("learns", 20, "learns (mode full)"),
        ("part", 166, "frozen, or no weights"),
        ("map", 334, "features, true to scale"),
        ("words", 506, "attention to the names, beside features of its size"),
    )
    for kind, x, words in keys:
        parts += [box(x, 428, 12, 12, kind), text(x + 18, 439, words, "dim small")]
    return svg(980, 456, "One pass: picture and words to labels, with shapes for Stable Diffusion 1.5", parts)


def words_svg() -> str:
    """What the three tasks say to the UNet, and what comes back as attention."""
    backbone = sized().model.backbone
    tokens, templates = ReferConfig.model_fields["token_length"].default, len(imagenet_templates())
    sizes = [SIDE_PX // stride for stride in backbone.attention_strides]
    rows = (
        ("segment", f"{CLASSES} class names", f"mean over {templates} sentences", CLASSES, "a map for each class"),
        ("refer", "an expression", f"as it is, {tokens} tokens", tokens, "a map for each token"),
        (
            "depth",
            f"a scene, of {len(nyu_scenes())} (NYU)",
            f"mean over {templates} sentences",
            1,
            "one name gets all",
        ),
    )
    parts = []
    for number, (task, what, how, count, back) in enumerate(rows):
        y = 20 + number * 84
        maps = [f"{count} × {size} × {size}" for size in sizes] if count > 1 else ["so there is no map", "for the head"]
        parts += [text(14, y + 35, task, "ink bold"), named(90, y, 214, 60, what, how)]
        parts += [way(f"M304 {y + 30} H326"), named(328, y, 112, 60, "text encoder", "frozen")]
        parts += [way(f"M440 {y + 30} H462", "said"), named(464, y, 112, 60, "adapter", "learns", kind="learns")]
        parts += [text(588, y + 24, f"{count} × {backbone.text_dim}", "dim small"), way(f"M576 {y + 30} H664", "said")]
        parts += [named(666, y, 70, 60, "UNet", kind="learns"), way(f"M736 {y + 30} H758")]
        parts.append(named(760, y, 176, 68, back, *maps, kind="words" if count > 1 else "part"))
    return svg(956, 276, "What each task says to the UNet, and the attention that comes back", parts)


def map_scale_svg() -> str:
    """What a head gets of an attention of p, among 150 names: the probability, or the logarithm of its ratio."""
    left, right, top, bottom = 70, 610, 34, 250
    shares = torch.logspace(-4, 0, 161)
    as_map = torch.zeros(len(shares), CLASSES, 1, 1)
    as_map[:, 0, 0, 0] = shares
    scaled = {name: scale_attention(as_map, name)[:, 0, 0, 0].tolist() for name in ("probability", "log_ratio")}

    def place(share: float, value: float) -> tuple[float, float]:
        across = (torch.tensor(share).log10().item() + 4) / 4
        return left + across * (right - left), bottom - (value + 16) / 40 * (bottom - top)

    even_x = place(1 / CLASSES, 0)[0]
    parts = [
        text(left, 22, "what the head gets", "dim small"),
        text(right, bottom + 38, "attention to a name, p", "dim small end"),
    ]
    for value in (-16, -8, 0, 8, 16, 24):
        y = place(1, value)[1]
        parts += [
            f'<path class="way" opacity="0.35" d="M{left} {y:.1f} H{right}"/>',
            text(left - 8, y + 4, f"{value}", "dim small end"),
        ]
    for power in range(-4, 1):
        x = place(10.0**power, 0)[0]
        parts.append(text(x, bottom + 18, f"{10.0**power:g}", "dim small mid"))
    parts += [
        f'<path class="way" stroke-dasharray="3 3" d="M{even_x:.1f} {top} V{bottom}"/>',
        text(even_x + 6, top + 10, f"1/{CLASSES}: an even share", "dim small"),
        curve([place(p, value) for p, value in zip(shares.tolist(), scaled["probability"], strict=True)], "other"),
        curve([place(p, value) for p, value in zip(shares.tolist(), scaled["log_ratio"], strict=True)], "curve"),
        text(right, place(1, 2.4)[1], "reference: p", "ink small end"),
        text(place(0.1, 0)[0] - 16, place(1, 12.5)[1], f"default: {GAIN:g} × log({CLASSES} p)", "ink small end"),
    ]
    return svg(640, 300, "How attention enters a head, by recipe", parts)


def shares(cuts: Cuts, length: int) -> tuple[list[int], Tensor]:
    """First pixels of the windows along a side, and what each counts for in each of its pixels."""
    starts, side, given = cuts.starts(length), min(cuts.side_px, length), cuts.weights(length)
    if given is not None:
        return starts, given
    cover = torch.zeros(length)
    for start in starts:
        cover[start : start + side] += 1
    return starts, torch.stack([1 / cover[start : start + side] for start in starts])


def corners(share: Tensor) -> list[tuple[int, float]]:
    """Places and values of a curve: each fourth, and both ends of a step."""
    last = len(share) - 1
    steps = {at + side for at in range(last) for side in (0, 1) if abs(share[at + 1] - share[at]) > 0.05}
    return [(at, float(share[at])) for at in sorted({*range(0, last, 4), *steps, last})]


def windows_svg() -> str:
    """A wide picture at the size of a depth model: its windows, and what each counts for along the width."""
    height, width = fitted_size(REFERENCE_FIT, *PICTURE)
    side, stride = REFERENCE_FIT.window_px or 0, REFERENCE_FIT.stride_px or 0
    kinds = {"plain (reference)": PlainWindows(side, stride), "blended (default)": SmoothWindows(side, side - stride)}
    left, scale, y = 20, 820 / width, 40
    parts = [text(left, 24, f"a picture of {PICTURE[1]}×{PICTURE[0]}, run at {width}×{height}", "dim small")]
    for row, (name, cuts) in enumerate(kinds.items()):
        starts, counted = shares(cuts, width)
        high, base = 96, y + 130
        parts += [text(left, y + 16, f"{name}: {len(starts)} windows of {side} px", "ink bold")]
        parts.append(text(left + 820, y + 16, "what each window counts for, from 0 to 1", "dim small end"))
        parts.append(f'<path class="way" d="M{left} {base} H{left + 820}"/>')
        for number, (start, share) in enumerate(zip(starts, counted, strict=True)):
            ends = [(start, 0.0), *((start + at, value) for at, value in corners(share)), (start + side, 0.0)]
            points = [(left + x * scale, base - value * high) for x, value in ends]
            parts.append(curve(points, "curve" if number % 2 else "other"))
        y = base + 34 if row == 0 else base
    return svg(860, y + 24, "Windows of a wide picture, plain and blended", parts)


def training_svg() -> str:
    """Which part of a model learns in which mode."""
    model = sized().model
    unet, added = weights(model.backbone.unet), lora_values(model.backbone.unet)
    adapter, head = weights(model.adapter), weights(model.head)
    learning = {
        "full": (unet + adapter + head, (False, True, False, True, True)),
        "lora": (added + adapter + head, (False, False, True, True, True)),
        "frozen": (adapter + head, (False, False, False, True, True)),
        "head": (head, (False, False, False, False, True)),
    }
    columns = (
        ("VAE, text encoder", "never learn"),
        ("UNet", million(unet)),
        ("LoRA beside it", million(added)),
        ("text adapter", million(adapter)),
        ("head", million(head)),
    )
    left, step, row = 110, 132, 46
    parts = []
    for place, (name, count) in enumerate(columns):
        middle = left + place * step + 58
        parts += [text(middle, 26, name, "ink bold mid"), text(middle, 42, count, "dim small mid")]
    parts.append(text(left + 5 * step + 10, 26, "learn", "ink bold"))
    for line, (mode, (total, does)) in enumerate(learning.items()):
        y = 56 + line * row
        parts.append(text(20, y + 22, mode, "ink bold"))
        first = does.index(True)
        for place, learns in enumerate(does):
            if place == 2 and mode != "lora":
                continue
            parts.append(box(left + place * step, y, 116, 34, "learns" if learns else "part"))
            if learns:
                parts.append(text(left + place * step + 58, y + 21, "learns", "ink small mid"))
            elif place == 1 and first <= 3:
                parts.append(text(left + place * step + 58, y + 21, "gradient passes", "dim small mid"))
        parts.append(text(left + 5 * step + 10, y + 22, million(total)))
    return svg(left + 5 * step + 90, 56 + 4 * row + 4, "What learns in each mode, for Stable Diffusion 1.5", parts)


PICTURES = {
    "one-pass.svg": one_pass_svg,
    "words.svg": words_svg,
    "map-scale.svg": map_scale_svg,
    "windows.svg": windows_svg,
    "training.svg": training_svg,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
