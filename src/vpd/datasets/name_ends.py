"""What names of pictures and of their partners differ in: `street.jpg` and `street_mask.png`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_SEPARATORS = "_-. "


class Affixes(NamedTuple):
    """What stands round the name that a picture and its partner share."""

    image: tuple[str, str]
    """Before and after it, in pictures' names."""
    partner: tuple[str, str]
    """Likewise in partners' names."""

    def __str__(self) -> str:
        (before, after), (first, last) = self.image, self.partner
        return f"{before}NAME{after} and {first}NAME{last}"


NO_AFFIXES = Affixes(("", ""), ("", ""))


def common_affixes(images: Sequence[str], partners: Sequence[str]) -> Affixes | None:
    """What all pictures and all partners have more than what they share, where it is the same in all; else none.

    Found at the end (`im0_image`, `im0_mask`) or at the beginning (`rgb_0`, `depth_0`); set off by `_`, `-`, `.` or a
    space and with a letter in it, so that `im1` is never taken for the picture of `im10`.

    Args:
        images: Names without suffix; those in sub-folders with their folders.
        partners: Likewise.
    """
    if not images or not partners:
        return None
    if ends := _ends(images, partners):
        return Affixes(("", ends[0]), ("", ends[1]))
    turned = [[_turned(name) for name in names] for names in (images, partners)]
    if ends := _ends(*turned):
        return Affixes((ends[0][::-1], ""), (ends[1][::-1], ""))
    return None


def shared_name(name: str, affixes: tuple[str, str]) -> str | None:
    """A name without what stands before and after it; none where it lacks that. Folders stay."""
    before, after = affixes
    folder, slash, base = name.rpartition("/")
    if base.startswith(before) and base.endswith(after) and len(base) > len(before) + len(after):
        return folder + slash + base[len(before) : len(base) - len(after)]
    return None


def strip_affixes(files: Mapping[str, Path], affixes: tuple[str, str]) -> dict[str, Path]:
    """Files by the names that they share with others; those that lack the affixes are left out."""
    named = ((shared_name(name, affixes), path) for name, path in files.items())
    return {name: path for name, path in named if name is not None}


def _ends(images: Sequence[str], partners: Sequence[str]) -> tuple[str, str] | None:
    ordered = sorted(images)
    first = min(partners)
    place = bisect_left(ordered, first)
    for image in ordered[max(place - 1, 0) : place + 1]:  # its neighbours begin most like it
        ends = _differing(image, first)
        if ends and all(_has_end(names, end) for names, end in zip((images, partners), ends, strict=True)):
            shared = {name.removesuffix(ends[0]) for name in images}
            if not shared.isdisjoint(name.removesuffix(ends[1]) for name in partners):
                return ends
    return None


def _differing(one: str, other: str) -> tuple[str, str] | None:
    """What two names have after the longest beginning that ends both of them, or before separators in both."""
    for length in range(min(len(one), len(other)), 0, -1):
        ends = one[length:], other[length:]
        if one[:length] == other[:length] and any(ends):
            is_set_off = all(not end or (end[0] in _SEPARATORS and any(map(str.isalpha, end))) for end in ends)
            if is_set_off and not one[:length].endswith("/"):
                return ends
    return None


def _has_end(names: Iterable[str], end: str) -> bool:
    return all(name.endswith(end) and len(name) > len(end) for name in names)


def _turned(name: str) -> str:
    """A name whose last part is written backwards, to compare beginnings like ends."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base[::-1]
