"""A page with one of everything, of pictures that are told apart by their colour."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vpd.pages.page import Page, Section
from vpd.pages.parts import Card, Example, Figure, Scale, Tile, cards, commands, examples, figure_line, gallery

EVIL = '"><script>alert(1)</script>'


def tile(label: str, colour: str) -> Tile:
    return Tile(Image.new("RGB", (64, 48), colour), label, f"{label}: all {colour}")


FIGURE = Figure("mIoU", "80.0 %", "70.0 % to 90.0 %", "5.0 %", "guessing", (0.8, 0.7, 0.9, 0.05), "higher")
EXAMPLE = Example(
    "Scene 1",
    "“the red cube”",
    tile("Input", "blue"),
    [tile("Answer", "red"), tile("Truth", "green")],
    legend=[((255, 0, 0), "cube")],
    scale=Scale(np.full((16, 3), 128, np.uint8), "1.0 m", "2.0 m"),
    maps=[tile("red", "yellow"), tile("cube", "purple")],
    maps_title="Attention to each word",
)


def page(words: str = "Words.") -> Page:
    body = figure_line(FIGURE) + examples([EXAMPLE]) + gallery([tile("", "pink")]) + commands([(words, "vpd demo")])
    card = Card("Refer", "referring", "“the red cube”", [EXAMPLE.picture, EXAMPLE.over[0]], FIGURE)
    return Page("A page", words, cards([card], words), [Section("Referring", words, body)], words)
