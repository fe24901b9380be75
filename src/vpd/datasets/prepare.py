"""From a download to what is read, for the data sets that need it.

NYU's official split comes as one file, `nyu_depth_v2_labeled.mat` (MATLAB 7.3, that is HDF5), and becomes

```
official_splits/{train,test}/bathroom/rgb_00045.jpg, sync_depth_00045.png     numbers from 0, depth in millimetres
official_splits/rooms.json                                                    {"00045": "bathroom_0002", ...}
```
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vpd.datasets.annotations import shipped_json
from vpd.datasets.layouts import find_layout
from vpd.datasets.nyu import OFFICIAL, ROOMS, UNFINISHED
from vpd.datasets.refer import DATASETS
from vpd.datasets.refer_files import convert_references
from vpd.errors import UsageError
from vpd.files.atomic import atomic_write, writable_folder, write_json
from vpd.files.decoding import check_size
from vpd.files.own_files import json_of

MAT_FILE = "nyu_depth_v2_labeled.mat"
PICTURES = 1449
"""Pictures of the whole file."""

_SEEN = slice(7, 474), slice(7, 632)
"""Rows and columns that are kept of a picture; the rest, where the projected depth has none, becomes black."""
_LONGEST_NAME = 100
_CACHE_BYTES = 2**28  # compressed blocks that reach over several pictures are unpacked once
_MAX_MM = 2**16 - 1


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


def extract_nyu(
    root: str | Path, *, progress: Callable[[Iterable[int]], Iterable[int]] = lambda indices: indices
) -> tuple[int, int]:
    """Write the pictures and raw depth of `nyu_depth_v2_labeled.mat` as the published code reads them.

    A run that was stopped goes on where it was. Until the end `official_splits/UNFINISHED` keeps the data from
    being used.

    Args:
        root: Folder with the file; `official_splits/` is made in it.
        progress: Wraps the indices of the pictures, to show how far it is.

    Returns:
        Pictures in the file, and how many of them were written now; the others lay there already.

    Raises:
        UsageError: If h5py is missing, or the file is missing, damaged, or not what it should be.
    """
    root = Path(root)
    with _open(root / MAT_FILE) as file:
        images, depths = _dataset(file, "images", 4), _dataset(file, "rawDepths", 3)
        number = images.shape[0]
        is_right = images.shape[1] == 3 and depths.shape == (number, *images.shape[2:]) and 0 < number <= PICTURES
        if not is_right or images.dtype != np.uint8 or depths.dtype != np.float32:
            raise UsageError(
                f"{file.filename}: images is {images.dtype} {images.shape} and rawDepths {depths.dtype} "
                f"{depths.shape}; expected uint8 ({PICTURES}, 3, 640, 480) and float32 ({PICTURES}, 640, 480), or "
                "fewer pictures"
            )
        check_size(images.shape[2:], f"{file.filename}, images")
        scenes, rooms = _names(file, "sceneTypes", number), _names(file, "scenes", number)
        room_of = {f"{index:05d}": room for index, room in enumerate(rooms)}
        _refuse_other_rooms(root / OFFICIAL / ROOMS, room_of)
        folder = writable_folder(root / OFFICIAL)
        (folder / UNFINISHED).touch()
        write_json(folder / ROOMS, room_of)
        test, written = nyu_test_pictures(), 0
        targets = [folder / ("test" if index in test else "train") / scenes[index] for index in range(number)]
        for target in sorted(set(targets)):
            writable_folder(target)
        for index in progress(range(number)):
            image_path = targets[index] / f"rgb_{index:05d}.jpg"
            depth_path = targets[index] / f"sync_depth_{index:05d}.png"
            if image_path.is_file() and depth_path.is_file():
                continue
            image, depth_m = _read(images, index), _read(depths, index)
            # the depth first: pairs are found by their pictures
            _save(_depth_mm(depth_m, f"{file.filename}, picture {index}"), depth_path)
            _save(_framed(image), image_path, quality=95, subsampling="4:2:0")  # as OpenCV writes JPEG
            written += 1
        (folder / UNFINISHED).unlink()
    return number, written


def nyu_test_pictures() -> frozenset[int]:
    """Numbers of the 654 test pictures of the official split, from 0; the other 795 are for training."""
    return frozenset(shipped_json("nyu_test_pictures.json"))


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UsageError(f"{path}: no such file; it is the labelled data set of NYU Depth v2, 2.8 GB")
    try:
        import h5py
    except ImportError as error:
        raise UsageError('MATLAB 7.3 files need h5py: pip install "vpd-perception[nyu]"') from error
    try:
        file = h5py.File(path, "r", rdcc_nbytes=_CACHE_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: not a whole MATLAB 7.3 file ({error}). Download it again") from error
    with file:
        yield file


def _dataset(file: Any, name: str, axes: int) -> Any:
    """An array of the file itself: links to other files, which HDF5 knows, are not followed."""
    import h5py

    dataset: Any = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not _is_inside(dataset) or dataset.ndim != axes:
        raise UsageError(f"{file.filename}: has no array {name!r} of {axes} axes; is it {MAT_FILE}?")
    return dataset


def _is_inside(found: Any) -> bool:
    """Whether it is an array whose numbers stand in this file."""
    import h5py

    return isinstance(found, h5py.Dataset) and not found.external and not found.is_virtual


def _names(file: Any, key: str, number: int) -> list[str]:
    """One word for each picture, from references to columns of characters."""
    import h5py

    references = _dataset(file, key, 2)
    if references.shape != (1, number) or h5py.check_ref_dtype(references.dtype) is not h5py.Reference:
        raise UsageError(f"{file.filename}: {key!r} has shape {references.shape}; expected (1, {number}) references")
    names = []
    for index, reference in enumerate(references[0]):
        column: Any = file[reference] if reference else None
        is_text = _is_inside(column) and column.dtype == np.uint16 and column.size <= _LONGEST_NAME
        name = "".join(chr(code) for code in np.ravel(column[()])) if is_text else ""
        if not re.fullmatch(r"[A-Za-z0-9_]+", name):  # it becomes the name of a folder
            raise UsageError(f"{file.filename}: {key!r} of picture {index} is {name!r}, which is no scene name")
        names.append(name)
    return names


def _read(dataset: Any, index: int) -> NDArray[Any]:
    """One picture or depth map, `(H, W, ...)`; the file's axes are reversed."""
    try:
        return np.asarray(dataset[index]).T
    except OSError as error:
        raise UsageError(f"{dataset.file.filename}: picture {index} is damaged ({error}). Download it again") from error


