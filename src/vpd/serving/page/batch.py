"""Many pictures in one go: an archive with the files that `vpd predict` would write."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from vpd.errors import UsageError, first_line
from vpd.prediction_jobs.manifest import MANIFEST
from vpd.prediction_jobs.output_names import DATA_SUFFIX, PICTURE_SUFFIX
from vpd.serving.answers import data_file, overlay_file
from vpd.serving.engine import BusyError
from vpd.serving.served import Answered

MOST_PICTURES = 100
_LONGEST_NAME = 80


def write_archive(
    archive: Path,
    pictures: Sequence[Path],
    ask: Callable[[bytes], Future[Answered]],
    *,
    timeout_s: float,
    told: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Predict pictures into a zip: a data file, a picture and a line of the manifest for each.

    Args:
        archive: To write; removed again where nothing could be predicted.
        pictures: Uploaded files.
        ask: Queues a picture.
        timeout_s: Seconds that each may take.
        told: Is told how many are done.

    Returns:
        What became of those that could not be predicted, a line each.

    Raises:
        UsageError: If there are none, too many, or none could be predicted.
    """
    if not pictures or len(pictures) > MOST_PICTURES:
        raise UsageError(f"Give 1 to {MOST_PICTURES} pictures; got {len(pictures)}. `vpd predict` takes any number.")
    names, failed, lines = safe_names([path.name for path in pictures]), list[str](), list[str]()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as made:  # pictures are compressed already
        for number, (path, name) in enumerate(zip(pictures, names, strict=True)):
            try:
                answered = ask(path.read_bytes()).result(timeout_s)
            except (UsageError, BusyError, TimeoutError, OSError) as error:
                failed.append(f"{name}: {first_line(error)}")
                continue
            prediction: Any = answered.prediction
            stem = name.rpartition(".")[0] or name
            made.writestr(stem + DATA_SUFFIX, data_file(prediction))
            made.writestr(stem + PICTURE_SUFFIX, overlay_file(prediction))
            line = {"source": name, "data": stem + DATA_SUFFIX, "picture": stem + PICTURE_SUFFIX, **prediction.facts()}
            lines.append(json.dumps(line, ensure_ascii=False))
            told(number + 1)
        made.writestr(MANIFEST, "".join(f"{line}\n" for line in lines))
    if not lines:
        archive.unlink(missing_ok=True)
        raise UsageError("None of the pictures could be predicted. " + " · ".join(failed)[:1000])
    return failed


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
