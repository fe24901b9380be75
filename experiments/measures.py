"""How well an autoencoder keeps pictures: squared error, and whether objects keep their colour."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from experiments.autoencoder import reconstruct
from vpd.files.images import to_pixels
from vpd.pretraining.pictures import to_batch
from vpd.world.render import Rendering
from vpd.world.scenes import OBJECT_COLOURS

HUES = {name: colorsys.rgb_to_hsv(*rgb)[0] for name, rgb in OBJECT_COLOURS.items()}
"""Hue of each object colour, [0, 1)."""


def psnr(images: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], over all pixels of all of them."""
    return float(10 * torch.log10(4 / (images - truth).double().square().mean()))


def nearest_colour(pixels: NDArray[np.uint8]) -> str:
    """Word for the hue of the mean of `(n, 3)` RGB pixels."""
    red, green, blue = pixels.astype(np.float64).mean(axis=0) / 255
    hue = colorsys.rgb_to_hsv(red, green, blue)[0]
    return min(HUES, key=lambda name: abs((hue - HUES[name] + 0.5) % 1 - 0.5))


def hue_accuracy(renderings: Sequence[Rendering], images: Sequence[NDArray[np.uint8]]) -> float:
    """Share of objects whose mean hue is nearest to the colour that they have, in [0, 1].

    Args:
        renderings: Scenes with their instances.
        images: A picture `(H, W, 3)` of each: a reconstruction, or the rendering itself for the upper bound.
    """
    right = [
        nearest_colour(image[rendering.instances == index + 1]) == thing.colour
        for rendering, image in zip(renderings, images, strict=True)
        for index, thing in enumerate(rendering.scene.things)
        if (rendering.instances == index + 1).any()
    ]
    return float(np.mean(right))


def measure_autoencoder(vae: AutoencoderKL, renderings: Sequence[Rendering]) -> dict[str, float]:
    """PSNR in dB and hue accuracy of an autoencoder on renderings of one size."""
    truth = torch.cat([to_batch([rendering.image]) for rendering in renderings])
    decoded = torch.cat([reconstruct(vae, image[None]) for image in truth])
    return {"psnr_db": psnr(decoded, truth), "hue": hue_accuracy(renderings, list(to_pixels(decoded)))}
