"""Which images a prediction run is about, and a name for the output of each that no other image has."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from vpd.errors import UsageError
from vpd.images import find_images

DATA_SUFFIX = ".png"
PICTURE_SUFFIX = ".overlay.jpg"
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")


@dataclass(frozen=True)
class Item:
    """An image and where its outputs go."""

    source: Path
    """The image, absolute."""
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
    suffix and, if that does not help, a few letters of a hash of the path are added to the later.

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
    out = _absolute(out)
    outright = {_absolute(source) for source in sources if _root(source) is None}
    roots = [root for root in map(_root, sources) if root is not None]
    if out in roots:
        raise UsageError(f"{out} is searched for images and cannot take the output as well. Give another --out.")
    produced = {out / name for made in taken.values() for name in (made + DATA_SUFFIX, made + PICTURE_SUFFIX)}
    search_meets_out = any(root in out.parents for root in roots)
    images = [
        image
        for image in dict.fromkeys(_absolute(image) for image in find_images(sources))
        if image not in produced and (image in outright or not (search_meets_out and out in image.parents))
    ]
    if not images:
        raise UsageError(f"All images in {', '.join(sources)} are outputs of {out}; there is nothing to predict.")
    items = list(_assign(images, roots, taken))
    _check_sources_stay(items, out)
    return items


def _assign(images: Sequence[Path], roots: Sequence[Path], taken: Mapping[str, str]) -> Iterable[Item]:
    used = {name.casefold() for name in taken.values()}  # some file systems see no difference in case
    for image in images:
        name = taken.get(str(image))
        if name is None:
            root = next((root for root in roots if root in image.parents), image.parent)
            plain = image.relative_to(root).with_suffix("").as_posix()
            digest = hashlib.sha256(os.fsencode(image)).hexdigest()[:8]
            choices = (plain, f"{plain}_{image.suffix[1:]}", f"{plain}_{digest}")
            name = next(choice for choice in choices if choice.casefold() not in used or choice is choices[-1])
            used.add(name.casefold())
        yield Item(source=image, name=name)


def _check_sources_stay(items: Sequence[Item], out: Path) -> None:
    sources = {item.source for item in items}
    for item in items:
        if overwritten := sources & {out / item.data, out / item.picture}:
            raise UsageError(
                f"The output for {item.source} would overwrite the image {overwritten.pop()}. Give another --out."
            )


def _root(source: str) -> Path | None:
    """The folder that a folder or pattern is searched from; none for a file that is named outright."""
    path = Path(source)
    if path.is_dir():
        return _absolute(path)
    if path.exists() or not glob.has_magic(source):
        return None
    return _absolute(Path(*takewhile(lambda part: not glob.has_magic(part), path.parts)))


def _absolute(path: str | Path) -> Path:
    """The absolute path, `..` resolved by name, links kept as the user named them."""
    return Path(os.path.abspath(path))  # noqa: PTH100, Path.absolute keeps `..`
