"""Weights that hold NaN or infinity: found and named; torch comes with tensors alone."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_AT_ONCE = 1 << 20  # numbers, so that they stay in the processor's cache
_EXPONENTS: dict[str, tuple[str, int, int]] = {
    "F64": ("<u8", 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
}
"""Type -> how its bits are read, all but the sign, and the least of these that is no number (IEEE 754)."""


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity; each is read once, as fast as memory is."""
    import torch

    def is_bad(tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or tensor.is_meta:
            return False
        total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))  # of finite numbers it may overflow
        return not bool(total.isfinite()) and not bool(tensor.isfinite().all())

    return [name for name, tensor in tensors.items() if is_bad(tensor)]


def not_finite_in_file(path: Path) -> list[str]:
    """Those of a safetensors file whose header is right, as `read_shapes` makes sure; without torch."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data, bad = np.memmap(path, np.uint8, "r"), []
    for name, entry in header.items():
        if entry.get("dtype") not in _EXPONENTS:  # the file's notes, whole numbers
            continue
        kind, all_but_sign, least = _EXPONENTS[entry["dtype"]]
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        bits = data[start:end].view(kind)
        chunks = (bits[first : first + _AT_ONCE] for first in range(0, len(bits), _AT_ONCE))
        if any((chunk & all_but_sign).max() >= least for chunk in chunks):
            bad.append(name)
    return bad


def told_not_finite(bad: list[str], total: int, origin: str | Path, *, cause: str = "") -> str:
    """What is wrong with weights of which some are no numbers, and what to do."""
    remedy = "Load it in float32" if cause else "Copy it again, or take an earlier checkpoint"
    return (
        f"{origin}: {len(bad)} of its {total} tensors {'hold' if len(bad) > 1 else 'holds'} NaN or infinity, the first "
        f"is {bad[0]}: {cause or 'the file is damaged or its training diverged'}. Nothing can be predicted with it. "
        f"{remedy}."
    )


def warn_not_finite(tensors: Mapping[str, Tensor], origin: str | Path, *, unused: str = "$^") -> None:
    """Tell our log of weights that are no numbers, in the type they will run in; not of names that begin `unused`."""
    import torch

    if bad := not_finite({name: value for name, value in tensors.items() if not re.match(unused, name)}):
        is_half = tensors[bad[0]].dtype == torch.float16
        cause = "float16 is too narrow for them, or the file is damaged" if is_half else ""
        logger.warning("%s", told_not_finite(bad, len(tensors), origin, cause=cause))
