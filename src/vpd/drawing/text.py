"""Strips of words, swatches and scales that stand above or below a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PAPER = (255, 255, 255)
INK = (34, 34, 40)
_MAX_CAPTION_LINES = 4
_MAX_CAPTION_CHARS = 1000
# Pillow brings a Latin font; these, where the system has one, know more letters.
_WORLD_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "arialuni.ttf", "arial.ttf")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Colour = tuple[int, int, int]


def font_px_for(width: int, height: int) -> int:
    """Height of letters that can be read when a picture of this size fills the screen, pixels."""
    return max(13, round(0.022 * math.sqrt(width * height)))


def legend_strip(entries: Sequence[tuple[Colour, str]], width: int, font_px: int) -> Image.Image:
    """Swatches with their words, in as many rows as they need; wider than `width` where a single entry needs it."""
    gap = font_px // 2
    words = [one_line(text) for _, text in entries]
    font = _font(font_px, "".join(words))
    sizes = [font_px + gap + math.ceil(font.getlength(text)) + 2 * gap for text in words]
    width = max([width, *(size + gap for size in sizes)])
    places, x, y = [], gap, gap
    for size in sizes:
        if x > gap and x + size > width:
            x, y = gap, y + font_px + gap
        places.append((x, y))
        x += size
    strip = Image.new("RGB", (width, y + font_px + gap), PAPER)
    draw = ImageDraw.Draw(strip)
    for (colour, _), text, (x, y) in zip(entries, words, places, strict=True):
        draw.rounded_rectangle((x, y, x + font_px - 1, y + font_px - 1), font_px // 5, fill=colour)
        draw.text((x + font_px + gap, y + font_px // 2), text, fill=INK, font=font, anchor="lm")
    return strip


def caption_strip(text: str, width: int, font_px: int) -> Image.Image:
    """Words broken into lines of at most `width` pixels; what exceeds four lines ends in an ellipsis."""
    gap = font_px // 2
    text = one_line(text)[:_MAX_CAPTION_CHARS]
    font = _font(font_px, text)
    lines = _wrap(text, font, max(width - 2 * gap, font_px))
    if len(lines) > _MAX_CAPTION_LINES:
        lines = [*lines[: _MAX_CAPTION_LINES - 1], lines[_MAX_CAPTION_LINES - 1].rstrip() + "…"]
    step = round(1.3 * font_px)
    strip = Image.new("RGB", (width, len(lines) * step + gap), PAPER)
    draw = ImageDraw.Draw(strip)
    for row, line in enumerate(lines):
        draw.text((gap, gap // 2 + row * step + step // 2), line, fill=INK, font=font, anchor="lm")
    return strip


def scale_strip(colours: NDArray[np.uint8], near_m: float, far_m: float, width: int, font_px: int) -> Image.Image:
    """A bar of `colours` `(n, 3)` from `near_m` to `far_m` metres with ticks at round numbers."""
    gap, bar_px = font_px, font_px
    bar_width = width - 2 * gap
    strip = Image.new("RGB", (width, 2 * gap + bar_px + font_px), PAPER)
    strip.paste(Image.fromarray(colours[None]).resize((bar_width, bar_px)), (gap, gap // 2))
    draw = ImageDraw.Draw(strip)
    font = _font(font_px, "")
    for tick, number in round_steps(near_m, far_m, max(2, bar_width // (5 * font_px))):
        text = f"{number} m"
        x = gap + (bar_width - 1) * (tick - near_m) / (far_m - near_m)
        draw.line((x, gap // 2 + bar_px, x, gap + bar_px), fill=INK, width=max(1, font_px // 10))
        half = font.getlength(text) / 2
        x = min(max(x, half + 2), width - half - 2)
        draw.text((x, gap + bar_px + font_px // 2 + 2), text, fill=INK, font=font, anchor="mm")
    return strip


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another on a canvas as wide as the widest, narrower ones in the middle."""
    width = max(picture.width for picture in pictures)
    canvas = Image.new("RGB", (width, sum(picture.height for picture in pictures)), PAPER)
    y = 0
    for picture in pictures:
        canvas.paste(picture, ((width - picture.width) // 2, y))
        y += picture.height
    return canvas


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures beside one another on a canvas as high as the highest, lower ones at the top."""
    canvas = Image.new("RGB", (sum(picture.width for picture in pictures), max(p.height for p in pictures)), PAPER)
    x = 0
    for picture in pictures:
        canvas.paste(picture, (x, 0))
        x += picture.width
    return canvas


def one_line(text: str) -> str:
    """The text with line breaks and characters that cannot be printed turned into spaces."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Lines that fit, broken at spaces where there are any."""
    lines, line = [], ""
    for char in text:
        if line and font.getlength(line + char) > width:
            head, space, tail = line.rpartition(" ")
            lines.append(head if space else line)
            line = tail if space else ""
        line += char
    return [*lines, line]


def round_steps(first: float, last: float, wanted: int) -> list[tuple[float, str]]:
    """Round numbers between two, about `wanted` of them, and their words."""
    rough = (last - first) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = range(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)
    return [(index * step, f"{index * step:.{decimals}f}") for index in numbers]


def _font(size_px: int, text: str) -> Font:
    """A font for the text: Pillow's own, or one of the system's where the text is not Latin."""
    return _load_font(size_px, all(ord(char) < 0x180 or char in "“”…·" for char in text))


@lru_cache(maxsize=32)
def _load_font(size_px: int, is_latin: bool) -> Font:
    for name in () if is_latin else _WORLD_FONTS:
        with suppress(OSError):  # not on this system
            return ImageFont.truetype(name, size_px)
    return ImageFont.load_default(size_px)
