"""Pictures of predictions: overlays with a legend, contours with their expression, depth with a scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from vpd.drawing.colours import class_colours, depth_colours
from vpd.drawing.text import Colour, caption_strip, font_px_for, legend_strip, scale_strip, stack

SMALLEST_PX = 256
"""Pictures whose long side is half of this or less are enlarged by a whole factor."""
MASK_COLOUR = (255, 64, 90)
UNKNOWN_COLOUR = (128, 128, 128)
_OPACITY = 0.6  # of class colours over the image
MOST_IN_KEY = 24
"""Classes that a legend names, at most."""
_MAX_NAME = 40
_JPEG_MAX_PX = 65_500


@dataclass(frozen=True)
class Shown:
    """How a sample of a data set looks."""

    truth: Image.Image
    prediction: Image.Image
    legend: Counter[tuple[Colour, str]] = field(default_factory=Counter)
    """Pixels of each colour that has a meaning, and the meaning."""
    scale_m: tuple[float, float] | None = None
    """Depth of the first and of the last colour, metres."""
    words: str = ""
    """What the model was asked for."""
    errors: Image.Image | None = None
    """Where the prediction is wrong."""
    error_legend: tuple[tuple[Colour, str], ...] = ()
    """What its colours mean."""


def segmentation_picture(image: Image.Image, labels: NDArray[np.integer], classes: Sequence[str]) -> Image.Image:
    """The image tinted by class, above a legend of the classes in it and their share of its pixels.

    Labels `(H, W)` that are no index into `classes` are drawn grey, as `no class`.

    Raises:
        ValueError: If image and labels differ in size.
    """
    _check_size(image, labels)
    known = (labels >= 0) & (labels < len(classes))
    counts = np.bincount(labels[known].astype(np.int64), minlength=len(classes))
    tinted = tint_classes(image, labels, len(classes))
    present = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    entries = [
        (_colour(label), f"{_shorten(classes[label])} {percent(counts[label] / labels.size)}") for label in present
    ]
    if rest := present[MOST_IN_KEY:]:
        share = percent(counts[rest].sum() / labels.size)
        entries = [*entries[:MOST_IN_KEY], (UNKNOWN_COLOUR, f"{len(rest)} more {share}")]
    if not known.all():
        entries.append((UNKNOWN_COLOUR, f"no class {percent(1 - float(known.mean()))}"))
    picture = enlarge(tinted)
    return stack([picture, legend_strip(entries, *_strip_size(picture))]) if entries else picture


def classes_key(labels: Sequence[int], classes: Sequence[str], width: int, font_px: int) -> Image.Image:
    """Swatches of classes with their names: all of a model's if there are few, else those of `labels`."""
    shown = range(len(classes)) if len(classes) <= MOST_IN_KEY else sorted(labels)[:MOST_IN_KEY]
    entries = [(_colour(label), _shorten(classes[label])) for label in shown]
    if len(classes) > len(entries):
        entries.append((UNKNOWN_COLOUR, f"{len(classes) - len(entries)} more"))
    return legend_strip(entries, width, font_px)


def tint_classes(image: Image.Image, labels: NDArray[np.integer], num_classes: int) -> Image.Image:
    """The image under the colours of the classes of its pixels `(H, W)`."""
    return Image.blend(image.convert("RGB"), colour_labels(labels, num_classes), _OPACITY)


def colour_labels(labels: NDArray[np.integer], num_classes: int) -> Image.Image:
    """Labels `(H, W)` in the colours of their classes; grey where there is no such class."""
    colours = np.vstack([class_colours(), np.array([UNKNOWN_COLOUR], np.uint8)])
    known = (labels >= 0) & (labels < num_classes)
    return Image.fromarray(colours[np.where(known, labels.astype(np.int32) % 256, 256)])


