from pathlib import Path

import pytest

from vpd.errors import UsageError
from vpd.files import find_images as image_search
from vpd.files.find_images import search_images


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path, *sources: str) -> list[str]:
    return [path.removeprefix(f"{root}/") for path in search_images([str(root / source) for source in sources])]


def test_folders_are_searched_in_natural_order(tmp_path: Path):
    touch(tmp_path, "b/10.PNG", "b/2.png", "b/02.png", "b/2b.png", "b/x2/1.jpg", "b/x10/1.jpg", "a.jpg", "b/c.txt")
    assert found(tmp_path, "") == ["a.jpg", "b/02.png", "b/2.png", "b/2b.png", "b/10.PNG", "b/x2/1.jpg", "b/x10/1.jpg"]


def test_order_does_not_depend_on_the_order_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = ["001.png", "01.png", "1.png", "A.png", "a.png"]  # of equal value, but for letters
    touch(tmp_path, *names)
    for order in (names, names[::-1], names[2:] + names[:2]):
        paths = [str(tmp_path / name) for name in order]
        monkeypatch.setattr(image_search, "_images_below", lambda folder, paths=paths: iter(paths))
        monkeypatch.setattr(image_search, "_images_matching", lambda pattern, paths=paths: iter(paths))
        assert found(tmp_path, "") == found(tmp_path, "*") == names


def test_hidden_files_and_links_to_folders_are_passed_over(tmp_path: Path):
    touch(tmp_path, "in/.tmp-1.png", "in/.hidden/a.png", "in/b.png", "other/c.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "d.png").symlink_to(tmp_path / "other" / "c.png")
    (tmp_path / "in" / "broken.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "in" / "folder.png").mkdir()
    assert found(tmp_path, "in") == ["in/b.png", "in/d.png"]
    assert found(tmp_path, "in/link") == ["in/link/c.png"]


def test_patterns_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path, "x/10.jpg", "x/9.jpg", "y/1.jpg", "y/deep/2.jpg", "we[i]rd.png", "z.txt")
    assert found(tmp_path, "x/*.jpg", "y") == ["x/9.jpg", "x/10.jpg", "y/1.jpg", "y/deep/2.jpg"]
    assert found(tmp_path, "?") == ["x/9.jpg", "x/10.jpg", "y/1.jpg", "y/deep/2.jpg"]
    assert found(tmp_path, "**/2.jpg") == ["y/deep/2.jpg"]
    assert found(tmp_path, "we[i]rd.png", "gone.png", "z.txt") == ["we[i]rd.png", "gone.png", "z.txt"]
    assert found(tmp_path, "x/9.jpg", "x", "y/../x/9.jpg") == ["x/9.jpg", "x/10.jpg"]
    monkeypatch.chdir(tmp_path / "y")
    assert search_images(["../x/9.jpg", "1.jpg"]) == [str(tmp_path / "x" / "9.jpg"), str(tmp_path / "y" / "1.jpg")]


def test_what_holds_no_image_is_named(tmp_path: Path):
    (tmp_path / "hollow").mkdir()
    touch(tmp_path, "a.jpg", "b.txt")
    with pytest.raises(UsageError, match=r"no images in: .*hollow, .*\*\.png, .*b\*\. Known: \.png"):
        search_images([str(tmp_path / name) for name in ("hollow", "a.jpg", "*.png", "b*")])
