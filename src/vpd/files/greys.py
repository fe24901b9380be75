"""Grey of more than 8 bits as 8 bits, by one rule.

Black is 0 and whatever lies below. White is the largest value that the numbers of the file can have: 65535 with 16
bits, 4095 with 12, 32767 or 127 with 16 or 8 of which one is the sign. Numbers of 32 bits and of floating point do not
tell how much of them is used; there white is the first of 1, 255 and 65535 (whole numbers: 65535) whose double no value
exceeds, since a little above is overexposed, and else the largest value of the picture. What is not finite is black.
Where the file says that 0 is white, black and white change places.

`stretch` replaces the rule: black is the value that 0.5 % of the pixels do not exceed, white that of 99.5 %.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpd.files.tiff_tags import bits_used, grey_values, has_sign

STRETCHED_PERCENT = (0.5, 99.5)
"""Percentiles that `stretch` makes black and white."""
LITTLE = 1 / 20
"""A picture whose stretched part is less of the range from black to white gets a note."""
_WHITES = (1.0, 255.0, 65535.0)
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


def is_deep(image: Image.Image) -> bool:
    """Whether a decoded picture is grey of another kind than unsigned 8 bits."""
    return image.mode.startswith("I") or image.mode == "F" or (image.mode == "L" and has_sign(image))


def to_8_bits(image: Image.Image, *, stretch: bool = False) -> NDArray[np.uint8]:
    """Grey values of a deep picture in 0..255, `(H, W)`."""
    values = grey_values(image)
    low, white = 0.0, _white(values, bits_used(image))
    if stretch and (limits := _used(values)) is not None:
        low, white = limits
    if values.dtype != np.uint16:
        values = np.nan_to_num(values.astype(np.float32), nan=low, posinf=low, neginf=low)
    scaled = (values - low if low else values) * (255.0 / (white - low))
    levels = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    is_turned = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return 255 - levels if is_turned else levels


def range_note(image: Image.Image) -> str | None:
    """What to say of a deep picture that shows little of itself; none = nothing."""
    values = grey_values(image)
    limits = _used(values)
    if limits is None:
        return None
    low, high = limits
    if low < 0:
        share = _percent(float(np.mean(values < 0)))
        return f"{share} of its values are below 0, which is black; --stretch (stretch=True) shows them"
    used = (high - low) / _white(values, bits_used(image))
    if used >= LITTLE:
        return None
    return f"uses {_percent(used)} of its range; stretch it by --stretch (stretch=True)"


def _white(values: NDArray[Any], bits: int) -> float:
    """The value that is white."""
    if values.dtype.kind in "iu" and values.dtype.itemsize < 4:
        return 4095.0 if bits == 12 else float(np.iinfo(values.dtype).max)
    whites = _WHITES if values.dtype.kind == "f" else _WHITES[-1:]
    top = float(np.max(values, where=np.isfinite(values), initial=0))
    return next((white for white in whites if top <= 2 * white), top)


def _used(values: NDArray[Any]) -> tuple[float, float] | None:
    """What `stretch` makes black and white; all values where these are one, and none where there is only one."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return None
    low, high = (float(limit) for limit in np.percentile(finite, STRETCHED_PERCENT))
    if low == high:
        low, high = float(finite.min()), float(finite.max())
    return (low, high) if low < high else None


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %" if share < 0.005 else "1 %"
