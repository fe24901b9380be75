"""Samples to batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vpd.data.sample import Sample
from vpd.errors import UsageError
from vpd.tensors import IGNORE_LABEL, Batch


def collate(samples: Sequence[Sample], *, pad_px: int | None = None) -> Batch:
    """Stack samples of one size.

    Args:
        samples: At least one.
        pad_px: Pad every sample right and bottom to this height and width: image 0 (mid-grey in [-1, 1], as in
            the reference), labels 255, mask 0, depth 0.

    Returns:
        Batch with `images` in [-1, 1] and whatever parts the samples have.

    Raises:
        UsageError: If sizes differ, a sample is larger than `pad_px`, parts are missing in some samples, or a
            sample has several texts.
    """
    if not samples:
        raise UsageError("no samples: a batch needs at least one")
    names = [sample.name for sample in samples]
    sizes = [sample.image.shape[:2] for sample in samples]
    if pad_px is not None:
        large = [f"{name} ({h}x{w})" for name, (h, w) in zip(names, sizes, strict=True) if max(h, w) > pad_px]
        if large:
            raise UsageError(f"larger than the {pad_px} px to pad to (height x width): {', '.join(large)}")
    elif len(set(sizes)) > 1:
        listed = ", ".join(f"{name} ({h}x{w})" for name, (h, w) in zip(names, sizes, strict=True))
        raise UsageError(
            f"samples of one batch differ in size (height x width): {listed}. "
            "Crop or resize them to one size, pass pad_px, or use batches of one"
        )
    several = [sample.name for sample in samples if len(sample.texts) > 1]
    if several:
        raise UsageError(f"samples with several texts: {', '.join(several)}. Draw one each first (`draw_text`)")
    texts = _part(samples, "texts")
    scenes = [sample.scene for sample in samples]
    return Batch(
        images=torch.stack([_padded(_scaled(sample.image), pad_px, 0) for sample in samples]),
        names=names,
        labels=_stack(_part(samples, "labels"), torch.int64, pad_px, IGNORE_LABEL),
        masks=_stack(_part(samples, "mask"), torch.int64, pad_px, 0),
        depth_m=_stack(_part(samples, "depth_m"), torch.float32, pad_px, 0, channel=True),
        texts=None if texts is None else [text for (text,) in texts],
        scenes=scenes if any(scenes) else None,
    )


def _part(samples: Sequence[Sample], name: str) -> list[Any] | None:
    """One part of every sample, or none where no sample has it; all or none must."""
    parts = [getattr(sample, name) for sample in samples]
    absent = [part is None or (isinstance(part, tuple) and not part) for part in parts]
    if any(absent) and not all(absent):
        without = ", ".join(sample.name for sample, is_absent in zip(samples, absent, strict=True) if is_absent)
        raise UsageError(f"samples without {name}, beside others that have it: {without}")
    return None if all(absent) else parts


def _scaled(image: NDArray[np.uint8]) -> Tensor:
    """`(H, W, 3)` levels -> `(3, H, W)` in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 127.5 - 1


def _stack(
    parts: list[Any] | None, dtype: torch.dtype, pad_px: int | None, fill: int, *, channel: bool = False
) -> Tensor | None:
    """Parts `(H, W)` -> `(b, H, W)`, or `(b, 1, H, W)` with `channel`."""
    if parts is None:
        return None
    tensors = (torch.from_numpy(np.ascontiguousarray(part)).to(dtype) for part in parts)
    stacked = torch.stack([_padded(tensor, pad_px, fill) for tensor in tensors])
    return stacked[:, None] if channel else stacked


def _padded(values: Tensor, pad_px: int | None, fill: int) -> Tensor:
    height, width = values.shape[-2:]
    return values if pad_px is None else F.pad(values, (0, pad_px - width, 0, pad_px - height), value=fill)
