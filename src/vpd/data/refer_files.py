"""The annotation files of REFER data sets: references from a pickle read without running code, COCO instances."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from vpd.errors import UsageError


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


@dataclass(frozen=True)
class Picture:
    """One picture of `instances.json`."""

    file_name: str
    """Name without folder. The references' own `file_name` has an object number and opens nothing."""
    height: int
    """Pixels, as annotated."""
    width: int
    """Pixels, as annotated."""


def read_references(path: Path) -> list[Reference]:
    """References of `refs(unc).p` or `refs(unc).json`, checked.

    Raises:
        UsageError: If the file cannot be read, holds anything but plain data, or a record lacks something.
    """
    records = _read_json(path) if path.suffix == ".json" else read_plain_pickle(path)
    if not isinstance(records, list) or not records:
        raise UsageError(f"{path}: must hold a list of references, not {type(records).__name__}")
    references = [_reference(record, f"{path}, reference {place}") for place, record in enumerate(records)]
    if len({reference.ref_id for reference in references}) < len(references):
        raise UsageError(f"{path}: some ref_id stands twice")
    return references


def read_instances(path: Path) -> tuple[dict[int, Picture], dict[int, Any]]:
    """Pictures by image id and segmentations by annotation id, of a COCO `instances.json`.

    Raises:
        UsageError: If the file cannot be read or a record lacks something.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must hold an object with images and annotations")
    pictures, segmentations = {}, {}
    for place, record in enumerate(_field(content, "images", list, str(path))):
        where = f"{path}, image {place}"
        name = _field(record, "file_name", str, where)
        if not name or Path(name).name != name or "\\" in name:
            raise UsageError(f"{where}: file_name {name!r} must be a plain file name")
        height, width = _field(record, "height", int, where), _field(record, "width", int, where)
        pictures[_field(record, "id", int, where)] = Picture(name, height, width)
    for place, record in enumerate(_field(content, "annotations", list, str(path))):
        where = f"{path}, annotation {place}"
        segmentations[_field(record, "id", int, where)] = _field(record, "segmentation", (list, dict), where)
    return pictures, segmentations


def read_plain_pickle(path: Path) -> Any:
    """Content of a pickle that holds nothing but lists, dictionaries, numbers and text; no code can run.

    Raises:
        UsageError: If the file is missing, is no pickle, or names any class or function.
    """

    class PlainUnpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> NoReturn:
            raise UsageError(f"{path}: refused, the pickle holds code ({module}.{name}); only plain data is read")

        def persistent_load(self, pid: Any) -> NoReturn:
            raise UsageError(f"{path}: refused, the pickle points outside itself; only plain data is read")

    try:
        with path.open("rb") as file:  # written by Python 2: text is bytes, not always UTF-8
            return PlainUnpickler(file, encoding="utf-8", errors="surrogateescape").load()
    except UsageError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a damaged pickle raises every kind of exception
        raise UsageError(f"{path}: not a whole pickle ({type(error).__name__})") from error


def _reference(record: Any, where: str) -> Reference:
    sentences = [_field(sentence, "sent", str, where) for sentence in _field(record, "sentences", list, where)]
    if not sentences:
        raise UsageError(f"{where}: has no sentence")
    readable = (text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in sentences)
    return Reference(
        ref_id=_field(record, "ref_id", int, where),
        ann_id=_field(record, "ann_id", int, where),
        image_id=_field(record, "image_id", int, where),
        split=_field(record, "split", str, where),
        sentences=tuple(readable),
    )


def _field(record: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(record, Mapping) or not isinstance(record.get(key), kind):
        raise UsageError(f"{where}: {key!r} is missing or of the wrong type")
    return record[key]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error})") from error
