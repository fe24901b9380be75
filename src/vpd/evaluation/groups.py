"""Which samples resemble each other, by their names: frames of one recording are not independent samples."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

from vpd.errors import UsageError

ALONE = "none"
"""Instead of a pattern: every sample stands alone."""
FEW = 10
"""Fewer groups than this give an interval that says little."""
_LONGEST = 200  # characters of a name, from its end, that a pattern sees: some patterns take very long for long names
_FRAMES = 5  # of a recording, on average
_EQUAL_STEPS, _DENSITY = 0.5, 0.1
_WORDS = {"video", "vid", "sequence", "seq", "clip", "frame", "frames", "movie", "recording", "drive", "cam", "camera"}


def read_pattern(given: str) -> re.Pattern[str] | None:
    """The pattern that groups samples, whose first part in brackets names the group; none for `ALONE`.

    Raises:
        UsageError: If it is no regular expression, or has no part in brackets.
    """
    if given == ALONE:
        return None
    try:
        pattern = re.compile(given)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"--group-by {given}: this is no regular expression ({error}). {_EXAMPLE}") from error
    if not pattern.groups:
        raise UsageError(f"--group-by {given}: put the part of the name that makes the group in brackets. {_EXAMPLE}")
    return pattern


_EXAMPLE = r"For video_000123, say: --group-by '(.*)_\d+'. To count every sample alone: --group-by none."


def groups_of(names: Sequence[str], pattern: re.Pattern[str]) -> list[str | None]:
    """The group of each sample by its name; none where the pattern does not match.

    Raises:
        UsageError: If no name matches.
    """
    matches = [pattern.search(name[-_LONGEST:]) for name in names]
    if not any(matches):
        raise UsageError(
            f"--group-by {pattern.pattern}: no name of a sample matches; names are {', '.join(names[:3])}. {_EXAMPLE}"
        )
    return [match[1] if match else None for match in matches]


def recordings_of(names: Sequence[str]) -> list[str] | None:
    """The recording of each sample, where the names are those of frames; else nothing.

    A recording is a name up to the number at its end (`0016E5_` of `0016E5_07959`). Names are taken for frames where
    each has such a beginning with a letter in it, of five samples on average; where the numbers of a beginning run on,
    so that half of the steps are equal or a tenth of all numbers are there; and where there are several beginnings,
    or the one has digits too or a word such as video, seq, clip, frame. So `0001`, `IMG_0001`, `ADE_val_00000001` and
    `COCO_val2014_000000000042` are pictures that stand alone.
    """
    numbers = defaultdict[str, list[int]](list)
    if not names:
        return None
    beginnings = []
    for name in names:
        match = re.fullmatch(r"(.*?)([0-9]{1,18})", name, flags=re.DOTALL)
        if match is None or not re.search(r"[^\W\d_]", match[1].rpartition("/")[2]):
            return None
        beginnings.append(match[1])
        numbers[match[1]].append(int(match[2]))
    if len(names) < _FRAMES * len(numbers) or not all(map(_run_on, numbers.values())):
        return None
    (one, *others) = numbers
    told = one.rpartition("/")[2].lower()
    is_recording = others or re.search(r"\d", told) or not _WORDS.isdisjoint(re.split("[^a-z]+", told))
    return beginnings if is_recording else None


def _run_on(numbers: Sequence[int]) -> bool:
    """Whether numbers are those of a film that was cut or thinned out, rather than of pictures here and there."""
    ordered = sorted(numbers)
    steps = [after - before for before, after in pairwise(ordered)]
    if not steps:
        return True
    is_even = max(Counter(steps).values()) >= _EQUAL_STEPS * len(steps)
    return is_even or len(numbers) >= _DENSITY * (ordered[-1] - ordered[0] + 1)
