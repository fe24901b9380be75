from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpd.data.sample import Sample
from vpd.datasets.pair_lists import find_list, read_listed, read_pair_list
from vpd.datasets.sample_reader import PartReader
from vpd.errors import UsageError

NAMES = st.text("abc_01", min_size=1, max_size=8)


@given(st.lists(st.tuples(NAMES, NAMES, st.booleans(), st.booleans())), st.booleans())
def test_both_list_styles_mean_the_same(tmp_path_factory, rows, ends_with_newline):
    lines = [f"{'/' * slash}{a}.jpg {'/' * slash}{b}.png{' 518.8579' * focal}" for a, b, slash, focal in rows]
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_text("\n".join(lines) + "\n" * ends_with_newline)
    assert [pair[:2] for pair in read_pair_list(path)[0]] == [(f"{a}.jpg", f"{b}.png") for a, b, _, _ in rows]


def test_lines_without_depth_are_counted_and_lines_keep_their_number(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfa.png None 721.5377\r\n\r\nb.png c.png\r\n")
    assert read_pair_list(path) == ([("b.png", "c.png", f"{path}, line 3")], 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg", "line 1: 1 columns; must be: image depth [focal]"),
        (b"a b\na b c d", "line 2: 4 columns"),
        (b"../a.jpg b.png", "line 1: '../a.jpg' leads out of the data folder"),
        (b"a.jpg /x/../../b.png", "line 1: 'x/../../b.png' leads out of the data folder"),
        (b"/ b.png", "line 1: '' is no path"),
        (b"\xff\xfea", "not a text file"),
    ],
)
def test_malformed_lists(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_pair_list(tmp_path / "list.txt")
    assert message in str(error.value) and str(tmp_path / "list.txt") in str(error.value)


def test_a_list_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="the list cannot be read"):
        read_pair_list(tmp_path)
    with pytest.raises(UsageError, match=r"gone\.txt: no such list file"):
        find_list(tmp_path, tmp_path / "gone.txt", [])


def test_the_first_usual_list_is_taken(tmp_path):
    assert find_list(tmp_path, None, ["a.txt", "b.txt"]) is None
    (tmp_path / "b.txt").touch()
    assert find_list(tmp_path, None, ["a.txt", "b.txt"]) == tmp_path / "b.txt"
    assert find_list(tmp_path, str(tmp_path / "b.txt"), ["a.txt"]) == tmp_path / "b.txt"


def read_both(folder: Path, *, origin: str) -> Sample:
    return read_listed(PartReader(), "a", image=folder / "a.png", depth=folder / "b.png", origin=origin)


def test_a_missing_file_is_named_with_its_line(tmp_path, picture):
    picture(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"b\.png: no such file; train_list\.txt, line 7 names it"):
        read_listed(
            PartReader(), "a", image=tmp_path / "a.png", depth=tmp_path / "b.png", origin="train_list.txt, line 7"
        )
    with pytest.raises(UsageError, match=r"b\.png: no such file$"):
        read_both(tmp_path, origin="")


def test_pairs_that_do_not_fit(tmp_path, picture, grey):
    picture(tmp_path / "a.png", 6, 8)
    grey(tmp_path / "b.png", np.zeros((5, 8), np.uint16))
    with pytest.raises(UsageError, match=r"b\.png: depth size 8x5 differs from the image's 8x6"):
        read_both(tmp_path, origin="")
    grey(tmp_path / "b.png", np.zeros((6, 8), np.uint8))
    with pytest.raises(UsageError, match=r"b\.png: depth needs one channel of 16 bits"):
        read_both(tmp_path, origin="")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("kitti_eigen_benchmark_test_list.txt", 652),
        ("kitti_eigen_benchmark_train_list.head.txt", 200),
        ("nyu_test_list.txt", 654),
        ("nyu_train_list.head.txt", 200),
    ],
)
def test_published_lists(test_data, name, number):
    pairs, without_depth = read_pair_list(test_data / "formats" / name)
    assert (len(pairs), len(set(pairs)), without_depth) == (number, number, 0)
    assert not any(pair.image.startswith("/") or pair.depth.startswith("/") for pair in pairs)


def test_slashes_of_windows(tmp_path):
    (tmp_path / "list.txt").write_text("\\kitchen\\a.jpg \\kitchen\\b.png\n")
    assert read_pair_list(tmp_path / "list.txt")[0][0][:2] == ("kitchen/a.jpg", "kitchen/b.png")
