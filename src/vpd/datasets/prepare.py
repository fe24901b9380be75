"""From a download to what is read, for the data sets that need it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from vpd.datasets.layouts import find_layout
from vpd.datasets.nyu_extraction import PICTURES, extract_nyu
from vpd.datasets.refer import DATASETS
from vpd.datasets.refer_files import convert_references
from vpd.errors import UsageError


def prepare_data(
    format: str,  # noqa: A002
    root: str | Path,
    *,
    progress: Callable[[Iterable[int]], Iterable[int]] = lambda indices: indices,
) -> list[str]:
    """Prepare a data set; may be stopped and run again.

    Args:
        format: `nyu`: the labelled file becomes `official_splits/`; `refcoco`, `refcoco+`, `refcocog`: pickles
            become JSON.
        root: Folder of the data set.
        progress: Wraps the indices of the pictures, to show how far it is.

    Returns:
        What was done, in lines.

    Raises:
        UsageError: If the layout is unknown or needs no preparation, or the download is missing or damaged.
    """
    root = Path(root)
    find_layout(format)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    if format == "nyu":
        pictures, written = extract_nyu(root, progress=progress)
        whole = "" if pictures == PICTURES else f", a part of the whole {PICTURES:,}"
        return [f"{root / 'official_splits'}: {pictures:,} pictures{whole}; {written:,} written now"]
    if format in DATASETS:
        return [
            f"{path}: {'written' if is_new else 'is up to date'}" for path, is_new in convert_references(root / format)
        ]
    raise UsageError(f"{format} needs no preparation; only these do: nyu, {', '.join(DATASETS)}")