def _framed(image: NDArray[Any]) -> NDArray[np.uint8]:
    framed = np.zeros(image.shape, dtype=np.uint8)
    framed[_SEEN] = image[_SEEN]
    return framed


def _depth_mm(depth_m: NDArray[Any], name: str) -> NDArray[np.uint16]:
    """Millimetres, cut off and not rounded, as published; 0 = not measured."""
    depth_mm = np.nan_to_num(depth_m * np.float32(1000), nan=0, posinf=np.inf, neginf=0)
    if depth_mm.min() < 0 or depth_mm.max() > _MAX_MM:
        raise UsageError(
            f"{name}: raw depth is {depth_m.min()}..{depth_m.max()} m; 0..{_MAX_MM / 1000} m can be stored"
        )
    return depth_mm.astype(np.uint16)


def _refuse_other_rooms(path: Path, rooms: dict[str, str]) -> None:
    """Keep a file of rooms that holds more than a part of these, as somebody wrote it."""
    there = json_of(path)
    if there is None:
        return
    if not isinstance(there, dict) or any(rooms.get(number) != room for number, room in there.items()):
        raise UsageError(f"{path} says other rooms than {MAT_FILE}. Move it away to have it made anew.")


def _save(pixels: NDArray[Any], path: Path, **options: Any) -> None:
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, **options)
