from pathlib import Path

import pytest

from vpd.errors import UsageError
from vpd.files.walk import first_file, is_foreign, subfolders, walk_files


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def walked(folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in walk_files(folder)]


def test_hidden_and_foreign_entries_are_passed_over(tmp_path):
    foreign = (".ipynb_checkpoints/a.png", "__MACOSX/b.png", "seq/@eaDir/c.png", "seq/Thumbs.db", "seq/._d.png")
    make(tmp_path, "b.png", "a.png", "seq/1.png", *foreign)
    assert walked(tmp_path) == ["a.png", "b.png", "seq/1.png"]
    assert [path.name for path in subfolders(tmp_path)] == ["seq"]
    assert is_foreign(".x") and is_foreign("Desktop.ini") and not is_foreign("x.png")


def test_linked_folders_are_followed_once(tmp_path):
    data, elsewhere = tmp_path / "data/train", tmp_path / "elsewhere"
    make(data, "1.png", "real/2.png")
    make(elsewhere, "3.png", "deep/4.png")
    (data / "a").symlink_to(elsewhere)
    (data / "b").symlink_to(elsewhere / "deep")  # reached through `a` already, or before it
    (data / "real/up").symlink_to(data)
    (elsewhere / "back").symlink_to(tmp_path)
    (data / "gone.png").symlink_to(tmp_path / "nothing.png")
    found = walked(data)
    assert found[:3] == ["1.png", "gone.png", "real/2.png"]
    assert sorted(Path(name).name for name in found) == ["1.png", "2.png", "3.png", "4.png", "gone.png"]


def test_what_a_folder_holds(tmp_path):
    make(tmp_path, "x/a.JPG", "x/b.txt", "x/.c.png")
    assert first_file(tmp_path / "x", (".jpg",)) == tmp_path / "x/a.JPG"
    assert first_file(tmp_path / "x", (".png",)) is None and first_file(tmp_path / "gone", (".png",)) is None
    assert subfolders(tmp_path / "gone") == [] and subfolders(tmp_path / "x/b.txt") == []
    with pytest.raises(UsageError, match=r"gone: cannot be read \(No such file"):
        list(walk_files(tmp_path / "gone"))


def test_a_kind_is_found_behind_thousands_of_others(tmp_path):
    make(tmp_path, "a.json", *(f"{number}.jpg" for number in range(2500)), "z.json")
    assert first_file(tmp_path, (".json",)) is not None
