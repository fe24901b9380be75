"""Parts of pages: rows of pictures with a slider, words with their maps, figures with intervals, commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from vpd.drawing.html import picture_data
from vpd.drawing.text import Colour
from vpd.pages.page import templates


@dataclass(frozen=True)
class Tile:
    """A picture with what it is."""

    picture: Image.Image
    label: str
    """Words below it."""
    alt: str
    """What is on it, for those who do not see it."""
    note: str = ""
    """More words below it, in small letters."""

    @property
    def source(self) -> str:
        """The picture, as the address of an image."""
        return picture_data(self.picture)


@dataclass(frozen=True)
class Scale:
    """What colours of a smooth scale mean."""

    colours: NDArray[np.uint8]
    """`(n, 3)` RGB from the first to the last."""
    first: str
    """Meaning of the first colour, such as `2.1 m`."""
    last: str
    """Meaning of the last."""

    @property
    def source(self) -> str:
        """The colours beside one another, as the address of an image."""
        return picture_data(Image.fromarray(self.colours[None]))


@dataclass(frozen=True)
class Example:
    """A picture, what was asked about it, and pictures that belong to it."""

    title: str
    """Such as `Scene 1`; different for each of a page's sliders."""
    asked: str
    """The question, or the words that were given."""
    picture: Tile
    """The input."""
    over: Sequence[Tile]
    """Pictures of the same shape, such as answer and truth; a slider draws them over the input."""
    legend: Sequence[tuple[Colour, str]] = ()
    """Colours and their meaning."""
    scale: Scale | None = None
    """Meaning of a smooth scale of colours."""
    maps: Sequence[Tile] = ()
    """Pictures that take the input's place when they are pointed at or chosen, such as attention to words."""
    maps_title: str = ""
    """What the maps are."""


@dataclass(frozen=True)
class Figure:
    """A measured number with its 95 % interval and what it is to be compared with, in one line and as a bar."""

    name: str
    """Such as `mIoU`."""
    value: str
    """With its unit."""
    interval: str
    """Both ends with their unit, such as `78.9 to 86.3 %`; empty where there is none."""
    baseline: str
    """With its unit."""
    baseline_words: str
    """What reaches the baseline, such as `answering the mean depth everywhere`."""
    places: tuple[float, float, float, float]
    """Value, low end, high end and baseline on the axis, 0 to 1."""
    direction: str
    """What is better: `higher` or `lower`."""


@dataclass(frozen=True)
class Card:
    """A result at a glance, which leads to its section."""

    title: str
    anchor: str
    """Of the section."""
    words: str
    """What was asked."""
    tiles: Sequence[Tile]
    """Such as input and answer, of one shape."""
    figure: Figure


def examples(shown: Sequence[Example]) -> Markup:
    """Rows of input and answers."""
    return _part("examples", shown)


def gallery(tiles: Sequence[Tile]) -> Markup:
    """Pictures beside one another."""
    return _part("gallery", tiles)


def figure_line(figure: Figure) -> Markup:
    """A figure in one line, with a bar."""
    return _part("figure_line", figure)


def cards(shown: Sequence[Card], words: str = "") -> Markup:
    """Results at a glance, beside one another, above a line of words."""
    return _part("cards", shown, words)


def commands(steps: Sequence[tuple[str, str]]) -> Markup:
    """What to type, each command below the words that say what it does."""
    return _part("commands", steps)


def _part(name: str, *shown: object) -> Markup:
    return Markup(getattr(templates().get_template("parts.html").module, name)(*shown))  # noqa: S704, it escapes
