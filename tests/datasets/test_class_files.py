"""Class lists as people and tools write them."""

import numpy as np
import pytest

from vpd.datasets.class_files import read_class_list
from vpd.datasets.classes import ClassList
from vpd.errors import UsageError

ROAD, SKY, CAR = "road", "sky", "car"


def read(root, name, content, **options):
    (root / name).write_text(content, encoding="utf-8")
    return read_class_list(root, **options)


def meaning(listed, *values):
    return listed.check(np.array([values]), "x")[0].tolist()


def refusal(root, name="classes.json", content="[]", **options):
    with pytest.raises(UsageError) as error:
        read(root, name, content, **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "road\nsky\ncar"),
        ("classes.txt", "\ufeff# our classes\r\n0 road\r\n1 sky\r\n\r\n2 car\r\n"),
        ("classes.txt", "0: road\n1: sky\n2: car"),
        ("classes.txt", "0,road\n1,sky\n2,car"),
        ("classes.txt", "road: 0\nsky: 1\ncar: 2"),
        ("classes.txt", "2\tcar\n0\troad\n1\tsky"),
        ("classes.txt", "id\tname\n0\troad\n1\tsky\n2\tcar"),
        ("classes.txt", "Name,Class_ID\nroad,0\nsky,1\ncar,2"),
        ("classes.txt", "0. road\n1. sky\n2. car"),
        ("classes.txt", "0 - road\n1 - sky\n2 - car"),
        ("classes.txt", "'0': 'road',\n'1': 'sky',\n'2': 'car'"),
        ("classes.txt", "__IGNORE__\nroad\nsky\ncar"),
        ("classes.txt", "-1 __ignore__\n0 road\n1 sky\n2 car"),
        ("classes.txt", "__ignore__\nroad\nsky\ncar"),
        ("classes.json", '["__ignore__", "road", "sky", "car"]'),
        ("classes.json", '{"0": "road", "1": "sky", "2": "car"}'),
        ("classes.json", '{"road": 0, "car": 2, "sky": 1}'),
        ("classes.json", '{"classes": {"0": "road", "2": "car", "1": "sky"}}'),
        ("id2label.json", '{"0": "road", "2": "car", "1": "sky"}'),
        ("id2label.json", '{"id2label": {"0": "road", "2": "car", "1": "sky"}, "label2id": {}}'),
        ("data.yaml", "train: ../train/images\nnc: 3\nnames: ['road', 'sky', 'car']\n"),
        ("data.yaml", "names:\n  0: road\n  1: sky\n  2: car\n"),
        ("labels.txt", "road\nsky\ncar"),
    ],
)
def test_the_same_list_in_all_forms(name, content, tmp_path):
    listed = read(tmp_path, name, content)
    assert listed.names == (ROAD, SKY, CAR)
    assert meaning(listed, 0, 1, 2, 255) == [0, 1, 2, 255]
    with pytest.raises(UsageError, match=r"x: label 3 at row 0, column 0 is outside the class list \(0\.\.2, ignored"):
        meaning(listed, 3)


@pytest.mark.parametrize("mark", ["__ignore__\n_background_\n", "_background_\n"])
def test_lists_of_labelme(mark, tmp_path):
    listed = read(tmp_path, "classes.txt", f"{mark}mug\nplate\n")
    assert listed.names == ("background", "mug", "plate") and meaning(listed, 0, 2) == [0, 2]
    assert ("__ignore__ is no class, so the next line is class 0" in " ".join(listed.notes)) == ("ignore" in mark)


def test_marks_count_in_lists_only():
    """Categories and features state their numbers, which no mark shifts."""
    assert ClassList(["__ignore__", "_background_", "mug"], where="x").names == ("__ignore__", "_background_", "mug")


def test_an_ignored_class_in_the_middle(tmp_path):
    listed = read(tmp_path, "classes.txt", "road\n__ignore__\nsky\n")
    assert listed.names == (ROAD, SKY) and meaning(listed, 0, 1, 2) == [0, 255, 1]
    assert "label 1 does not count" in listed.notes[0]
    assert meaning(read_class_list(tmp_path, ["a", "b"]), 0, 1, 2) == [0, 255, 1]


def test_numbers_with_gaps_are_the_map_that_they_state(tmp_path):
    listed = read(tmp_path, "classes.txt", "7 road\n26 car\n11 sky\n")
    assert listed.names == (ROAD, SKY, CAR) and meaning(listed, 7, 11, 26, 255) == [0, 1, 2, 255]
    assert "label values as the list states them: 7 = road, 11 = sky, 26 = car" in listed.notes[0]
    with pytest.raises(UsageError, match=r"label 0 .* \(7, 11, 26, ignored: 255\)"):
        meaning(listed, 0)
    assert meaning(read_class_list(tmp_path, ["a", "b", "c"]), 7, 11, 26) == [0, 1, 2]


def test_words_that_yaml_knows_are_names(tmp_path):
    assert read(tmp_path, "data.yaml", "names: [no, yes, 7]").names == ("no", "yes", "7")


@pytest.mark.parametrize("content", ["lane 0\nlane 1\nlane 2", "2 wheeler\n4 wheeler\nman", "B2B area\nzone 51"])
def test_numbers_in_names_are_names(content, tmp_path):
    assert read(tmp_path, "classes.txt", content).names == tuple(content.splitlines())


