from pathlib import Path

import pytest
from PIL import Image

from vpd.errors import UsageError
from vpd.prediction_jobs.output_names import Named, name_outputs


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(path)


def names(named: Named) -> list[str]:
    return [item.name for item in named.items]


def test_folders_keep_their_structure(tmp_path: Path):
    put(tmp_path / "in" / "a.jpg", tmp_path / "in" / "sub" / "a.png", tmp_path / "in" / "sub" / "deep" / "b.v2.jpg")
    named = name_outputs([str(tmp_path / "in")], tmp_path / "out", taken={})
    items = named.items
    assert sorted(names(named)) == ["a", "sub/a", "sub/deep/b.v2"]
    assert Path(items[0].source).is_absolute()
    deep = next(item for item in items if item.name.startswith("sub/deep"))
    assert (deep.data, deep.picture) == ("sub/deep/b.v2.png", "sub/deep/b.v2.overlay.jpg")


def test_patterns_keep_the_structure_below_their_plain_part(tmp_path: Path):
    put(tmp_path / "in" / "x" / "a.jpg", tmp_path / "in" / "y" / "a.jpg")
    items = name_outputs([str(tmp_path / "in" / "*" / "*.jpg")], tmp_path / "out", taken={})
    assert names(items) == ["x/a", "y/a"]


def test_equal_stems_do_not_meet(tmp_path: Path):
    sources = [tmp_path / "x" / "a.jpg", tmp_path / "x" / "a.png", tmp_path / "y" / "A.jpg", tmp_path / "z" / "a.jpg"]
    put(*sources)
    got = names(name_outputs([str(source) for source in sources], tmp_path / "out", taken={}))
    assert got[:3] == ["a", "a_png", "A_jpg"]
    assert got[3].startswith("a_")
    assert len({name.casefold() for name in got}) == 4


def test_names_that_were_given_stay(tmp_path: Path):
    put(tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg")
    sources = [str(tmp_path / "x" / "a.jpg"), str(tmp_path / "y" / "a.jpg")]
    assert names(name_outputs(sources, tmp_path / "out", taken={sources[1]: "a"})) == ["a_jpg", "a"]


def test_an_image_named_twice_is_one(tmp_path: Path):
    put(tmp_path / "in" / "a.jpg")
    twice = [str(tmp_path / "in"), str(tmp_path / "in" / ".." / "in" / "a.jpg")]
    assert names(name_outputs(twice, tmp_path / "out", taken={})) == ["a"]


def test_own_outputs_are_no_sources(tmp_path: Path):
    put(tmp_path / "a.jpg", tmp_path / "out" / "a.png", tmp_path / "out" / "a.overlay.jpg")
    assert names(name_outputs([str(tmp_path)], tmp_path / "out", taken={})) == ["a"]
    put(tmp_path / "a.png", tmp_path / "a.overlay.jpg")
    in_place = [str(tmp_path / name) for name in ("a.jpg", "a.png", "a.overlay.jpg")]
    assert names(name_outputs(in_place, tmp_path, taken={in_place[0]: "a"})) == ["a"]
    with pytest.raises(UsageError, match=r"outputs of .*; there is nothing to predict"):
        name_outputs(in_place[1:], tmp_path, taken={in_place[0]: "a"})


def test_the_output_folder_may_hold_the_source_folder(tmp_path: Path):
    put(tmp_path / "photos" / "a.jpg")
    assert names(name_outputs([str(tmp_path / "photos")], tmp_path, taken={})) == ["a"]


def test_a_file_named_outright_is_kept_even_if_missing(tmp_path: Path):
    assert names(name_outputs([str(tmp_path / "absent.jpg")], tmp_path / "out", taken={})) == ["absent"]


def test_a_searched_folder_cannot_take_the_output(tmp_path: Path):
    put(tmp_path / "a.jpg")
    for source in (str(tmp_path), str(tmp_path / "*.jpg")):
        with pytest.raises(UsageError, match="searched for images and cannot take the output"):
            name_outputs([source], tmp_path, taken={})


def test_a_source_is_never_overwritten(tmp_path: Path):
    put(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"would overwrite the image .*a\.png"):
        name_outputs([str(tmp_path / "a.png")], tmp_path, taken={})


def test_videos_are_refused_with_a_way_out(tmp_path: Path):
    with pytest.raises(UsageError, match=r"clip\.MP4 is a video.*model\.stream"):
        name_outputs([str(tmp_path / "clip.MP4")], tmp_path / "out", taken={})
