"""Samples of a data set with truth and prediction on one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from PIL import Image

from vpd.data.sample import Sample
from vpd.drawing.overlays import contact_sheet
from vpd.drawing.text import Colour
from vpd.evaluation.protocols import Protocol


def draw_sheet(
    protocol: Protocol, samples: Sequence[Sample], *, words: Sequence[str] = (), caption: str = ""
) -> Image.Image:
    """Image, truth and prediction of samples below one another, with what the colours mean.

    Args:
        protocol: Predicts and draws.
        samples: At least one.
        words: A line below each sample, or none.
        caption: Words above all.
    """
    legend: Counter[tuple[Colour, str]] = Counter()
    rows, lines, scales_m = [], [], []
    for place, sample in enumerate(samples):
        shown = protocol.shown(sample)
        legend += shown.legend
        rows.append([Image.fromarray(sample.image), shown.truth, shown.prediction])
        lines.append(" · ".join(part for part in (words[place] if words else "", shown.words) if part))
        scales_m.append(shown.scale_m)
    titles = ("image", "truth", "prediction")
    return contact_sheet(rows, titles, words=lines, scales_m=scales_m, legend=legend, caption=caption)