def test_a_class_may_be_called_as_a_heading(tmp_path):
    assert read(tmp_path, "classes.txt", "number\ncar 1\ncar 2").names == ("number", "car 1", "car 2")


def test_doubtful_numbers_are_told(tmp_path):
    assert "numbers are part of the names, as not all" in read(tmp_path, "classes.txt", "0 road\n1 sky\ncar").notes[0]


def test_label_map_and_several_ignored_values(tmp_path):
    content = '{"classes": ["road", "sky"], "label_map": {"7": "road", "23": 1, "4": null}, "ignore_index": [0, 255]}'
    listed = read(tmp_path, "classes.json", content)
    assert meaning(listed, 7, 23, 4, 0, 255) == [0, 1, 255, 255, 255] and listed.ignored == (0, 255)
    assert read(tmp_path, "classes.json", '{"label_map": {"7": "sky", "3": "road", "9": "sky"}}').names == (ROAD, SKY)
    assert meaning(read_class_list(tmp_path), 3, 7, 9) == [0, 1, 1]
    assert meaning(read_class_list(tmp_path, ["a", "b"]), 3, 7, 9) == [0, 1, 1]
    (tmp_path / "classes.json").unlink()
    listed = read_class_list(tmp_path, label_map={0: "background", 255: "object"})
    assert listed.names == ("background", "object") and meaning(listed, 0, 255) == [0, 1]
    listed = read_class_list(tmp_path, ["a", "b"], [9, 8], label_map={1: "a", "2": "b"})
    assert meaning(listed, 1, 2, 9, 8) == [0, 1, 255, 255]


def test_reduce_zero_label(tmp_path):
    listed = read(tmp_path, "classes.json", '{"classes": ["road", "sky"], "reduce_zero_label": true}')
    assert meaning(listed, 0, 1, 2, 255) == [255, 0, 1, 255]
    assert meaning(read_class_list(tmp_path, reduce_zero_label=False), 0, 1) == [0, 1]


def test_the_first_of_several_files_counts(tmp_path):
    (tmp_path / "classes.txt").write_text("road\nsky")
    listed = read(tmp_path, "data.yaml", "names: [a, b, c]")
    assert listed.names == (ROAD, SKY) and listed.notes == ("classes.txt counts, not data.yaml, which differs",)
    assert read(tmp_path, "data.yaml", "names: [road, sky]").notes == ()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classes.json", '{"classes": ["a"], "label_map": {"300": "a"}}', "label_map has the value '300'"),
        (
            "classes.json",
            '{"classes": ["a"], "label_map": {"3": "b"}}',
            "label_map gives 3 the class 'b', which is not",
        ),
        ("classes.json", '{"classes": ["a"], "label_map": []}', "label_map must map label values to classes"),
        ("classes.json", '{"classes": ["a"], "label_map": {"1": "a"}, "ignore_index": 1}', "both have 1"),
        ("classes.json", '{"label_map": {"1": "a"}, "reduce_zero_label": true}', "leave the other out"),
        ("classes.json", '{"classes": ["a"], "reduce_zero_label": 1}', "reduce_zero_label is 1"),
        ("classes.json", '{"classes": ["a"], "ignore_index": [1, 999]}', r"ignore_index is [1, 999]"),
        ("classes.json", '{"classes": ["a"], "colours": 7}', "colours must be a list"),
        ("classes.json", '{"classes": ["a"], "colours": [[0, 0, 0], [1, 1, 1]]}', "1 classes and 2 colours"),
        ("classes.json", '{"classes": ["a"], "colours": [[0, 0]]}', "[0, 0] is no colour"),
        ("classes.json", '{"classes": ["a", "b"], "colours": [[0, 0, 0], [0, 0, 0]]}', "a colour stands twice"),
        ("data.yaml", "path: x", "needs names: [names]"),
        ("data.yaml", "names: {a", "data.yaml: not YAML"),
        ("data.yaml", "a: &a [x, x]\nnames: [*a, *a]", "has YAML references"),
        ("data.yaml", "names: [a]\n" + "#" * 2**20, "a class list has at most"),
        ("classes.txt", "300 road", "label_map has the value 300"),
    ],
)
def test_wrong_lists(name, content, message, tmp_path):
    assert message in refusal(tmp_path, name, content)


def test_what_stands_beside_numbered_names_counts(tmp_path):
    numbered = '{"names": {"0": "road", "1": "sky"}, "ignore_index": [7, 9], "reduce_zero_label": true}'
    listed = read(tmp_path, "classes.json", numbered)
    assert listed.names == (ROAD, SKY) and meaning(listed, 0, 1, 2, 7, 9) == [255, 0, 1, 255, 255]
    told = refusal(tmp_path, content='{"classes": {"0": "road", "3": "sky"}, "label_map": {"5": "road"}}')
    assert "the classes have numbers, and label_map has others" in told


def test_colours_leave_no_room_for_numbers(tmp_path):
    colours = '{"classes": ["road", "sky"], "colours": [[0, 0, 0], [9, 9, 9]]'
    for more in ('"label_map": {"7": "road"}', '"reduce_zero_label": true'):
        assert "has colours and label_map or reduce_zero_label" in refusal(tmp_path, content=f"{colours}, {more}}}")


def test_an_ignored_class_moves_with_the_others():
    listed = ClassList([ROAD, "__ignore__", SKY], where="x", reduce_zero_label=True, has_marks=True)
    assert meaning(listed, 0, 1, 2, 3, 255) == [255, 0, 255, 1, 255]
