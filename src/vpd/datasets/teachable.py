"""The rules about data that cannot teach a model, or hardly, on the figures of some of their samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vpd.datasets.findings import IGNORED, SplitFindings

LEAST_SHARE = 0.01
"""Of the measured pixels: with fewer of them inside the model's range there is nothing to learn from."""


class Fault(NamedTuple):
    """Something about samples as a whole."""

    words: str
    """What it is, and what to do."""
    is_certain: bool
    """Whether these samples cannot teach; else it is likely that something is wrong."""
    is_of_samples: bool = True
    """Whether other samples could refute it; else it is of the class list."""


def find_faults(
    found: SplitFindings,
    classes: tuple[str, ...] = (),
    reading: Mapping[str, Any] | None = None,
    *,
    is_whole: bool,
    is_to_learn: bool = True,
) -> list[Fault]:
    """What of the samples cannot teach.

    Args:
        found: Their figures.
        classes: Names of the classes of their labels.
        reading: How their values are read, as `SampleSet.reading` says.
        is_whole: Whether they are all there are.
        is_to_learn: Whether a model is to learn from them; else it is measured on them, for which one class in all
            pixels will do.
    """
    if found.pixels_of_class:
        return list(_faults_of_labels(found, classes, reading or {}, is_whole=is_whole, is_to_learn=is_to_learn))
    return [*_faults_of_masks(found), *_faults_of_depth(found, (reading or {}).get("max_depth_m"))]


def exif_question(turned: int) -> str:
    """What must be asked where pictures have an EXIF turn and their truth has none."""
    many = f"{turned:,} pictures carry an EXIF turn, their" if turned > 1 else "1 picture carries an EXIF turn, its"
    return (
        f"{many} labels, masks or depth none. Which is meant? exif=apply (as is done unless it is set) turns the "
        "pictures, for truth that was made on upright pictures; exif=ignore takes them as they lie in the file "
        "(vpd train: -s data.options.exif=..., else -s exif=...)"
    )


def _faults_of_labels(
    found: SplitFindings, classes: tuple[str, ...], reading: Mapping[str, Any], *, is_whole: bool, is_to_learn: bool
) -> Iterator[Fault]:
    pixels, ignored = found.pixels_of_class, found.pixels_of_class[IGNORED]
    total = pixels.total()
    present = [name for name in classes if pixels[name]]
    absent = [name for name in classes if not pixels[name]]
    told = _told_ignored(reading)
    share = f"{100 * ignored / total:.1f} % of the pixels are ignored ({told})" if ignored else ""
    if len(classes) == 1:
        what = f"there is one class only, {classes[0]!r}, so there is nothing to tell it apart from"
        yield Fault(f"{what}. {_second_class(classes[0], share, reading)}", is_certain=True, is_of_samples=False)
    elif not present:
        yield Fault(
            f"every pixel is ignored ({told}), so no class is ever seen. If that is one of the classes "
            f"({', '.join(classes[:5])}), {_remedy(reading, classes[-1])}",
            is_certain=True,
        )
    elif len(present) == 1 and ignored:
        yield Fault(
            f"all pixels that count are {present[0]!r}; none is of {', '.join(absent[:5])}, while {share}. Is that "
            f"{absent[0]!r}? Then {_remedy(reading, absent[0])}",
            is_certain=is_to_learn,
        )
    elif len(present) == 1:
        what = f"all pixels are of one class, {present[0]!r}; none is of {', '.join(absent[:5])}"
        yield Fault(f"{what}. Do the label files hold what the class list says?", is_certain=is_whole and is_to_learn)
    elif absent and ignored and reading.get("is_stated") is False and is_to_learn:
        yield Fault(
            f"classes without a pixel: {', '.join(absent[:5])}{', ...' * (len(absent) > 5)}; and {share}. Is that one "
            f"of them? Then {_remedy(reading, absent[0])}; if not, ignore_index={reading['ignored'][0]}, as an option "
            "or beside the classes, says so",
            is_certain=False,
        )


def _faults_of_masks(found: SplitFindings) -> Iterator[Fault]:
    if found.mask_share and not max(found.mask_share):
        yield Fault("every mask is empty: object pixels must be above 0", is_certain=True)
    elif len(found.mask_share) > 1 and min(found.mask_share) == 1:
        yield Fault("every mask covers its whole picture: pixels without object must be 0", is_certain=False)


def _faults_of_depth(found: SplitFindings, counted_to_m: float | None) -> Iterator[Fault]:
    if not found.measured_share:
        return
    if found.depth_m is None:
        beyond = f", or beyond max_depth_m={counted_to_m:g}, the option of the data" if counted_to_m else ""
        yield Fault(f"no pixel has a depth: all are 0, which stands for not measured{beyond}", is_certain=True)
        return
    (near, far), range_m = found.depth_m, found.range_m
    span = f"measured depth is {near:.3f} to {far:.3f} m"
    if range_m is None:
        return
    if 1 - found.share_beyond < LEAST_SHARE:
        share = f"{100 * found.share_beyond:.1f} % of the measured pixels are at or beyond max_depth_m={range_m:g}"
        yield Fault(
            f"{share} ({span}), so nothing is left to count. Set max_depth_m, the range of the model in metres; or "
            "depth_scale, the units of the files in one metre (1000 = millimetres), if they are another",
            is_certain=True,
        )
    elif far < LEAST_SHARE * range_m:
        yield Fault(
            f"{span}, less than a hundredth of max_depth_m={range_m:g}. Is depth_scale, the units of the files in one "
            "metre (1000 = millimetres), right?",
            is_certain=False,
        )


def _told_ignored(reading: Mapping[str, Any]) -> str:
    ignored = reading.get("ignored_words") or reading.get("ignored")
    if isinstance(ignored, str) or not ignored:
        return ignored or "255"
    return f"value{'s' * (len(ignored) > 1)} {', '.join(map(str, ignored[:5]))} of the label files"


def _remedy(reading: Mapping[str, Any], name: str) -> str:
    """What to do where what is ignored is a class."""
    ignored = reading.get("ignored_words") or reading.get("ignored")
    if isinstance(ignored, str):
        return f"count it: {ignored}"
    return f'say so in classes.json: "label_map": {{"{ignored[0] if ignored else 255}": "{name}"}}'


def _second_class(name: str, share: str, reading: Mapping[str, Any]) -> str:
    """What to do about a single class, where so much is ignored."""
    if not share:
        return "Give the pixels without it another number, and name that too: background, say"
    if isinstance(reading.get("ignored_words") or reading.get("ignored"), str):
        return f"{share}. They must count, as a class of their own"
    return (
        f'{share}. Where 255 is {name!r}, write {{"classes": ["background", "{name}"], "label_map": '
        f'{{"255": "{name}"}}}} into classes.json; where it is the rest, {{"classes": ["{name}", "background"], '
        '"label_map": {"255": "background"}}'
    )
