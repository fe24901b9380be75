"""Colours of pictures: 256 for classes, told apart at a glance, and a smooth scale for depth."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Farthest-point sampling in OKLab, begun with 14 chosen by eye and kept to lightness 0.38-0.93 and chroma
# 0.035-0.235; the first 14 are at least 0.11 apart, all 256 at least 0.048.
_CLASS_COLOURS = (
    "3186e9ee921a30ad51e234399e66d728d6dff072b3edd13d8a4b2416827d96d448414aa1f2a89bbcb6ee900072005400"
    "d2f0d89c7e8a9684187806ba244854cc2aae9cb49000fcba604ef0840024e46cfc6c42662a7e0060a2c0d2fc000024c0"
    "ae4872fca2fcc66612fcd8fc5a72a25a6636fc726c9096fc601e7eea247ebaae30baf6967e48a2b4000072fcfc48cc96"
    "4800ae66fc665a3c00c08accfcd29c30a8906cc0fc0ccc30ba90660060d8a2d8eaa830cc00608a788a6cc060aecc6c7e"
    "c0d290a8004e7e6066c09ca88a84c06666cc00665484e4ba9c724e00a8f0f0b4d8f04ec6b44e42deb47230905a84a200"
    "008abafc540006427e72184e96609600e47e6630308442d87e72fcc084fcba007ea2369c4230d290bac6545a78c654d8"
    "364e30903c4e483672fc486cea8a9cf6ea8a90c06c846600cc1854667e2a603cba664e42e4c6c096a2d272a266c09012"
    "840c96fc7ee4608a96fcb42ade7e5424bac0ae5afcccde00186cb4426cfc4e6c66fcea00842a002a309c3c6600fc96cc"
    "78a2966696de903c784e3c4eb4ccbad2a2fc3c9600d85490d2e4fc72ba00d872d2a8fccc0048ba1e7848fc96667eea90"
    "60488aa8666cd8604e78ccba00f0dec6ae96fc4ea284e400a2a25afc781e4e2a96c0cc54fcded2a85400ae78a83cc666"
    "009ca8cc4200787edea8f060187896a236007260a2d2a2d296aefc78725aa254b47e7290a284de72006cc084844854c6"
    "00ae00dec6fcd24e6660009c00c0ea6c54008a90a8ae3042a200a8547e5a66e4fcc0429678307e8a30b4d8967ee48afc"
    "00e4aecc84a84e78c6e436a2b47800ccb4c6d8d8b4a2ba00a2eadebaba726c309cdef66cfc6c90906cba60963cc0725a"
    "d2eaa860ba9c7e547e96544e602a602a606c364eea9c9c7e3c486ca278fcd87e0c608aba4e60a8deba00d29c54ae9cea"
    "90245a4854066018c66690fc0054a20cba7ed8a200e4cc78d200009cc6f600ccbaea1e5aba72d89c8a54cc3678fcba90"
    "96242a9054f6a890bae48ad84e907efcbafc78304896d89072cce4e46606b4608ad2de78845ac666a8fc6cb45a425a4e"
)

# Near is bright and warm, far is dark and blue: lightness falls evenly, so that equal steps of depth look
# equal, also in greyscale and to the colour-blind. Cubics in OKLCH, lowest power first.
_LIGHTNESS = (0.96, -0.74)
_CHROMA = (0.075, 0.60, -1.08, 0.50)
_HUE_DEG = (105.0, -150.0, -60.0, 30.0)
_LAB_TO_CONES = (
    (1, 0.3963377774, 0.2158037573),
    (1, -0.1055613458, -0.0638541728),
    (1, -0.0894841775, -1.2914855480),
)
_CONES_TO_LINEAR = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)


@lru_cache(maxsize=1)
def class_colours() -> NDArray[np.uint8]:
    """Colour of each class, `(256, 3)` RGB; class 256 begins again at the first."""
    return np.frombuffer(bytes.fromhex("".join(_CLASS_COLOURS)), np.uint8).reshape(256, 3)


@lru_cache(maxsize=1)
def depth_colours() -> NDArray[np.uint8]:
    """Colours from the nearest to the farthest depth, `(256, 3)` RGB."""
    position = np.linspace(0, 1, 256)
    lightness, chroma, hue = (
        np.polynomial.polynomial.polyval(position, cubic) for cubic in (_LIGHTNESS, _CHROMA, np.radians(_HUE_DEG))
    )
    return _oklab_to_rgb(lightness, chroma * np.cos(hue), chroma * np.sin(hue))


def _oklab_to_rgb(
    lightness: NDArray[np.floating], green_red: NDArray[np.floating], blue_yellow: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """OKLab to 8-bit sRGB, clipped (https://bottosson.github.io/posts/oklab/)."""
    cones = np.array(_LAB_TO_CONES) @ np.stack([lightness, green_red, blue_yellow])
    linear = (np.array(_CONES_TO_LINEAR) @ cones**3).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded * 255).round().astype(np.uint8).T
