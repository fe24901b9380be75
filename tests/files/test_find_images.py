from pathlib import Path

import pytest

from vpd.errors import UsageError
from vpd.files import find_images as image_search
from vpd.files.find_images import find_images, left_out_words, search_images


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
        monkeypatch.setattr(image_search._Walk, "images", lambda walk, folder, paths=paths: iter(paths))
        monkeypatch.setattr(image_search, "_images_matching", lambda pattern, walk, paths=paths: iter(paths))
        assert found(tmp_path, "") == found(tmp_path, "*") == names


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_search, "IMAGE_SUFFIXES", (".png", ".jfif"))
    touch(
        tmp_path, "in/.tmp-1.png", "in/.hidden/a.png", "in/b.PNG", "in/c.jfif", "in/d.heic", "in/x/e.HEIC", "in/f.gif"
    )
    touch(
        tmp_path, "in/__MACOSX/b.png", "in/x/@eaDir/b.png", "in/.ipynb_checkpoints/b.png", "in/README", "in/shut/g.png"
    )
    (tmp_path / "in" / "broken.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "in" / "folder.png").mkdir()
    scan = image_search.os.scandir

    def locked(folder: str):
        if folder.endswith("shut"):
            raise PermissionError
        return scan(folder)

    monkeypatch.setattr(image_search.os, "scandir", locked)
    images, left_out = find_images([str(tmp_path / "in")])
    assert [Path(image).name for image in images] == ["b.PNG", "c.jfif"]
    one = (".gif", "folder __MACOSX", "folder @eaDir", "without suffix", "broken link", "unreadable folder")
    assert left_out == {"hidden": 3, ".heic": 2, **dict.fromkeys(one, 1)}
    words = left_out_words(left_out)
    assert words.startswith("3 hidden, 2 .heic (to read it: pip install pillow-heif), 1 ")
    assert "1 .gif (a clip: name it to predict it)" in words and "1 unreadable folder" in words


def test_many_kinds_are_not_all_named(tmp_path: Path):
    touch(tmp_path, "a.png", *(f"{number}.x{number}" for number in range(15)))
    words = left_out_words(find_images([str(tmp_path)]).left_out)
    assert words.count("1 .x") == 12 and words.endswith(", 3 of 3 other kinds")


def test_linked_folders_are_searched_once(tmp_path: Path):
    touch(tmp_path, "in/b.png", "in/real/a.png", "other/c.png", "other/deep/e.png", "out/old.png")
    for name, target in {
        "in/d.png": "other/c.png",
        "in/a-link": "in/real",  # searched anyway
        "in/link": "other",
        "in/loop": "in",
        "other/back": "in",
        "other/again": "other/deep",
        "in/real/out": "out",
    }.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    images = ["in/b.png", "in/d.png", "in/link/c.png", "in/link/deep/e.png", "in/real/a.png"]
    assert found(tmp_path, "in") == [*images, "in/real/out/old.png"]
    without = find_images([str(tmp_path / "in")], except_folder=tmp_path / "out")
    assert [path.removeprefix(f"{tmp_path}/") for path in without.images] == images
    assert without.left_out == {"link to a folder searched already": 4}
    assert found(tmp_path, "other/back") == [
        "other/back/b.png",
        "other/back/d.png",
        *(f"other/back/{name}" for name in ("link/c.png", "link/deep/e.png", "real/a.png", "real/out/old.png")),
    ]
    assert found(tmp_path, "in/**/*.png") == [*images, "in/real/out/old.png"]
    assert found(tmp_path, "in/**/real/*.png") == ["in/real/a.png"]
    assert found(tmp_path, "in/**/re*") == ["in/real/a.png", "in/real/out/old.png"]


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
    with pytest.raises(
        UsageError, match=r"no images in: .*hollow, .*\*\.png, .*b\*\. Left out: 1 \.txt\. Known: \.png"
    ):
        search_images([str(tmp_path / name) for name in ("hollow", "a.jpg", "*.png", "b*")])


def test_an_empty_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    touch(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="empty name"):
        find_images([""])
