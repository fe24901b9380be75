"""A picture through a network, window by window, as strips of finished rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vpd.files.images import to_bytes, to_range
from vpd.inference.cache import FrozenCaches
from vpd.inference.overlapped import launching
from vpd.inference.windows import Cuts
from vpd.tensors import on_device


def run_windows(
    model: Any,
    images: Tensor | Image.Image,
    text_embeds: Tensor | None,
    cuts: Cuts | None,
    *,
    rows: int | None = None,
    caches: FrozenCaches | None = None,
    network: Callable[..., Tensor] | None = None,
) -> Iterator[Tensor]:
    """Outputs of a network for images of any size, from top to bottom; windows are averaged or blended.

    Args:
        model: Who runs: a task model, or whatever has its `device`, `dtype` and call.
        images: `(b, 3, h, w)`, uint8, or in [-1, 1]; or one RGB picture, of which only a window at a time becomes a
            tensor.
        text_embeds: What the model is prompted with; none = its own prompts.
        cuts: How the images are cut; none = they go through as a whole, and the outputs are one strip.
        rows: Most rows of a strip; none = all that are finished. Then each strip is a tensor of its own.
        caches: Where results of the frozen parts are kept, if anywhere.
        network: What is called in the model's place, as the model is; none = the model.

    Yields:
        Float32 `(b, c, rows, w)`; with `rows`, to be used before the next is asked for. No more than one row of
        windows is held at a time, in memory that is used again.
    """
    network = model if network is None else network
    height, width = images.shape[-2:] if isinstance(images, Tensor) else (images.height, images.width)
    images = on_device(images, model.device) if isinstance(images, Tensor) else images
    text = None if text_embeds is None else text_embeds.to(model.device, model.dtype)
    part_h, part_w = (height, width) if cuts is None else cuts.size(height, width)
    tops, lefts = ([0], [0]) if cuts is None else (cuts.starts(height), cuts.starts(width))
    if len(tops) == len(lefts) == 1:
        whole = images if isinstance(images, Tensor) else to_bytes(images)
        with launching(model.device):
            output = network(_as_input(whole, model), text, caches=caches).float()
        yield output
        return
    down, across = (None, None) if cuts is None else (cuts.weights(height), cuts.weights(width))
    counts = None
    if down is None or across is None:
        counts = on_device(_cover(tops, part_h, height)[:, None] * _cover(lefts, part_w, width), model.device)
    else:
        down, across = on_device(down, model.device), on_device(across, model.device)
    total = torch.zeros(())
    for number, top in enumerate(tops):
        for place, left in enumerate(lefts):
            window = _as_input(_window(images, top, left, part_h, part_w), model)
            with launching(model.device):
                output = network(window, text, caches=caches).float()
            if not total.ndim:
                total = output.new_zeros((*output.shape[:2], part_h, width))
            if down is not None and across is not None:
                output *= down[number][:, None] * across[place]
            total[..., left : left + part_w] += output
            del output, window
        done = (tops[number + 1] if number + 1 < len(tops) else height) - top
        step = done if rows is None else min(rows, done)
        for first in range(0, done, step):
            strip = total[..., first : min(first + step, done), :]
            if counts is not None:
                strip = strip / counts[top + first : top + first + strip.shape[-2]]
            yield strip if rows is not None or counts is not None else strip.clone()
        _move_up(total, done, step)


def _window(images: Tensor | Image.Image, top: int, left: int, height: int, width: int) -> Tensor:
    if isinstance(images, Tensor):
        return images[..., top : top + height, left : left + width]
    return to_bytes(images.crop((left, top, left + width, top + height)))


def _as_input(pixels: Tensor, model: Any) -> Tensor:
    """Pixels as a network takes them: bytes cross to its device as they are and are scaled there, in float32."""
    pixels = on_device(pixels, model.device)
    return (to_range(pixels) if pixels.dtype == torch.uint8 else pixels).to(model.dtype)


def _cover(starts: list[int], side: int, length: int) -> Tensor:
    """How many windows cover each pixel along a side."""
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + side] += 1
    return counts


def _move_up(total: Tensor, done: int, step: int) -> None:
    """Begin with row `done` and end with zeros; by few rows at a time, as this is the largest thing in memory."""
    height = total.shape[-2]
    for first in range(0, height - done, step):
        part = total[..., done + first : min(done + first + step, height), :]
        total[..., first : first + part.shape[-2], :] = part
    total[..., height - done :, :] = 0
