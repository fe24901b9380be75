"""Manifests of an output folder: one line for each finished image.

A job alone appends to `predictions.jsonl`. Jobs that share the work append to a file each, in the folder `shards`,
so that none waits for another; once every image is listed, `predictions.jsonl` is made of all of them. Their files
are never changed afterwards, so nothing that was finished can be lost, whoever writes at the same time.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vpd.errors import UsageError
from vpd.files.atomic import atomic_write
from vpd.prediction_jobs.output_names import DATA_SUFFIX, Earlier, Item, path_below
from vpd.prediction_jobs.source_state import SourceState

MANIFEST = "predictions.jsonl"
SHARDS = "shards"
"""Folder of the manifests of jobs that share the work, within the output folder."""
_ORIGIN = ("task", "fingerprint", "options")
_BEGIN = b'{"source"'
_BLOCK_BYTES = 2**20


class Entry(NamedTuple):
    """What a manifest line says of a finished image, and where the line stands."""

    name: str
    """Name of the outputs."""
    state: SourceState
    """What the image file was when it was read."""
    below: str | None
    """Its path below the folder that was searched, where the name does not tell it."""
    file: int
    """Number of the manifest, in the order of `manifest_files`."""
    start: int
    """Where in it the line begins, bytes."""
    length: int
    """Bytes of the line, its end included."""


@dataclass
class Record:
    """What the manifests of a folder say together."""

    done: dict[str, Entry] = field(default_factory=dict)
    """Finished images, in the order of the manifests."""
    skipped: set[str] = field(default_factory=set)
    """Images that such jobs could not read and that are not finished."""
    listed: set[str] = field(default_factory=set)
    """Names of all outputs that some line tells of, finished or not."""


def manifest_files(out: Path) -> list[Path]:
    """Manifests that are there, the folder's own last."""
    return [*sorted((out / SHARDS).glob("*-of-*.jsonl")), *([out / MANIFEST] if (out / MANIFEST).exists() else [])]


def read_manifests(out: Path, origin: Mapping[str, Any]) -> Record:
    """What is finished in an output folder.

    Args:
        out: The output folder; it need not exist.
        origin: What a line says of how its prediction was made: task, fingerprint of the model, options.

    Raises:
        UsageError: If a prediction was made otherwise, or a manifest is something else.
    """
    files = manifest_files(out)
    with ExitStack() as stack:
        return _read([(path, stack.enter_context(path.open("rb"))) for path in files], origin)


def find_moved(done: Mapping[str, Entry], images: Collection[str]) -> Earlier:
    """How an image is recognised that an earlier run found elsewhere.

    Args:
        done: Finished images.
        images: Those of this run.

    Returns:
        Function of an image and its path below what is searched -> where the image was and its name. It is taken for
        one that is gone from where it was, had the same path below what was searched then, and has the same size; the
        content of lines that hold no digest cannot be compared, so they are never taken.
    """
    gone: dict[str, list[str]] = {}
    known = set(images)
    for source, entry in done.items():
        if source not in known and entry.state.digest is not None:
            gone.setdefault(entry.below or path_below(source, entry.name), []).append(source)

    def earlier(image: str, below: str) -> tuple[str, str] | None:
        """Where the image was, and the name of its outputs."""
        for source in gone.get(below, ()):
            try:
                if done[source].state.at_a_glance(image) is not False and not os.path.lexists(source):
                    gone[below].remove(source)
                    return source, done[source].name
            except OSError:
                return None
        return None

    return earlier


def moved_lines(out: Path, moved: Sequence[tuple[Item, Entry]]) -> Iterator[dict[str, Any]]:
    """Manifest lines of finished images as they are where the images lie now."""
    with ExitStack() as stack:
        opened = [stack.enter_context(path.open("rb")) for path in manifest_files(out)]
        for item, entry in moved:
            opened[entry.file].seek(entry.start)
            line = json.loads(opened[entry.file].read(entry.length))
            yield {**line, "source": item.source, "moved_from": item.moved_from}


def merge_manifests(out: Path, origin: Mapping[str, Any], sources: Sequence[str], *, only_if_complete: bool) -> bool:
    """Make `predictions.jsonl` of all manifests: one line for each image, in the order of the sources.

    Images of other runs keep their places in front. Whoever calls it, and if several do at once, the file is the
    same; it is written as a whole, and not at all where nothing would change.

    Args:
        out: The output folder.
        origin: As for `read_manifests`.
        sources: The images of this run, in their order.
        only_if_complete: Leave the file alone as long as an image is neither finished nor skipped.

    Returns:
        Whether every image is finished or skipped.

    Raises:
        UsageError: If a prediction was made otherwise.
    """
    files = manifest_files(out)
    if only_if_complete and sum(map(_count_lines, files)) < len(sources):
        return False  # spares all but the last of many jobs the reading
    with ExitStack() as stack:
        opened = [(path, stack.enter_context(path.open("rb"))) for path in files]
        record = _read(opened, origin)
        is_complete = all(source in record.done or source in record.skipped for source in sources)
        if only_if_complete and not is_complete:
            return False
        own = set(sources)
        wanted = [entry for source, entry in record.done.items() if source not in own]
        wanted += [record.done[source] for source in sources if source in record.done]
        if wanted and not _is_written(wanted, files):
            with atomic_write(out / MANIFEST) as temporary, temporary.open("wb") as merged:
                for entry in wanted:
                    file = opened[entry.file][1]
                    file.seek(entry.start)
                    merged.write(file.read(entry.length))
    return is_complete


