"""Class lists as people and tools write them, found in a folder and turned into a `ClassList`.

```
classes.json      [names]; {"classes": [names], "ignore_index": 255 or [0, 255], "colours": [[r, g, b], ...],
                  "ignore_colours": [...], "label_map": {"7": "road"}, "reduce_zero_label": true}; {"0": "road"}
classes.txt       a name a line; or `0 road`, `0: road`, `0,road`, `road: 0`; or `road 128 64 128`; # for comments
labels.txt        likewise (labelme); class_names.txt (labelme2voc)
id2label.json     {"0": "road"} (Hugging Face)
data.yaml         names: [...] or {0: road} (Roboflow, Ultralytics)
labelmap.txt      road:128,64,128:: (CVAT)
class_dict.csv    name,r,g,b
_classes.csv      Pixel Value, Class (Roboflow; in the folder of a split)
label_colors.txt  128 64 128 road (CamVid)
```
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from vpd.datasets.annotations import decode_text, read_json
from vpd.datasets.class_lines import Listed, listed_by_number, parse_lines
from vpd.datasets.classes import IGNORE_NAME, ClassList
from vpd.errors import UsageError

_LARGEST = 2**20
_KEYS = {"classes", "names", "label_map", "ignore_index", "colours", "colors", "reduce_zero_label"}
"""Of `classes.json` with more than names."""


def has_class_list(root: Path) -> bool:
    """Whether a folder has a class list."""
    return bool(_present(root))


def read_class_list(
    root: Path,
    names: Sequence[str] | None = None,
    ignored: int | Sequence[int] | None = None,
    *,
    label_map: Mapping[Any, Any] | None = None,
    reduce_zero_label: bool | None = None,
) -> ClassList:
    """The class list of a folder; options go before what it says.

    Args:
        root: Folder of the data set.
        names: Other names of the same classes; needed where the folder has no list.
        ignored: Label value, or values, that do not count; none = what the list says, else 255.
        label_map: Class of each value, by name or number; none = what the list says.
        reduce_zero_label: Value 0 does not count, and k means class k - 1; none = what the list says.

    Raises:
        UsageError: If there is neither list nor names, they differ in number, or either is wrong.
    """
    listed = find_class_list(root)
    if listed is None and names is None and not label_map:
        looked = " and ".join([*_READERS][:2])
        raise UsageError(
            f"{root}: no class list; looked for {looked}. Add one, or give the names: classes=[...]. Also read: "
            f"{', '.join([*_READERS][2:])}"
        )
    if listed is None:
        listed = Listed("classes" if names is not None else "label_map", names or _names_of(label_map))
    else:
        known = listed.table().names
        if names is not None:
            given = ClassList(names, where="classes", has_marks=True).names
            if len(given) != len(known):
                raise UsageError(
                    f"classes names {len(given)} classes, but the list in {root} has {len(known)}: "
                    f"{', '.join(known[:8])}{', ...' if len(known) > 8 else ''}"
                )
            listed = _renamed(listed, known, given)
    if ignored is not None:
        listed = replace(listed, ignored=ignored, where="ignore_index")
    if label_map is not None:
        listed = replace(listed, label_map=label_map, colours=None, where="label_map")
    if reduce_zero_label is not None:
        listed = replace(listed, reduce_zero_label=reduce_zero_label)
    return listed.table()


def find_class_list(root: Path) -> Listed | None:
    """What the first class list in a folder says, or none; others that differ are told of.

    Raises:
        UsageError: If it cannot be read.
    """
    present = _present(root)
    if not present:
        return None
    first = _READERS[present[0].name](present[0])
    for other in present[1:]:
        try:
            differs = _READERS[other.name](other).table().names != first.table().names
        except UsageError:
            continue
        if differs:
            first = replace(first, notes=(*first.notes, f"{present[0].name} counts, not {other.name}, which differs"))
    return first


def _present(root: Path) -> list[Path]:
    """Class lists in a folder, in the order in which they count; else those beside its training pictures."""
    for folder in (root, root / "train"):
        if found := [folder / name for name in _READERS if (folder / name).is_file()]:
            return found
    return []


def _read_lines(path: Path) -> Listed:
    return parse_lines(decode_text(path.read_bytes(), path), str(path))


def _read_csv(path: Path) -> Listed:
    head, _, rest = decode_text(path.read_bytes(), path).partition("\n")
    is_heading = not re.search(r"\d", head)
    return parse_lines(rest if is_heading else f"{head}\n{rest}", str(path))


def _read_yaml(path: Path) -> Listed:
    content = path.read_bytes()
    if len(content) > _LARGEST:
        raise UsageError(f"{path}: {len(content):,} bytes; a class list has at most {_LARGEST:,}")
    text = decode_text(content, path)
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise UsageError(f"{path}: has YAML references (*name), which are not read; write the names out")
        parsed = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506, makes nothing but texts: `no` is a name here
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML") from error
    names = parsed.get("names") if isinstance(parsed, dict) else None
    if isinstance(names, dict) and (numbered := _numbered(names)):
        return listed_by_number(numbered, str(path))
    if not isinstance(names, list):
        raise UsageError(f"{path}: needs names: [names], or names: {{0: name, ...}}")
    return Listed(str(path), names)


def _read_json_list(path: Path) -> Listed:
    content = read_json(path)
    where = str(path)
    if not isinstance(content, dict):
        return Listed(where, content)
    if isinstance(content.get("id2label"), dict):
        content = content["id2label"]
    numbered = None if content.keys() & _KEYS else _numbered(content) or _numbered(_turned(content))
    if numbered:
        return listed_by_number(numbered, where)
    names, label_map, notes = content.get("classes", content.get("names")), content.get("label_map"), tuple[str, ...]()
    if names is None and isinstance(label_map, dict):
        names = _names_of(label_map)
    if isinstance(names, dict) and (numbered := _numbered(names) or _numbered(_turned(names))):
        listed = listed_by_number(numbered, where)
        if listed.label_map is not None and label_map is not None:
            raise UsageError(f"{path}: the classes have numbers, and label_map has others; leave one of them out")
        names, label_map, notes = listed.names, listed.label_map or label_map, listed.notes
    if not isinstance(names, list):
        raise UsageError(f'{path}: must be a list of class names, or {{"classes": [names]}}')
    reduces = content.get("reduce_zero_label", False)
    if not isinstance(reduces, bool):
        raise UsageError(f"{path}: reduce_zero_label is {reduces!r}; it must be true or false")
    ignored = content.get("ignore_index")
    if isinstance(ignored, bool) or not isinstance(ignored, (int, list, type(None))):
        raise UsageError(f"{path}: ignore_index is {ignored!r}; it must be 0..255, or a list of such numbers")
    colours, none = (content.get(f"{word}colours", content.get(f"{word}colors")) for word in ("", "ignore_"))
    for word, value in (("colours", colours), ("ignore_colours", none)):
        if value is not None and not isinstance(value, list):
            raise UsageError(f"{path}: {word} must be a list of [red, green, blue]")
    return Listed(where, names, ignored, label_map, reduces, colours, none or (), notes)


def _turned(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """Names by number of a mapping the other way round, `{"road": 0}`; nothing where it is none."""
    turned = {number: name for name, number in content.items() if type(number) is int}
    return turned if len(turned) == len(content) else {}


def _numbered(content: Mapping[Any, Any]) -> dict[int, str] | None:
    """Names by their number, of a mapping from numbers (which JSON writes as text) to names; none where it is none."""
    if not content or not all(isinstance(name, str) for name in content.values()):
        return None
    if not all(re.fullmatch(r"-?\d+", str(key)) for key in content):
        return None
    return {int(key): name for key, name in content.items()}


def _names_of(label_map: Any) -> Any:
    """Names of the classes that a map has, in the order of their values."""
    if not isinstance(label_map, Mapping) or not all(
        isinstance(name, (str, type(None))) for name in label_map.values()
    ):
        return None
    keys = sorted(label_map, key=lambda key: int(key) if str(key).lstrip("-").isdecimal() else 0)
    return list(dict.fromkeys(label_map[key] for key in keys if label_map[key] is not None))


def _renamed(listed: Listed, known: Sequence[str], given: Sequence[str]) -> Listed:
    """The same list with other names."""
    label_map = listed.label_map
    if isinstance(label_map, Mapping):
        new = dict(zip(known, given, strict=True))
        label_map = {value: new.get(name, name) for value, name in label_map.items()}
    rest = iter(given)
    names = [name if name.strip().lower() == IGNORE_NAME else next(rest) for name in listed.names]
    return replace(listed, names=names, label_map=label_map)


_READERS: dict[str, Callable[[Path], Listed]] = {
    "classes.json": _read_json_list,
    "classes.txt": _read_lines,
    "id2label.json": _read_json_list,
    "data.yaml": _read_yaml,
    "data.yml": _read_yaml,
    "labelmap.txt": _read_lines,
    "class_dict.csv": _read_csv,
    "_classes.csv": _read_csv,
    "label_colors.txt": _read_lines,
    "labels.txt": _read_lines,
    "class_names.txt": _read_lines,
}
"""Where a folder may have its class list, and how each is read; the first that is there counts."""
