"""Many pictures in one go: an archive with the files that `vpd predict` would write."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vpd.errors import UsageError, first_line
from vpd.prediction_jobs.manifest import MANIFEST
from vpd.prediction_jobs.output_names import DATA_SUFFIX, PICTURE_SUFFIX
from vpd.serving.answers import data_file, overlay_file
from vpd.serving.served import Answered

MOST_PICTURES = 100
_LONGEST_NAME = 80


def write_archive(
    archive: Path,
    pictures: Sequence[Path],
    ask: Callable[[bytes], Future[Answered]],
    *,
    timeout_s: float,
    failed: list[str],
    say: Callable[[Exception], str] = first_line,
) -> Generator[int, None, None]:
    """Predict pictures into a zip, step by step: a data file, a picture and a line of the manifest for each.

    Args:
        archive: To write; removed again where it does not get done.
        pictures: Uploaded files.
        ask: Queues a picture.
        timeout_s: Seconds that each may take.
        failed: Gets a line for each picture that could not be predicted.
        say: What a person is told of an error; it is of its own picture alone.

    Yields:
        How many pictures are done. The archive is there when no more comes; who stops before leaves none.

    Raises:
        UsageError: If there are none, too many, or none could be predicted.
    """
    if not pictures or len(pictures) > MOST_PICTURES:
        raise UsageError(f"Give 1 to {MOST_PICTURES} pictures; got {len(pictures)}. `vpd predict` takes any number.")
    names, lines = safe_names([path.name for path in pictures]), list[str]()
    with _whole(archive), zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as made:  # pictures are compressed already
        for number, (path, name) in enumerate(zip(pictures, names, strict=True)):
            yield number
            try:
                prediction, data, picture = _files_of(ask(path.read_bytes()), timeout_s)
            except Exception as error:  # the others shall not suffer
                failed.append(f"{name}: {say(error)}")
                continue
            stem = name.rpartition(".")[0] or name
            made.writestr(stem + DATA_SUFFIX, data)
            made.writestr(stem + PICTURE_SUFFIX, picture)
            line = {"source": name, "data": stem + DATA_SUFFIX, "picture": stem + PICTURE_SUFFIX, **prediction.facts()}
            lines.append(json.dumps(line, ensure_ascii=False))
        if not lines:
            raise UsageError("None of the pictures could be predicted. " + " · ".join(failed)[:1000])
        made.writestr(MANIFEST, "".join(f"{line}\n" for line in lines))


def _files_of(waiting: Future[Answered], timeout_s: float) -> tuple[Any, bytes, bytes]:
    """A prediction, once it is there, its data file and its picture."""
    try:
        prediction: Any = waiting.result(timeout_s).prediction
    finally:
        waiting.cancel()  # what came too late need not run
    return prediction, data_file(prediction), overlay_file(prediction)


@contextmanager
def _whole(archive: Path) -> Iterator[None]:
    """Leave no archive that is not finished."""
    try:
        yield
    except BaseException:
        archive.unlink(missing_ok=True)
        raise


def safe_names(given: Sequence[str]) -> list[str]:
    """Names for files in an archive: the last part of each, of plain letters, none twice whatever the suffix."""
    names, taken = list[str](), set[str]()
    for name in given:
        last = name.replace("\\", "/").rpartition("/")[2]
        plain = "".join(letter if letter.isalnum() or letter in " .-_()" else "_" for letter in last).strip(" .")
        stem, dot, suffix = plain.rpartition(".")
        stem, suffix = (stem or plain or "picture")[:_LONGEST_NAME], dot + suffix[:8] if stem else ""
        unique, number = stem, 1
        while unique.casefold() in taken:
            number += 1
            unique = f"{stem}_{number}"
        taken.add(unique.casefold())
        names.append(unique + suffix)
    return names
