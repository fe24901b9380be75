"""From logits of pictures, all at once or strip by strip, to labels and class probabilities at their own size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from PIL import Image
from torch import Tensor

from vpd.inference.plan import Step
from vpd.inference.resize import (
    Forward,
    Group,
    accumulated_probabilities,
    mean_of_streams,
    mean_of_variants,
    mean_probabilities,
)
from vpd.inference.run import stream

Labelled = tuple[Image.Image, Tensor, Tensor | None]
"""A picture, labels `(H, W)` uint8, and probabilities `(n, H, W)` where they were wanted; on the CPU."""

Variants = Iterable[tuple[Iterable[Tensor], bool]]
"""For each augmented variant, strips of logits `(b, n, rows, w)` and whether it is of the mirrored pictures."""


def label_group(group: Group, variants: Variants, keep: Tensor | None, *, scores: bool) -> Iterator[Labelled]:
    """Pictures that went through the network together, all variants of one size.

    Args:
        group: The pictures.
        variants: Their logits.
        keep: Classes to choose among; none = all.
        scores: Whether probabilities are wanted.
    """
    strips = list(variants)
    same_size = all((picture.height, picture.width) == tuple(pixels.shape[-2:]) for _, picture, pixels in group)
    if same_size and not scores:  # never more than a strip of logits in memory
        rows = []
        for parts in zip(*(parts for parts, _ in strips), strict=True):
            of_strip = ((select(part, keep), flip) for part, (_, flip) in zip(parts, strips, strict=True))
            rows.append(mean_of_variants(of_strip, dim=1).argmax(dim=1).to(torch.uint8).cpu())
        for (_, picture, _), picture_labels in zip(group, torch.cat(rows, dim=1), strict=True):
            yield picture, picture_labels, None
        return
    full = [(select(torch.cat(list(parts), dim=-2), keep), flipped) for parts, flipped in strips]
    for index, (_, picture, _) in enumerate(group):
        kept: list[tuple[Tensor, Tensor | None]] = []
        for strip in mean_probabilities([(part[index], flip) for part, flip in full], picture.height, picture.width):
            kept.append((strip.argmax(dim=0).to(torch.uint8).cpu(), strip.cpu() if scores else None))
        probs = torch.cat([part for _, part in kept if part is not None], dim=1) if scores else None
        yield picture, torch.cat([part for part, _ in kept]), probs


def label_scales(group: Group, variants: Variants, keep: Tensor | None, *, scores: bool) -> Iterator[Labelled]:
    """The same of the one picture of a group, where variants differ in size and come one after another."""
    ((_, picture, _),) = group
    logits = ((select(torch.cat(list(parts), dim=-2), keep)[0], flipped) for parts, flipped in variants)
    probs = accumulated_probabilities(logits, picture.height, picture.width)
    yield picture, probs.argmax(dim=0).to(torch.uint8).cpu(), probs.cpu() if scores else None


def label_stream(forward: Forward, step: Step, *, scores: bool) -> Iterator[Labelled]:
    """The same of one picture of which no more than some rows of logits are kept.

    Args:
        forward: Images -> float32 logits of the wanted classes.
        step: How the picture is run.
        scores: Whether probabilities are wanted.
    """
    ((_, picture, _),) = step.group
    streams = [
        (stream(forward, picture, step, scale=scale, mirrored=mirrored), mirrored)
        for scale in step.fit.scales
        for mirrored in ([False, True] if step.fit.flip else [False])
    ]
    labels = torch.empty(picture.height, picture.width, dtype=torch.uint8)
    probs: Tensor | None = None
    first = 0
    for strip in mean_of_streams(streams, picture.height):
        rows = slice(first, first + strip.shape[1])
        labels[rows] = strip.argmax(dim=0).to(torch.uint8)
        if scores:
            probs = torch.empty(len(strip), picture.height, picture.width) if probs is None else probs
            probs[:, rows] = strip
        first = rows.stop
    yield picture, labels, probs


def select(logits: Tensor, keep: Tensor | None) -> Tensor:
    """Logits `(b, n, h, w)` of the classes to keep."""
    return logits if keep is None else logits[:, keep]
