"""A few samples read before anything that takes long: what is wrong with a data set shows in most of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path

from vpd.data.sample import CountedDepth, SampleSet
from vpd.datasets.findings import SplitFindings
from vpd.datasets.teachable import Fault, exif_question, find_faults
from vpd.errors import UsageError

logger = logging.getLogger(__name__)

_LOOKED_AT, _LOOKED_ON = 12, 200
_LONGEST_S = 20.0
_LONGEST_SEARCH_S = 5.0


def look_at_some(
    sample_set: SampleSet,
    what: str = "training",
    *,
    max_share: float = 0.0,
    range_m: float | None = None,
    limit: int | None = None,
    is_to_learn: bool = True,
) -> SplitFindings:
    """Look for the files of a data set and read a dozen of its samples, spread evenly.

    Where those could teach nothing, which others may refute, up to 200 are read, for 20 s at most.

    Args:
        sample_set: The samples.
        what: What messages call them.
        max_share: Share that may be unreadable; any, if it is above 0, up to half of the dozen.
        range_m: Largest depth of the model, metres; none = it has none.
        limit: Only so many of the first samples matter.
        is_to_learn: Whether a model is to learn from them, or is measured on them.

    Returns:
        What was found.

    Raises:
        UsageError: If files are not there or samples cannot be read, more than may be; or if they cannot teach.
    """
    total = len(sample_set) if limit is None else min(limit, len(sample_set))
    if hasattr(sample_set, "files") and total == len(sample_set):
        _refuse_missing(sample_set.files(), what, max_share)
    classes = tuple(getattr(sample_set, "classes", ()))
    counted = getattr(sample_set, "counted", CountedDepth())
    reading = sample_set.reading() if hasattr(sample_set, "reading") else {}
    if not is_to_learn:  # what is learned from counts inside the model's range, what is measured on as the data say
        range_m = counted.max_depth_m or range_m
    found, problems = SplitFindings(what, range_m=range_m), list[str]()

    def look(indices: Iterable[int]) -> None:
        for index in indices:
            try:
                found.add(sample_set[index], classes, counted)
                found.samples += 1
            except UsageError as error:
                problems.append(str(error))

    def faults() -> list[Fault]:
        return find_faults(found, classes, reading, is_whole=found.samples == total, is_to_learn=is_to_learn)

    dozen = _spread(total, _LOOKED_AT)
    look(dozen)
    if len(problems) > (len(dozen) / 2 if max_share else 0):  # so few say little of a share, but this is no accident
        raise UsageError(
            f"Of {len(dozen)} {what} samples that were looked at before the start, {len(problems)} cannot be used: "
            f"{'; '.join(problems[:2])}{'; ...' if len(problems) > 2 else ''}. Mend the data or the class list; "
            "vpd data check names every problem."
        )
    others = [index for index in _spread(total, _LOOKED_ON) if index not in set(dozen)]
    if others and any(fault.is_of_samples for fault in faults()):
        logger.info("The %d %s samples looked at are odd: looking at up to %d more.", len(dozen), what, len(others))
        began_s = time.monotonic()
        for index in others:
            look([index])
            if time.monotonic() - began_s > _LONGEST_S or not any(fault.is_of_samples for fault in faults()):
                break
    left = faults()
    seen = f"{found.samples:,} of {total:,} {what} samples were looked at: "
    for fault in left:
        if fault.is_certain:
            raise UsageError(seen + fault.words)
    for fault in left:
        logger.warning("%s%s", seen, fault.words)
    if getattr(sample_set, "exif", None) is not None:
        found.turned = 0  # somebody said what is meant
    return found


def tell_of_turns(*looks: SplitFindings) -> None:
    """Ask which orientation is meant, if any picture that was looked at has an EXIF turn."""
    if turned := sum(found.turned for found in looks):
        seen = sum(found.samples for found in looks)
        logger.warning("Of %d samples that were looked at, %s.", seen, exif_question(turned))


def tell_of_range(found: SplitFindings, *, counts_beyond: bool = False) -> None:
    """Say how much of the measured depth lies beyond the range, if any does."""
    if found.range_m is not None and found.pixels_beyond:
        what = "and count in the loss, as published" if counts_beyond else "and do not count"
        share, samples = 100 * found.share_beyond, found.samples
        told = "%.1f %% of the measured pixels (%d %s samples looked at) are beyond max_depth_m=%g %s."
        logger.info(told, share, samples, found.split, found.range_m, what)


def _spread(total: int, number: int) -> list[int]:
    number = min(number, total)
    return [place * total // number for place in range(number)]


def _refuse_missing(files: Iterable[Path], what: str, max_share: float) -> None:
    missing, looked_for, began_s = list[Path](), 0, time.monotonic()
    for path in files:  # each takes microseconds, or a millisecond on a disk far away
        if time.monotonic() - began_s > _LONGEST_SEARCH_S:
            break
        looked_for += 1
        if not path.exists():
            missing.append(path)
    if len(missing) > (max(1.0, max_share * looked_for) if max_share else 0):
        raise UsageError(
            f"{len(missing)} of {looked_for} {what} files are not there: {', '.join(map(str, missing[:3]))}"
            f"{', ...' * (len(missing) > 3)}. Add them, or take them out of the list or annotation file that "
            "names them (or unpaired=skip, where the layout has it)."
        )
