"""Pictures of a split and the files that belong to them: by name, by a list, or by a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from vpd.datasets.annotations import inner_path
from vpd.datasets.depth_arrays import ARRAY_SUFFIXES
from vpd.datasets.name_ends import NO_AFFIXES, Affixes, common_affixes, shared_name, strip_affixes
from vpd.datasets.name_lists import Entry, known_name, known_split, list_splits, read_names
from vpd.datasets.pairs import Pair, Unpaired, refuse_unpaired
from vpd.datasets.tables import Columns, Kind, find_tables, read_table
from vpd.datasets.trees import DEPTH_FOLDERS, IMAGE_FOLDERS, LABEL_FOLDERS, Tree, find_tree
from vpd.errors import UsageError
from vpd.files.images import IMAGE_SUFFIXES
from vpd.files.walk import walk_files

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
DEPTH_SUFFIXES = (".png", ".tif", ".tiff", *ARRAY_SUFFIXES)
_FOLDERS = {"labels": LABEL_FOLDERS, "depth": DEPTH_FOLDERS}
_SUFFIXES = {"labels": LABEL_SUFFIXES, "depth": DEPTH_SUFFIXES}
_USUAL_FORMS = (
    "images/SPLIT and labels/SPLIT",
    "images/SPLIT and depth/SPLIT",
    "images and labels",
    "images and depth",
)
_LOOKED_AT = 1000
_JPEG = "JPEG, which does not keep the values of pixels; save PNG where the masks were made"
_OTHERS = {
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": "WebP, which does not keep the values of pixels; save PNG where the masks were made",
    ".txt": "text files (YOLO's boxes or outlines?); export masks or COCO's format instead",
    ".xml": "XML files (boxes?); export masks or COCO's format instead",
    ".json": "JSON files of a tool; put labelme's beside their pictures, or export masks or COCO's format",
}
"""What is said of files of other kinds, by their suffix."""


@dataclass(frozen=True)
class Source:
    """A folder with pictures and one kind of partners, and how it is to be read."""

    root: Path
    """The folder."""
    kind: Kind
    """What the partners are."""
    image_folder: str | None = None
    """The one folder of pictures that counts."""
    partner_folder: str | None = None
    """The one folder of partners that counts."""
    partner_suffix: str | None = None
    """What partners' names have more than the pictures'; none = found out."""
    columns: Columns = field(default_factory=Columns)
    """Columns of tables, where they were chosen."""
    allow_absolute: bool = False
    """Let tables name files elsewhere."""

    def tree(self, *, is_strict: bool = True) -> Tree | None:
        """Folders that fit; strictly, it is an error where several could be meant."""
        return find_tree(
            self.root,
            _FOLDERS[self.kind],
            _SUFFIXES[self.kind],
            image_folder=self.image_folder,
            partner_folder=self.partner_folder,
            is_strict=is_strict,
        )

    def splits(self) -> list[str]:
        """Splits that it offers: tables, folders, lists; `train` where nothing tells them apart."""
        tables, tree = find_tables(self.root, self.kind, self.columns), self.tree(is_strict=False)
        folders = tree.folders if tree else {}
        lists = list_splits(self.root, tree.whole) if tree and tree.whole else []
        return sorted({*tables, *folders, *lists} or ({"train"} if tree else set()))

    def is_here(self) -> bool:
        """Whether there is anything of the kind."""
        return bool(find_tables(self.root, self.kind, self.columns)) or self.tree(is_strict=False) is not None


def pairs_of(source: Source, split: str, *, unpaired: Unpaired) -> tuple[list[Pair], list[str], list[str]]:
    """Pairs of a split, in the order of its list or else sorted; a line for each that lacks a file; and notes.

    A sub-folder is the group of its files: frames of one recording resemble each other.

    Args:
        source: Where they lie.
        split: Name of folder, list or table.
        unpaired: What to do about files without partner: refuse the folder, or leave them out.

    Raises:
        UsageError: If there is no such split or no pair, two files have one name, or files lack their partner.
    """
    root, kind = source.root, source.kind
    tree, tables = source.tree(), find_tables(root, kind, source.columns)
    if (kind == "depth" or tree is None) and (root / f"{split}.csv").is_file():
        tables.setdefault(split, root / f"{split}.csv")  # what is wrong with its first line is said when it is read
    if tree is None and not tables:
        raise UsageError(
            f"{root}: no folder images/ with a folder {kind}/; looked for {', '.join(_FOLDERS[kind][:6])}, ... beside "
            f"{', '.join(IMAGE_FOLDERS[:4])}, ..."
        )
    split = split if split in tables else known_split(root, source.splits(), split)
    if split in tables:
        table = tables[split]
        pairs, notes = read_table(table, kind, columns=source.columns, allow_absolute=source.allow_absolute)
        folders = tree.folders.get(split, tree.whole) if tree else None
        return [_in_folders(pair, root, folders) for pair in pairs] if folders else pairs, [], notes
    return _by_names(source, split, tree, unpaired) if tree else ([], [], [])


def _by_names(source: Source, split: str, tree: Tree, unpaired: Unpaired) -> tuple[list[Pair], list[str], list[str]]:
    root, folders = source.root, tree.of(split)
    if not folders[1].is_dir():
        first, second = (folder.relative_to(root).as_posix() for folder in folders)
        raise UsageError(f"{root}: the {split} split has pictures in {first}/, but there is no folder {second}/")
    ends = (IMAGE_SUFFIXES, _SUFFIXES[source.kind])
    files = [named_below(folder, suffixes) for folder, suffixes in zip(folders, ends, strict=True)]
    if tree.ending:  # both lie in one folder
        files = [
            {name: path for name, path in named.items() if name.endswith(tree.ending) == is_partner}
            for named, is_partner in zip(files, (False, True), strict=True)
        ]
    affixes = _affixes(source, *files)
    images, partners = (strip_affixes(named, affix) for named, affix in zip(files, affixes, strict=True))
    notes = [] if tree.form in _USUAL_FORMS else [f"found as {tree.form}"]
    if affixes != NO_AFFIXES:
        others = len(files[1]) - len(partners)
        notes.append(f"names: {affixes}" + (f"; {others} files of other names passed over" if others else ""))
    listed = root / f"{split}.txt"
    entries = read_names(listed) if listed.is_file() and tree.whole else []
    pairs = [_listed_pair(source, entry, folders, listed) for entry in entries if entry.partner]
    if entries:
        known = (known_name(entry, folders[0], files[0]) for entry in entries if not entry.partner)
        names = list(dict.fromkeys(shared_name(name, affixes.image) or name for name in known))
    else:  # a folder of partners that all splits share has those of the others, too
        is_shared = tree.whole and folders[1] == tree.whole[1] and folders[0] != tree.whole[0]
        names = sorted(images if is_shared else {*images, *partners})
    pairs += [
        Pair(name, images[name], partners[name], name.rpartition("/")[0] or None)
        for name in names
        if name in images and name in partners
    ]
    missing: list[str] = []
    kinds = [*zip(folders, (images, partners), affixes, ends, strict=True)]
    for folder, present, affix, suffixes in reversed(kinds):  # what pictures lack is told first
        lacking = [name for name in names if name not in present]
        instead = _others_in(folder, suffixes) if lacking else {}
        for name in lacking:
            place = _place(folder, root, name, affix)
            told = f"{name}: no {place}{suffixes[0]} (or {', '.join(suffixes[1:])})"
            other = instead.get(place.removeprefix(f"{folder.relative_to(root).as_posix()}/"))
            missing.append(f"{told}, but {other}" if other else told)
    remedy = ""
    if len(missing) > 2 * len(pairs) or not pairs:  # else single files are missing, which are named
        remedy = _what_lies_in(folders[1], source) if images else _what_lies_in(folders[0], source, is_images=True)
    return pairs, missing, notes + refuse_unpaired(root, split, missing, pairs, unpaired, remedy)


def _in_folders(pair: Pair, root: Path, folders: tuple[Path, Path]) -> Pair:
    """A pair of a table that names files without their folders; the same where it names them with these."""
    paths = []
    for path, folder in zip((pair.image, pair.partner), folders, strict=True):
        below = folder / path.relative_to(root) if path.is_relative_to(root) else path
        paths.append(below if not path.is_file() and below.is_file() else path)
    return pair._replace(image=paths[0], partner=paths[1])


def _affixes(source: Source, images: Mapping[str, Path], partners: Mapping[str, Path]) -> Affixes:
    if source.partner_suffix is not None:
        return Affixes(("", ""), ("", source.partner_suffix))
    found = common_affixes([*images], [*partners]) if images.keys().isdisjoint(partners) else None
    return found or NO_AFFIXES


def _listed_pair(source: Source, entry: Entry, folders: tuple[Path, Path], listed: Path) -> Pair:
    """The pair of a line with two paths, each below the folder of the list or below that of its kind."""
    where, found = f"{listed}, line {entry.number}", []
    for path, folder in zip((entry.picture, str(entry.partner)), folders, strict=True):
        inner = inner_path(path, where, allow_absolute=source.allow_absolute)
        places = (source.root / inner, folder / inner)
        found.append(next((place for place in places if place.is_file()), places[0]))
    inside = found[0].relative_to(folders[0]).parent.as_posix() if found[0].is_relative_to(folders[0]) else "."
    return Pair(entry.path, found[0], found[1], None if inside == "." else inside, None, where)


def _place(folder: Path, root: Path, name: str, affix: tuple[str, str]) -> str:
    above, slash, base = name.rpartition("/")
    return f"{folder.relative_to(root).as_posix()}/{above}{slash}{affix[0]}{base}{affix[1]}"


def named_below(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Name without suffix (with sub-folders) -> file, of the files below a folder with one of some suffixes.

    Raises:
        UsageError: If two have one name, or a folder cannot be read.
    """
    files: dict[str, Path] = {}
    start = len(str(folder)) + 1
    for path in walk_files(folder):
        name, suffix = os.path.splitext(path[start:])  # noqa: PTH122, a million Path objects take their time
        if suffix.lower() not in suffixes:
            continue
        name = name.replace(os.sep, "/")
        if name in files:
            raise UsageError(f"{files[name]} and {path} have the same name; which one is meant?")
        files[name] = Path(path)
    return files


def _others_in(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Name without suffix -> name, of the files below a folder that end in something else."""
    paths = (Path(path).relative_to(folder) for path in walk_files(folder))
    return {path.with_suffix("").as_posix(): path.name for path in paths if path.suffix.lower() not in suffixes}


def _what_lies_in(folder: Path, source: Source, *, is_images: bool = False) -> str:
    """What a folder holds where pictures or partners were looked for, and what to do about it; a sentence."""
    paths = [Path(path) for path in islice(walk_files(folder), _LOOKED_AT)]
    if not paths:
        return f"{folder} is empty."
    ((suffix, count),) = Counter(path.suffix.lower() for path in paths).most_common(1)
    first = [path.name for path in paths if path.suffix.lower() == suffix][:3]
    told = f"{folder} holds {', '.join(first)}{', ...' if count > len(first) else ''}"
    if is_images:
        return f"{told}: no pictures of a kind that is known ({', '.join(IMAGE_SUFFIXES)})."
    if suffix in _SUFFIXES[source.kind]:
        option = "label_suffix" if source.kind == "labels" else "depth_suffix"
        return f"{told}. Where only an ending differs from the pictures' names, set {option} to it."
    return f"{told}: {_OTHERS.get(suffix, f'no {source.kind} that can be read')}."
