"""Which images a prediction run is about, and a name for the output of each that no other image has."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vpd.errors import UsageError
from vpd.files.find_images import absolute, search_images, searched_folder

DATA_SUFFIX = ".png"
PICTURE_SUFFIX = ".overlay.jpg"
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True, slots=True)
class Item:
    """An image and where its outputs go."""

    source: str
    """The image, absolute path."""
    name: str
    """Path of its outputs within the output folder, `/` between folders, without suffix."""

    @property
    def data(self) -> str:
        """Path of the data file within the output folder."""
        return self.name + DATA_SUFFIX

    @property
    def picture(self) -> str:
        """Path of the picture within the output folder."""
        return self.name + PICTURE_SUFFIX


def name_outputs(sources: Sequence[str], out: Path, *, taken: Mapping[str, str]) -> list[Item]:
    """Find the images that a user's words name and give each a name.

    A name is the image's path below the folder or pattern it was found in. Where two images would share one, the
    suffix and, if that does not help, a few letters of a hash of the path are added to the later. Names follow
    from the whole list, so several jobs that are given the same words agree on them, whatever is finished.

    Args:
        sources: Image files, folders, glob patterns.
        out: Output folder; where it lies inside a folder that is searched, what is in it is left out.
        taken: Names that earlier runs gave, by the source they gave them to; these stay.

    Raises:
        UsageError: If nothing is found, a source is a video, the output folder is a source, or an output would
            overwrite a source.
    """
    if videos := [source for source in sources if Path(source).suffix.lower() in VIDEO_SUFFIXES]:
        raise UsageError(
            f"{videos[0]} is a video, which cannot be predicted yet. Cut it into images first, "
            f"for example: ffmpeg -i {videos[0]} frames/%06d.jpg"
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
    for image in search_images(sources):
        if image.startswith(inside):
            if _is_output(image.removeprefix(inside), made) or (is_searched and image not in outright):
                continue
            in_out.add(image)
        images.append(image)
    if not images:
        raise UsageError(f"All images in {', '.join(sources)} are outputs of {out}; there is nothing to predict.")
    items = list(_assign(images, roots, taken))
    for item in items if in_out else ():
        for output in (inside + item.data.replace("/", os.sep), inside + item.picture.replace("/", os.sep)):
            if output in in_out:
                raise UsageError(
                    f"The output for {item.source} would overwrite the image {output}. Give another --out."
                )
    return items


def _assign(images: Sequence[str], roots: Sequence[str], taken: Mapping[str, str]) -> Iterator[Item]:
    used = {name.casefold() for name in taken.values()}  # some file systems see no difference in case
    for image in images:
        name = taken.get(image)
        if name is None:
            root = next((root for root in roots if image.startswith(root)), None)
            plain, suffix = os.path.splitext(image.removeprefix(root) if root else os.path.basename(image))  # noqa: PTH119, PTH122
            plain = plain.replace(os.sep, "/")
            name = plain
            if name.casefold() in used:
                name = f"{plain}_{suffix[1:]}"
            if name.casefold() in used:
                name = f"{plain}_{hashlib.sha256(os.fsencode(image)).hexdigest()[:8]}"
            used.add(name.casefold())
        yield Item(source=image, name=name)


def _is_output(path: str, made: Collection[str]) -> bool:
    """Whether a path within the output folder is an output that was made under one of the names."""
    path = path.replace(os.sep, "/")
    suffixes = (suffix for suffix in (DATA_SUFFIX, PICTURE_SUFFIX) if path.endswith(suffix))
    return any(path.removesuffix(suffix) in made for suffix in suffixes)


def _with_separator(folder: str) -> str:
    """The folder so that whatever begins with it lies inside."""
    return folder if folder.endswith(os.sep) else folder + os.sep