def _read(opened: Sequence[tuple[Path, BinaryIO]], origin: Mapping[str, Any]) -> Record:
    now = json.loads(json.dumps({key: origin[key] for key in _ORIGIN}))  # as a line has them: no tuples
    record, moved = Record(), dict[str, set[str]]()
    for number, (path, file) in enumerate(opened):
        start, is_ours, first = 0, False, b""
        for raw in file:
            line = _parse(raw)
            is_ours, first = is_ours or line is not None, first or raw.strip()
            if line is None and _says_something_else(raw):
                raise _foreign(path)
            if line is not None and isinstance(line.get("skipped"), str):
                record.skipped.add(line["source"])
            elif line is not None and _is_inside(line.get("data")):
                _check_origin(line, now, path)
                name, below = line["data"].removesuffix(DATA_SUFFIX), line.get("source_below")
                entry = Entry(name, SourceState.of_line(line), below, number, start, len(raw))
                _add(record.done, line["source"], entry)
                record.listed.add(name)
                if isinstance(before := line.get("moved_from"), str):
                    moved.setdefault(name, set()).update((before, line["source"]))
            start += len(raw)
        if not is_ours and not _BEGIN.startswith(first[: len(_BEGIN)]):  # it may be a torn line of ours
            raise _foreign(path)
    for name, sources in moved.items():  # the same picture, which lies elsewhere now
        told = [source for source in sources if source in record.done and record.done[source].name == name]
        for source in sorted(told, key=partial(_currency, done=record.done))[:-1]:
            del record.done[source]
    names = Counter(entry.name.casefold() for entry in record.done.values())
    if len(names) < len(record.done):  # jobs that saw different lists gave one name twice: none of them is trusted
        record.done = {source: entry for source, entry in record.done.items() if names[entry.name.casefold()] == 1}
    record.skipped.difference_update(record.done)
    return record


def _currency(source: str, *, done: Mapping[str, Entry]) -> tuple[bool, int, int]:
    """What is larger for the line that tells where a picture lies now: it is there, or at least the line is later."""
    return os.path.lexists(source), done[source].file, done[source].start


def _parse(raw: bytes) -> dict[str, Any] | None:
    """A manifest line; none where it is torn or something else."""
    if not raw.endswith(b"\n"):  # torn, or being written
        return None
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("source"), str) else None


def _says_something_else(raw: bytes) -> bool:
    """Whether a line is of another file of lines, as those of `vpd eval --predictions` are."""
    try:
        line = json.loads(raw)
    except ValueError:
        return False
    return isinstance(line, dict) and "source" not in line


def _foreign(path: Path) -> UsageError:
    return UsageError(
        f"{path} holds other lines than those of `vpd predict`, which would be lost. Give another --out, or move it "
        "away."
    )


def _is_inside(data: Any) -> bool:
    """Whether a line tells of a file inside the output folder."""
    return isinstance(data, str) and not os.path.isabs(data) and ".." not in data.replace(os.sep, "/").split("/")  # noqa: PTH117, quick


def _add(done: dict[str, Entry], source: str, entry: Entry) -> None:
    """Note a finished image; of two lines about one, that which fits the image as it is now."""
    before = done.get(source)
    if before is not None and (before.state[0], before.state.digest) != (entry.state[0], entry.state.digest):
        try:
            if before.state.fits(source) and not entry.state.fits(source):
                return
        except OSError:
            pass  # gone: the later line counts
    done[source] = entry


def _check_origin(line: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    then = {key: line.get(key) for key in _ORIGIN}
    if then == now:
        return
    old, new = _flat(then), _flat(now)
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    what = "; ".join(f"{key}: {old.get(key, 'none')} there, {new.get(key, 'none')} now" for key in changed)
    manifests = path if path.name == MANIFEST else f"{path.parent.parent / MANIFEST} and {path.parent}"
    raise UsageError(
        f"{path.parent if path.name == MANIFEST else path.parent.parent} holds predictions that were made differently "
        f"({what}). Give another --out, or remove {manifests} to predict everything anew."
    )


def _flat(origin: Mapping[str, Any]) -> dict[str, Any]:
    """What a line says of how it was made, options beside the rest."""
    options = origin.get("options")
    rest = {key: value for key, value in origin.items() if key != "options"}
    return {**rest, **(options if isinstance(options, dict) else {})}


def _is_written(wanted: Sequence[Entry], files: Sequence[Path]) -> bool:
    """Whether the folder's own manifest is exactly these lines."""
    if files[-1].name != MANIFEST or any(entry.file != len(files) - 1 for entry in wanted):
        return False
    end = 0
    for entry in wanted:
        if entry.start != end:
            return False
        end += entry.length
    return end == files[-1].stat().st_size


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK_BYTES), b""))
