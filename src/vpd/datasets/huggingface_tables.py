"""Tables of Hugging Face `datasets`: where they are, their splits, columns and class names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vpd.datasets.annotations import field, inner_path, read_json
from vpd.errors import UsageError

_ALIASES = {"val": "validation"}
"""Our name of a split -> the name that `datasets` gives it."""
_FORMATS = ("parquet", "arrow")
"""Kinds of files whose pictures are bytes in a table; other kinds are decoded by `datasets` itself, without our
limits."""
_DICT, _STATE = "dataset_dict.json", "state.json"
"""What `save_to_disk` writes into the folder of several splits, and of one."""


def is_table_folder(root: Path) -> bool:
    """Whether a folder was written by `save_to_disk` or holds parquet files."""
    return _is_saved(root) or any(root.glob("*.parquet")) or any(root.glob("*/*.parquet"))


def is_hub_dataset(root: str | Path) -> bool:
    """Whether something has the form of a hub id, `owner/name`, and is no folder here."""
    return bool(re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(root))) and not Path(root).exists()


def table_splits(root: str | Path) -> list[str]:
    """Names of the splits of a folder or hub id; `validation` is called `val`.

    Raises:
        UsageError: If there is no such data set, or `datasets` is not installed.
    """
    path = Path(root)
    if not _is_saved(path):
        return _our_names(_builder(root, None, None).config.data_files)
    if (path / _DICT).is_file():
        return _our_names(field(read_json(path / _DICT), "splits", list, str(path / _DICT)))
    state = read_json(path / _STATE)
    return _our_names([(state.get("_split") if isinstance(state, dict) else None) or "train"])


def open_table(root: str | Path, split: str, *, subset: str | None = None, revision: str | None = None) -> Any:
    """The table of one split, a `datasets.Dataset`.

    Args:
        root: Folder or hub id.
        split: Its name; `val` and `validation` mean the same.
        subset: Configuration of a data set that has several.
        revision: Commit or tag on the hub.

    Raises:
        UsageError: If there is no such data set or split, it is empty, or `datasets` is not installed.
    """
    path = Path(root)
    builder = None if _is_saved(path) else _builder(root, subset, revision)
    present = table_splits(root) if builder is None else _our_names(builder.config.data_files)
    (name,) = _our_names([split])
    if name not in present:
        raise UsageError(f"{root}: no split {split!r}; there are: {', '.join(present)}")
    if builder is None:
        table = _load_saved(path, name)
    else:
        theirs = name if name in builder.config.data_files else _ALIASES[name]
        try:
            builder.download_and_prepare()
            table = builder.as_dataset(split=theirs) if builder.info.splits[theirs].num_examples else ()
        except Exception as error:  # pyarrow's and the HTTP library's own errors
            raise _cannot_open(root, error) from error
    if not len(table):
        raise UsageError(f"{root}: the {split} split is empty")
    return table


def find_columns(table: Any, wanted: Mapping[str, str | None], where: str) -> dict[str, str]:
    """Column of each part of a sample that the table has.

    Args:
        table: The table.
        wanted: Part -> column; none = the column called like the part, if there is one.
        where: What messages call the table.

    Raises:
        UsageError: If a column is not there, no column holds a truth to learn, or masks have no expressions.
    """
    present = table.column_names
    columns = {part: name or part for part, name in wanted.items() if name or part in present}
    missing = [f"{part}={name}" for part, name in columns.items() if name not in present]
    if "image" not in columns:
        missing.append("image")
    if missing:
        raise UsageError(
            f"{where}: no column for {', '.join(missing)}. Columns: {', '.join(present)}. Name them by options: "
            "image=, labels=, depth=, mask=, text=, scene="
        )
    if not {"labels", "depth", "mask"} & set(columns):
        raise UsageError(
            f"{where}: no column of labels, depth or mask. Columns: {', '.join(present)}. Name one by an option: "
            "labels=, depth=, or mask= with text="
        )
    if "mask" in columns and "text" not in columns:
        raise UsageError(f"{where}: masks need expressions. Columns: {', '.join(present)}. Name theirs: text=")
    return columns


def class_names(feature: Any) -> tuple[str, ...] | None:
    """Names of the `ClassLabel` feature that a column's feature is or holds, or none."""
    if isinstance(names := getattr(feature, "names", None), list):
        return tuple(names)
    inner = getattr(feature, "feature", None)  # of a List
    candidates = list(feature.values()) if isinstance(feature, dict) else [inner] if inner is not None else []
    return next((names for one in candidates if (names := class_names(one))), None)


def with_raw_pictures(table: Any, columns: Mapping[str, str]) -> Any:
    """The same table with nothing but these columns, pictures as the bytes that stand in it."""
    from datasets import Image

    table = table.select_columns(list(dict.fromkeys(columns.values())))
    for column, feature in table.features.items():
        if isinstance(feature, Image):
            table = table.cast_column(column, Image(decode=False))
    return table


def _is_saved(root: Path) -> bool:
    return (root / _DICT).is_file() or (root / _STATE).is_file()


def _our_names(names: Iterable[Any]) -> list[str]:
    ours = {theirs: name for name, theirs in _ALIASES.items()}
    return [ours.get(name, name) for name in map(str, names)]


def _load_saved(path: Path, split: str) -> Any:
    datasets = _datasets(path)
    if (path / _DICT).is_file():
        path = path / (split if (path / split).is_dir() else _ALIASES.get(split, split))
    state = path / _STATE
    files = field(read_json(state), "_data_files", list, str(state))
    for entry in files:
        inner_path(field(entry, "filename", str, str(state)), str(state))
    try:
        return datasets.load_from_disk(str(path)) if files else ()
    except Exception as error:  # pyarrow's own errors
        raise _cannot_open(path, error) from error


def _builder(root: str | Path, subset: str | None, revision: str | None) -> Any:
    """What reads a folder of parquet files, or a data set of the hub."""
    datasets = _datasets(root)
    source = str(root) if is_hub_dataset(root) else str(Path(root).resolve())
    try:
        builder = datasets.load_dataset_builder(source, subset, revision=revision)
    except Exception as error:  # the HTTP library's own errors differ between versions of huggingface_hub
        raise _cannot_open(root, error) from error
    if builder.info.builder_name not in _FORMATS:
        raise UsageError(
            f"{root}: its files are {builder.info.builder_name}; {' and '.join(_FORMATS)} are read. Write it anew with "
            "`dataset.save_to_disk`, or use another layout of `vpd`"
        )
    return builder


def _datasets(root: str | Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            f"{root}: reading it needs the package `datasets`: pip install 'vpd-perception[datasets]'"
        ) from error
    return datasets


def _cannot_open(root: str | Path, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:300]
    return UsageError(f"{root}: cannot be opened as a Hugging Face data set ({type(error).__name__}: {reason})")
