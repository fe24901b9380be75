"""One picture through the network and to its own size, strip by strip."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image
from torch import Tensor

from vpd.files.images import to_tensor
from vpd.inference.plan import Step
from vpd.inference.resize import Forward, fit_picture, resize_stream, slide
from vpd.inference.windows import blend


def stream(
    forward: Forward, picture: Image.Image, step: Step, *, scale: float = 1.0, mirrored: bool = False
) -> Iterator[Tensor]:
    """Outputs at the picture's size.

    Args:
        forward: The network; its outputs are float32.
        picture: RGB.
        step: How it is fitted and cut.
        scale: One of the fit's.
        mirrored: Run the mirror image; the outputs are of that.

    Yields:
        `(c, rows, W)`, at most `step.rows` of them, from top to bottom.
    """
    fitted = fit_picture(picture, step.fit, scale)
    strips = (strip[0] for strip in fitted_strips(forward, fitted, step, mirrored=mirrored))
    yield from resize_stream(strips, fitted.height, picture.height, picture.width, rows=step.rows)


def fitted_strips(forward: Forward, fitted: Image.Image, step: Step, *, mirrored: bool = False) -> Iterator[Tensor]:
    """Outputs `(1, c, rows, w)` at the size that the network sees; each is to be used before the next comes."""
    if step.windows is not None:
        yield from blend(forward, fitted, step.windows, mirrored=mirrored, rows=step.rows)
        return
    pixels = to_tensor(fitted)
    yield from slide(forward, pixels.flip(-1) if mirrored else pixels, step.fit)
