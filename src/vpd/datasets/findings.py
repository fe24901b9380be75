"""What a data set holds, as figures and as lines of text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vpd.data.matching import check_labels
from vpd.data.sample import CountedDepth, Sample, told_few
from vpd.tensors import IGNORE_LABEL

IGNORED = "(ignored)"
"""What pixels are called that have no class."""
DEFAULT_RANGE_M = 10.0
"""Largest depth of a model that is trained without saying another."""

TOKEN_LENGTHS = (40, 77)
"""Tokens that referring models usually read: RefCOCO and RefCOCO+, RefCOCOg."""
_LAST_LATIN = 0x24F
_LISTED = 20


@dataclass
class SplitFindings:
    """What one split holds."""

    split: str
    """Its name."""
    samples: int = 0
    """Samples it lists."""
    full: int | None = None
    """Samples of the published data set, for `refer` expressions; none = not known."""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Width and height of the images -> how many."""
    groups: set[str] = field(default_factory=set)
    """Rooms, drives, pictures: what resembling samples share."""
    pixels_of_class: Counter[str] = field(default_factory=Counter)
    """Class name -> labelled pixels; `IGNORED` for the rest."""
    scenes: Counter[str] = field(default_factory=Counter)
    """Scene class -> images; `(none)` where the name tells nothing."""
    depth_m: tuple[float, float] | None = None
    """Smallest and largest measured depth, metres."""
    range_m: float | None = None
    """Depth from which on truth does not count, metres; none = not known."""
    measured_pixels: int = 0
    """Pixels with a depth, of all images."""
    pixels_beyond: int = 0
    """Those of them that lie beyond `range_m`, or else `DEFAULT_RANGE_M`."""
    measured_share: list[float] = field(default_factory=list)
    """Share of measured pixels of each image."""
    mask_share: list[float] = field(default_factory=list)
    """Share of object pixels of each mask."""
    expressions: list[str] = field(default_factory=list)
    """Referring expressions."""
    turned: int = 0
    """Pictures with an EXIF turn."""
    unpaired: list[str] = field(default_factory=list)
    """A line for each file that lacks its partner."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing though nothing is wrong."""
    problems: list[str] = field(default_factory=list)
    """One line for each other thing that is wrong."""
    names: set[str] = field(default_factory=set, repr=False)
    """Names of the samples that could be read."""

    def add(self, sample: Sample, classes: tuple[str, ...], counted: CountedDepth) -> None:
        """Count a sample that could be read.

        Raises:
            UsageError: If a label is outside the class list.
        """
        if sample.labels is not None and classes:
            check_labels(sample, len(classes))
        self.turned += sample.exif_turn != 1
        if sample.left_out:
            self._complain(sample, f"left out: {told_few(sample.left_out)}")
        self.sizes[sample.image.shape[1], sample.image.shape[0]] += 1
        if sample.name in self.names:
            self._complain(sample, "the name stands twice in this split")
        self.names.add(sample.name)
        if sample.group is not None:
            self.groups.add(sample.group)
        if sample.labels is not None:
            counts = _count(sample.labels, len(classes))
            self.pixels_of_class.update(dict(zip(classes, counts, strict=False)))
            self.pixels_of_class[IGNORED] += counts[IGNORE_LABEL]
            if counts[IGNORE_LABEL] == sample.labels.size:
                self._complain(sample, "every pixel is ignored")
        if sample.depth_m is not None:
            self._add_depth(sample, sample.depth_m[sample.depth_m > 0], counted)
        if sample.mask is not None:
            self.mask_share.append(float(sample.mask.mean()))
            self.expressions += sample.texts
            if not sample.mask.any():
                self._complain(sample, "the mask is empty")
            if not all(text.strip() for text in sample.texts):
                self._complain(sample, "an expression has no word")

    def _add_depth(self, sample: Sample, measured: np.ndarray, counted: CountedDepth) -> None:
        self.scenes[sample.scene or "(none)"] += 1
        self.measured_share.append(measured.size / sample.image[..., 0].size)
        if not measured.size:
            self._complain(sample, "no pixel has a depth")
            return
        near, far = float(measured.min()), float(measured.max())
        self.measured_pixels += measured.size
        self.pixels_beyond += int((measured >= (self.range_m or DEFAULT_RANGE_M)).sum())
        farthest = counted.max_depth_m
        if farthest is not None and near >= farthest:
            self._complain(sample, f"depth is {near:.3f} to {far:.3f} m; only less than {farthest:g} m counts")
        self.depth_m = (near, far) if self.depth_m is None else (min(near, self.depth_m[0]), max(far, self.depth_m[1]))

    def _complain(self, sample: Sample, problem: str) -> None:
        self.problems.append(f"{self.split}/{sample.name}: {problem}")

    @property
    def share_beyond(self) -> float:
        """Share of the measured pixels that lie beyond the range."""
        return self.pixels_beyond / max(1, self.measured_pixels)

    def lines(self) -> list[str]:
        """The report of the split, a line for each fact."""
        lines = [f"{self.split}: {self._amount()}; {_number(len(self.unpaired) + len(self.problems), 'problem')}"]
        lines += [f"  {note}" for note in self.notes]
        if self.sizes:
            common = ", ".join(f"{width}x{height} ({n})" for (width, height), n in self.sizes.most_common(3))
            more = f", and {len(self.sizes) - 3} others" if len(self.sizes) > 3 else ""
            lines.append(f"  sizes (width x height): {common}{more}")
        if self.groups:
            lines.append(f"  groups (room, drive, picture): {len(self.groups)}")
        lines += [f"  {line}" for line in self._class_lines()]
        if self.depth_m:
            share = 100 * float(np.mean(self.measured_share))
            lines.append(
                f"  depth: {self.depth_m[0]:.3f} to {self.depth_m[1]:.3f} m; measured: {share:.1f} % of pixels"
            )
            if self.pixels_beyond and self.range_m is None:
                beyond = f"{100 * self.share_beyond:.1f} % of measured pixels"
                lines.append(f"  beyond {DEFAULT_RANGE_M:g} m: {beyond}; vpd train counts them with -s max_depth_m=...")
            lines.append("  scenes: " + ", ".join(f"{name} ({n})" for name, n in self.scenes.most_common()))
        if self.mask_share:
            smallest, largest = (100 * share for share in (min(self.mask_share), max(self.mask_share)))
            lines.append(f"  masks: {smallest:.2f} to {largest:.1f} % of the image")
        return lines + [f"  {line}" for line in self.expression_lines]

    def _class_lines(self) -> list[str]:
        total = self.pixels_of_class.total()
        if not total:
            return []
        present = [(name, n) for name, n in self.pixels_of_class.most_common() if n]
        shares = [f"{name} {100 * n / total:.1f} %" for name, n in present]
        absent = [name for name, n in self.pixels_of_class.items() if not n and name != IGNORED]
        return [f"pixels: {_first(shares)}"] + ([f"classes without a pixel: {_first(absent)}"] if absent else [])

    def _amount(self) -> str:
        found = len(self.expressions) if self.expressions else self.samples
        amount = _number(self.samples, "sample")
        if self.expressions:
            amount += f" with {_number(found, 'expression')}"
        if self.full is None:
            return amount
        if found == self.full:
            return f"{amount}, complete"
        return f"{amount}, {_compared(found, self.full)}"

    @cached_property
    def expression_lines(self) -> list[str]:
        """The report of the expressions, once all are there."""
        if not self.expressions:
            return []
        from vpd.prompts.tokenizer import clip_tokenizer, token_lengths  # takes seconds to import

        lengths = token_lengths(clip_tokenizer(), self.expressions)
        words = max(len(text.split()) for text in self.expressions)
        lines = [f"expressions: at most {words} words, {max(lengths)} tokens"]
        for limit in TOKEN_LENGTHS:
            if longer := sum(length > limit for length in lengths):
                verb = "loses its end" if longer == 1 else "lose their ends"
                lines.append(f"{_number(longer, 'expression')} of more than {limit} tokens {verb} at that token_length")
        if foreign := sum(any(c.isalpha() and ord(c) > _LAST_LATIN for c in text) for text in self.expressions):
            lines.append(
                f"{_number(foreign, 'expression')} in another alphabet, which CLIP's text encoder hardly knows"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The figures, as JSON has words for them."""
        return {
            "split": self.split,
            "samples": self.samples,
            "expressions": len(self.expressions),
            "full": self.full,
            "sizes": {f"{width}x{height}": n for (width, height), n in self.sizes.most_common()},
            "groups": len(self.groups),
            "pixels_of_class": dict(self.pixels_of_class),
            "scenes": dict(self.scenes),
            "depth_m": self.depth_m,
            "measured_share": float(np.mean(self.measured_share)) if self.measured_share else None,
            "notes": [*self.notes, *self.expression_lines],
            "exif_turns": self.turned,
            "problems": [*self.unpaired, *self.problems],
        }


@dataclass(frozen=True)
class Findings:
    """What a data set holds."""

    root: Path
    """Its folder."""
    format: str
    """Its layout."""
    splits: tuple[SplitFindings, ...]
    """Each split."""
    notes: tuple[str, ...] = ()
    """What is worth knowing of all of it."""

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, one line each: first files that lack their partner."""
        unpaired = [line for split in self.splits for line in split.unpaired]
        return unpaired + [problem for split in self.splits for problem in split.problems]

    def as_dict(self) -> dict[str, Any]:
        """The figures, as JSON has words for them."""
        return {
            "root": str(self.root),
            "format": self.format,
            "notes": list(self.notes),
            "splits": [split.as_dict() for split in self.splits],
        }


def _count(labels: np.ndarray, classes: int) -> list[int]:
    """Pixels of each label, 0 to 255 at least."""
    if labels.dtype == np.uint8:  # several times as fast as numpy
        return Image.fromarray(labels).histogram()
    counted: list[int] = np.bincount(labels.ravel(), minlength=max(256, classes)).tolist()
    return counted


def _first(words: list[str]) -> str:
    return ", ".join(words[:_LISTED]) + (f", and {len(words) - _LISTED} more" if len(words) > _LISTED else "")


def _number(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _compared(found: int, full: int) -> str:
    if found > full:
        return f"{found - full:,} more than the published {full:,}"
    return f"a part: {full - found:,} of the published {full:,} are missing"
