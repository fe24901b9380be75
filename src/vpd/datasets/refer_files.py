"""The annotation files of REFER data sets: references from a pickle read without running code, COCO instances."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from vpd.datasets.annotations import field, read_json
from vpd.datasets.coco_files import number
from vpd.datasets.coco_pictures import CocoPicture, read_pictures
from vpd.datasets.plain_pickle import read_plain_pickle
from vpd.errors import UsageError
from vpd.files.atomic import atomic_write
from vpd.files.own_files import json_of

_NO_CHARACTER = re.compile("[\ud800-\udfff]")
"""Bytes that were no UTF-8, as they are kept in text, and halves of characters."""


@dataclass(frozen=True)
class Reference:
    """One object that was described."""

    ref_id: int
    """Unique number of the reference."""
    ann_id: int
    """Its object in `instances.json`."""
    image_id: int
    """Its picture in `instances.json`."""
    split: str
    """`train`, `val`, `test`, `testA` or `testB`."""
    sentences: tuple[str, ...]
    """Cleaned expressions, lower case."""


class Outline(NamedTuple):
    """One object of `instances.json`."""

    image_id: int
    """Its picture."""
    segmentation: Any
    """Polygons or run lengths, as they stand."""


def read_references(path: Path) -> list[Reference]:
    """References of `refs(unc).p` or `refs(unc).json`, checked.

    Raises:
        UsageError: If the file cannot be read, holds anything but plain data, or a record lacks something.
    """
    return check_references(read_json(path) if path.suffix == ".json" else read_plain_pickle(path), path)


def check_references(records: Any, path: Path) -> list[Reference]:
    """References of the content of a reference file.

    Raises:
        UsageError: If it is not a list of whole records, each with its own `ref_id`.
    """
    if not isinstance(records, list) or not records:
        raise UsageError(f"{path}: must hold a list of references, not {type(records).__name__}")
    references = [_reference(record, f"{path}, reference {place}") for place, record in enumerate(records)]
    if len({reference.ref_id for reference in references}) < len(references):
        numbers = Counter(reference.ref_id for reference in references)
        twice = [str(number) for number, count in numbers.items() if count > 1]
        raise UsageError(f"{path}: ref_id stands twice: {', '.join(twice[:5])}")
    return references


def read_instances(path: Path) -> tuple[dict[int, CocoPicture], dict[int, Outline | None]]:
    """Pictures by image id and outlines by annotation id, of REFER's `instances.json`; none = the id has several.

    Annotations without id or image are passed over: no reference can mean them.

    Raises:
        UsageError: If the file cannot be read, lacks a part, or has an image id for different pictures.
    """
    content = read_json(path)
    pictures, odd = read_pictures(content, path)
    if odd:  # the file is published, and the same for all
        raise UsageError(odd[0].removesuffix(": left out"))
    outlines: dict[int, Outline | None] = {}
    for record in field(content, "annotations", list, str(path)):
        ann_id, image_id = number(record, "id"), number(record, "image_id")
        if ann_id is not None and image_id is not None:
            outline = Outline(image_id, record.get("segmentation"))
            outlines[ann_id] = outline if outlines.get(ann_id, outline) == outline else None
    return pictures, outlines


def convert_references(folder: Path) -> list[tuple[Path, bool]]:
    """Write `refs(...).json` beside each `refs(...).p`: the same content as plain JSON, which is then read instead.

    Args:
        folder: Folder of a data set, such as `refcoco`.

    Returns:
        Each JSON file, and whether it was written: one that already says the same stays.

    Raises:
        UsageError: If there is no pickle, one holds anything but plain data, a record lacks something, or a JSON file
            says something else.
    """
    pickles = sorted(folder.glob("refs(*).p"))
    if not pickles:
        raise UsageError(f"{folder}: no refs(...).p to convert")
    done = []
    for path in pickles:
        records = read_plain_pickle(path)
        check_references(records, path)
        target = path.with_suffix(".json")
        try:
            content = json.dumps(records).encode()  # ASCII: text that is not UTF-8 is kept as it is, in escapes
        except (TypeError, ValueError) as error:
            raise UsageError(f"{path}: holds something that JSON has no word for ({error})") from error
        there = json_of(target)
        if there is not None and there != json.loads(content):
            raise UsageError(f"{target} says something else than {path.name}. Move it away to have it made anew.")
        is_new = there is None
        if is_new:
            with atomic_write(target) as temporary:
                temporary.write_bytes(content)
        done.append((target, is_new))
    return done


def _reference(record: Any, where: str) -> Reference:
    sentences = [field(sentence, "sent", str, where) for sentence in field(record, "sentences", list, where)]
    if not sentences:
        raise UsageError(f"{where}: has no sentence")
    readable = (_NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", text) for text in sentences)
    # the record's own file_name has an object number and opens nothing: the picture's is in instances.json
    return Reference(
        ref_id=field(record, "ref_id", int, where),
        ann_id=field(record, "ann_id", int, where),
        image_id=field(record, "image_id", int, where),
        split=field(record, "split", str, where),
        sentences=tuple(readable),
    )