def class_legend(labels: NDArray[np.integer], classes: Sequence[str]) -> Counter[tuple[Colour, str]]:
    """Pixels of each class in `labels`, any shape, by its colour and name; `no class` counts all others."""
    counts = np.bincount(np.where(labels < len(classes), labels, len(classes)).ravel(), minlength=len(classes) + 1)
    meanings = [*((_colour(label), _shorten(name)) for label, name in enumerate(classes)), (UNKNOWN_COLOUR, "no class")]
    return Counter({meaning: int(count) for meaning, count in zip(meanings, counts, strict=True) if count})


def mask_picture(image: Image.Image, mask: NDArray[np.bool_], text: str, *, doubt: str = "") -> Image.Image:
    """What `tint_mask` draws, above the expression and any doubt that it is there; raises as it does."""
    drawn = tint_mask(image, mask)
    found = f"{percent(float(mask.mean()))} of the picture" if mask.any() else "nothing found"
    words = " · ".join(filter(None, (f"“{text}”", found, doubt)))
    return stack([drawn, caption_strip(words, *_strip_size(drawn))])


def tint_mask(image: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """The image with the mask `(H, W)` tinted and outlined and the rest darkened; a small one is enlarged.

    Raises:
        ValueError: If image and mask differ in size.
    """
    _check_size(image, mask)
    picture = enlarge(image.convert("RGB"))
    inside = Image.fromarray(mask).resize(picture.size, Image.Resampling.NEAREST).convert("L")
    drawn = Image.blend(picture, Image.new("RGB", picture.size), 0.35)
    drawn.paste(Image.blend(picture, Image.new("RGB", picture.size, MASK_COLOUR), 0.35), mask=inside)
    line_px = min(10, max(1, font_px_for(*picture.size) // 8))
    for radius, colour in ((line_px + 1, (255, 255, 255)), (line_px, MASK_COLOUR)):
        blurred = inside.filter(ImageFilter.BoxBlur(radius))  # strictly between only near the outline
        drawn.paste(colour, mask=blurred.point([0, *[255] * 254, 0]))
    return drawn


def depth_picture(depth_m: NDArray[np.floating], shown_m: tuple[float, float] | None = None) -> Image.Image:
    """Depth `(H, W)` in colours above a scale in metres, from `shown_m`, or that leaves out 1 % on either side."""
    near_m, far_m = shown_m or depth_range(depth_m)
    picture = enlarge(colour_depth(depth_m, near_m, far_m))
    return stack([picture, scale_strip(depth_colours(), near_m, far_m, *_strip_size(picture))])


def colour_depth(depth_m: NDArray[np.floating], near_m: float, far_m: float) -> Image.Image:
    """Depth `(H, W)` in colours between two depths, without a scale; grey where it is 0 or not finite."""
    known = _known(depth_m)
    position = np.where(known, (depth_m - near_m) / (far_m - near_m), 0)
    colours = depth_colours()[(position.clip(0, 1) * 255).round().astype(np.uint8)]
    colours[~known] = UNKNOWN_COLOUR
    return Image.fromarray(colours)


def depth_range(depth_m: NDArray[np.floating]) -> tuple[float, float]:
    """The ends of the known depths but for 1 % on either side, metres; never empty."""
    known = depth_m[_known(depth_m)]
    near_m, far_m = map(float, np.percentile(known, (1, 99))) if known.size else (0.0, 1.0)
    return near_m, max(far_m, near_m * 1.05 + 0.01)


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    titles: Sequence[str] = (),
    *,
    words: Sequence[str] = (),
    scales_m: Sequence[tuple[float, float] | None] = (),
    legend: Mapping[tuple[Colour, str], int] | None = None,
    cell_px: int = 256,
    caption: str = "",
) -> Image.Image:
    """Pictures in a grid, such as image, truth and prediction of several samples.

    Args:
        rows: Pictures of each row; every row has the same number.
        titles: Words above the columns, or none.
        words: Words below each row, or none.
        scales_m: Depths of the first and last colour of each row, for a scale below it, or none.
        legend: Colours with their meaning, and how much of the pictures has it; the largest are shown first.
        cell_px: Long side of each picture.
        caption: Words above the grid.

    Raises:
        ValueError: If rows differ in length, there is none, or titles, words or scales do not fit them.
    """
    columns = {len(row) for row in rows}
    lists_fit = all(not given or len(given) == len(rows) for given in (words, scales_m))
    if len(columns) != 1 or (titles and len(titles) not in columns) or not lists_fit:
        raise ValueError(
            f"A sheet needs rows of one length and as many titles; got rows of {sorted(columns)} and {len(titles)} "
            f"titles; {len(rows)} rows, {len(words)} words and {len(scales_m)} scales for them."
        )
    gap = max(4, cell_px // 32)
    font_px = font_px_for(cell_px, cell_px)
    cells = [[fit_picture(picture, cell_px) for picture in row] for row in rows]
    cell_width = max(cell.width for row in cells for cell in row)
    width = gap + (cell_width + gap) * columns.pop()
    drawn = []
    if titles:
        drawn.append(_row([caption_strip(title, cell_width, font_px) for title in titles], cell_width, gap, width))
    for place, row in enumerate(cells):
        drawn.append(_row(row, cell_width, gap, width))
        if scales_m and (scale := scales_m[place]):
            drawn.append(scale_strip(depth_colours(), *scale, width, font_px))
        if words and words[place]:
            drawn.append(caption_strip(words[place], width, font_px))
    if legend:
        drawn.append(legend_strip(_largest(legend), width, font_px))
    return stack([caption_strip(caption, width, font_px), *drawn] if caption else drawn)


def _largest(legend: Mapping[tuple[Colour, str], int]) -> list[tuple[Colour, str]]:
    """The entries that most pixels have, and how many are left out."""
    entries = [entry for entry, count in sorted(legend.items(), key=lambda item: -item[1]) if count]
    left_out = len(entries) - 2 * MOST_IN_KEY
    return [*entries[: 2 * MOST_IN_KEY], (UNKNOWN_COLOUR, f"{left_out} more")] if left_out > 0 else entries


def _row(cells: Sequence[Image.Image], cell_width: int, gap: int, width: int) -> Image.Image:
    """Cells beside one another, each in the middle of its place."""
    row = Image.new("RGB", (width, max(cell.height for cell in cells) + gap), "white")
    for column, cell in enumerate(cells):
        row.paste(cell, (gap + column * (cell_width + gap) + (cell_width - cell.width) // 2, gap // 2))
    return row


def fit_picture(picture: Image.Image, cell_px: int) -> Image.Image:
    """The picture with its long side brought to `cell_px`; enlarged without blur."""
    scale = cell_px / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def _strip_size(picture: Image.Image) -> tuple[int, int]:
    """Width of the words below a picture and height of their letters, pixels."""
    font_px = font_px_for(*picture.size)
    return max(picture.width, 14 * font_px), font_px


def enlarge(picture: Image.Image) -> Image.Image:
    """A picture too small to look at, larger by a whole factor."""
    factor = max(1, SMALLEST_PX // max(picture.size))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _known(depth_m: NDArray[np.floating]) -> NDArray[np.bool_]:
    return np.isfinite(depth_m) & (depth_m > 0)


def _colour(label: int) -> Colour:
    red, green, blue = class_colours()[label % 256].tolist()
    return red, green, blue


def _shorten(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…"


def percent(share: float) -> str:
    """A share as people read it: `17%`, `<1%`."""
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def _check_size(image: Image.Image, pixels: NDArray[np.generic]) -> None:
    height, width = pixels.shape
    if image.size != (width, height):
        raise ValueError(
            f"The image is {image.height}x{image.width} but its prediction {height}x{width}; "
            "a picture needs both at the same size."
        )


def save_jpeg(picture: Image.Image, target: Path | BinaryIO) -> None:
    """Write a picture that was drawn, which is shrunk in place where JPEG takes none so large."""
    picture.thumbnail((_JPEG_MAX_PX, _JPEG_MAX_PX))
    picture.save(target, format="JPEG", quality=90, subsampling=0)
