"""Which images a prediction run is about, and a name for the output of each that no other image has."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from vpd.errors import UsageError
from vpd.files.find_images import VIDEO_SUFFIXES, absolute, find_images, searched_folder

DATA_SUFFIX = ".png"
PICTURE_SUFFIX = ".overlay.jpg"

Earlier = Callable[[str, str], tuple[str, str] | None]
"""Image and its path below what is searched -> where an earlier run found it and the name that it gave its outputs."""


@dataclass(frozen=True, slots=True)
class Item:
    """An image and where its outputs go."""

    source: str
    """The image, absolute path."""
    name: str
    """Path of its outputs within the output folder, `/` between folders, without suffix."""
    below: str = ""
    """Path of the image below the folder that was searched, or its name; `/` between folders."""
    moved_from: str | None = None
    """Where an earlier run, which gave it its name, found the image."""

    @property
    def data(self) -> str:
        """Path of the data file within the output folder."""
        return self.name + DATA_SUFFIX

    @property
    def picture(self) -> str:
        """Path of the picture within the output folder."""
        return self.name + PICTURE_SUFFIX

    def with_own_name(self) -> Item:
        """The same image under a name that no other has, where it is not the one that was moved here."""
        return replace(self, name=f"{os.path.splitext(self.below)[0]}_{_letters(self.source)}", moved_from=None)  # noqa: PTH122


class Named(NamedTuple):
    """Images of a run."""

    items: list[Item]
    """In their order."""
    left_out: Counter[str]
    """Kind of what lay in searched folders as well -> how many."""


def path_below(source: str, name: str) -> str:
    """Path of an image below what was searched, where its outputs have the plain name; else its own name."""
    plain, suffix = os.path.splitext(source)  # noqa: PTH122
    is_plain = f"/{plain.replace(os.sep, '/')}".endswith(f"/{name}")
    return name + suffix if is_plain else os.path.basename(source)  # noqa: PTH119


def name_outputs(
    sources: Sequence[str],
    out: Path,
    *,
    taken: Mapping[str, str],
    recognise: Callable[[Collection[str]], Earlier] | None = None,
) -> Named:
    """Find the images that a user's words name and give each a name.

    A name is the image's path below the folder or pattern it was found in. Where two images would share one, the
    suffix and, if that does not help, a few letters of a hash of the path are added to the later. Names follow
    from the whole list, so several jobs that are given the same words agree on them, whatever is finished.

    Args:
        sources: Image files, folders, glob patterns.
        out: Output folder; where it lies inside a folder that is searched, what is in it is left out.
        taken: Names that earlier runs gave, by the source they gave them to; these stay.
        recognise: All images -> what tells which of them an earlier run found elsewhere; these keep their names.

    Raises:
        UsageError: If nothing is found, a source is a video, the output folder is a source, or an output would
            overwrite a source.
    """
    if videos := [source for source in sources if Path(source).suffix.lower() in VIDEO_SUFFIXES]:
        raise UsageError(
            f"{videos[0]} is a video, and this predicts pictures. Give it to `vpd predict`, to `model.stream`, or to "
            "`vpd.prediction_jobs.clip_job.ClipJob`."
        )
    folders = [searched_folder(source) for source in sources]
    outright = {absolute(source) for source, folder in zip(sources, folders, strict=True) if folder is None}
    roots = [_with_separator(folder) for folder in folders if folder is not None]
    inside = _with_separator(absolute(out))
    if inside in roots:
        raise UsageError(f"{out} is searched for images and cannot take the output as well. Give another --out.")
    is_searched = any(inside.startswith(root) for root in roots)
    made = set(taken.values())
    images, in_out = [], set()
    found, left_out = find_images(sources, except_folder=out)
    for image in found:
        if image.startswith(inside):
            if _is_output(image.removeprefix(inside), made) or (is_searched and image not in outright):
                continue
            in_out.add(image)
        images.append(image)
    if not images:
        raise UsageError(f"All images in {', '.join(sources)} are outputs of {out}; there is nothing to predict.")
    items = list(_assign(images, roots, taken, recognise(images) if recognise else None))
    for item in items if in_out else ():
        for output in (inside + item.data.replace("/", os.sep), inside + item.picture.replace("/", os.sep)):
            if output in in_out:
                raise UsageError(
                    f"The output for {item.source} would overwrite the image {output}. Give another --out."
                )
    return Named(items, left_out)


def _assign(
    images: Sequence[str], roots: Sequence[str], taken: Mapping[str, str], recognise: Earlier | None
) -> Iterator[Item]:
    used = {name.casefold() for name in taken.values()}  # some file systems see no difference in case
    for image in images:
        root = next((root for root in roots if image.startswith(root)), None)
        below = (image.removeprefix(root) if root else os.path.basename(image)).replace(os.sep, "/")  # noqa: PTH119
        name, moved_from = taken.get(image), None
        if name is None and recognise and (earlier := recognise(image, below)):
            moved_from, name = earlier
        if name is None:
            plain, suffix = os.path.splitext(below)  # noqa: PTH122
            name = plain
            if name.casefold() in used:
                name = f"{plain}_{suffix[1:]}"
            if name.casefold() in used:
                name = f"{plain}_{_letters(image)}"
            used.add(name.casefold())
        yield Item(image, name, below, moved_from)


def _letters(image: str) -> str:
    """A few letters that follow from the path of an image."""
    return hashlib.sha256(os.fsencode(image)).hexdigest()[:8]


def _is_output(path: str, made: Collection[str]) -> bool:
    """Whether a path within the output folder is an output that was made under one of the names."""
    path = path.replace(os.sep, "/")
    suffixes = (suffix for suffix in (DATA_SUFFIX, PICTURE_SUFFIX) if path.endswith(suffix))
    return any(path.removesuffix(suffix) in made for suffix in suffixes)


def _with_separator(folder: str) -> str:
    """The folder so that whatever begins with it lies inside."""
    return folder if folder.endswith(os.sep) else folder + os.sep
