"""A whole `predict` of many files beside the network alone: what reading, fitting and answering leave of its rate."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from vpd.bench.machine import now, since

_ROUNDS = 3


def time_many(
    model: Any, words: Mapping[str, Any], points: Sequence[Mapping[str, Any]], *, px: int, pictures: int
) -> dict[str, Any]:
    """Pictures a second of one call of `predict` on so many JPEG files, and their share of the network's best rate."""
    best = max(points, key=lambda point: point["images_per_s"])
    files = [example_jpeg(number, px) for number in range(pictures)]
    batch = min(best["batch"], pictures)

    def run(files: list[bytes]) -> None:
        model.predict(files, batch_size=batch, size=px, **words)

    run(files[: 2 * batch])  # threads and memory are there from here on
    seconds = []
    for _ in range(_ROUNDS):
        began = now(model.device)
        run(files)
        seconds.append(since(began, model.device)["wall_s"])
    rate = pictures / statistics.median(seconds)
    return {
        "pictures": pictures,
        "batch": batch,
        "pictures_per_s": rate,
        "share_of_network": rate / best["images_per_s"],
    }


def example_jpeg(number: int, px: int) -> bytes:
    """A file of a coarse random picture, which takes as long to decode as a photograph."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (px // 8 + 1, px // 8 + 1, 3), dtype=np.uint8))
    coarse.resize((px, px), Image.Resampling.BICUBIC).save(file := io.BytesIO(), format="JPEG", quality=90)
    return file.getvalue()
