import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vpd.datasets.classes import ClassList
from vpd.datasets.sample_reader import GENERIC_SCENE, PartReader, scene_names, tasks_of
from vpd.errors import UsageError
from vpd.files.decoding import Encoded

LABELS = np.array([[0, 1], [1, 255]], dtype=np.uint8)


def encoded(pixels: np.ndarray, name: str = "picture", kind: str = "PNG") -> Encoded:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return Encoded(file.getvalue(), name)


def npy(values: Any, name: str = "depth") -> Encoded:
    file = io.BytesIO()
    np.save(file, values)
    return Encoded(file.getvalue(), name)


IMAGE = encoded(np.zeros((2, 2, 3), dtype=np.uint8), "the image")
READER = PartReader(ClassList(["sky", "road"], where="list"))


def test_parts_from_pictures_inside_other_files():
    depth_mm = np.array([[1500, 0], [1, 65535]], dtype=np.uint16)
    sample = READER.sample(
        "a", image=IMAGE, labels=encoded(LABELS), depth=encoded(depth_mm), mask=encoded(LABELS), texts=("x",), group="g"
    )
    assert sample.labels.tolist() == LABELS.tolist()
    assert sample.depth_m.ravel() == pytest.approx([1.5, 0, 0.001, 65.535])
    assert sample.mask.tolist() == [[False, True], [True, True]]
    assert (sample.name, sample.texts, sample.group) == ("a", ("x",), "g")


@pytest.mark.parametrize("order", ["C", "F"])
def test_parts_from_numbers(order):
    metres = np.array([[1.5, np.nan], [-1, np.inf]], dtype=">f4", order=order)
    for depth in (metres, npy(metres)):
        sample = READER.sample("a", image=IMAGE, labels=LABELS.astype(np.int64), depth=depth)
        assert sample.labels.tolist() == LABELS.tolist()
        assert sample.depth_m.tolist() == [[1.5, 0], [0, 0]]
    millimetres = READER.sample("a", image=IMAGE, depth=npy(np.array([[1500, 0], [1, 2]], dtype=np.int32)))
    assert millimetres.depth_m.ravel() == pytest.approx([1.5, 0, 0.001, 0.002])


def test_whole_numbers_are_millimetres_and_others_metres(tmp_path):
    Image.fromarray(np.full((2, 2), 2.5, dtype=np.float32)).save(tmp_path / "metres.tif")
    assert (READER.sample("a", image=IMAGE, depth=tmp_path / "metres.tif").depth_m == 2.5).all()
    halves = PartReader(depth_scale=2).sample("a", image=IMAGE, depth=tmp_path / "metres.tif")
    assert (halves.depth_m == 1.25).all()


def test_far_depth_does_not_count():
    reader = PartReader(depth_scale=256, max_depth_m=80)
    sample = reader.sample("a", image=IMAGE, depth=encoded(np.array([[256, 80 * 256], [80 * 256 + 1, 0]], np.uint16)))
    assert sample.depth_m.tolist() == [[1, 80], [0, 0]]
    assert reader.counted.max_depth_m == 80 and PartReader().counted.max_depth_m is None


def test_masks_as_coco_has_them():
    runs = {"size": [2, 2], "counts": [1, 2, 1]}
    assert READER.sample("a", image=IMAGE, mask=runs).mask.tolist() == [[False, True], [True, False]]
    both = [[0, 0, 2, 0, 2, 2, 0, 2], [0, 0, 1, 0, 1, 2, 0, 2]]
    assert READER.sample("a", image=IMAGE, mask=both).mask.all()
    assert not PartReader(overlap="background").sample("a", image=IMAGE, mask=both).mask[:, 0].any()


def broken_header(right: bytes, wrong: bytes) -> Encoded:
    whole = npy(np.zeros((2, 2), dtype=np.float32)).content
    return Encoded(whole.replace(right, wrong), "depth")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"labels": encoded(np.zeros((2, 3), np.uint8), "b")}, r"b: label size 3x2 differs from the image's 2x2 \(the"),
        ({"labels": np.zeros((2, 2, 2), np.uint8)}, "labels of the image: label size 2x2x2 differs"),
        (
            {"labels": np.full((2, 2), 2)},
            r"labels of the image: label 2 at row 0, column 0 is outside .*\(0\.\.1, ignor",
        ),
        ({"labels": np.full((2, 2), -1)}, "label -1 at row 0"),
        ({"labels": np.full((2, 2), 256)}, "label 256 at row 0"),
        ({"labels": np.zeros((2, 2), np.float32)}, "labels must be whole numbers, not float32"),
        ({"labels": encoded(np.zeros((2, 2, 3), np.uint8), "b")}, "b: labels need one channel"),
        (
            {"labels": encoded(np.zeros((2, 2, 3), np.uint8), "b", "JPEG")},
            "b: holds JPEG, whose values are not kept.* PNG, TIFF, BMP",
        ),
        ({"labels": Encoded(b"", "b")}, "b: the file is empty"),
        ({"labels": Encoded(b"\x89PNG\r\n\x1a\n", "b")}, "b: "),
        ({"depth": encoded(np.zeros((2, 2), np.uint8), "b")}, "b: depth needs one channel of 16 bits.*of 8 bits"),
        ({"depth": encoded(np.zeros((3, 2), np.uint16), "b")}, "b: depth size 2x3 differs from the image's 2x2"),
        ({"depth": np.zeros((2, 2), np.uint8)}, "depth needs numbers of 16 bits or more, not uint8"),
        ({"depth": np.zeros((2, 2), complex)}, "depth is complex128"),
        ({"depth": np.zeros((4,))}, r"depth is float64 of shape \(4,\); it must be numbers \(H, W\)"),
        ({"depth": broken_header(b"(2, 2)", b"(2, 9)")}, "depth: damaged NumPy file; its header says"),
        ({"depth": npy(np.array([[None]], dtype=object))}, r"depth: depth is object of shape \(1, 1\)"),
        ({"depth": broken_header(b"<f4", b"<U0")}, r"depth: depth is <U0 of shape \(2, 2\)"),
        ({"depth": broken_header(b"(2, 2)", b"(4,-1)")}, "depth: the image has no pixels"),
        ({"depth": Encoded(b"\x93NUMPY\x01\x00\x05\x00abcde", "b")}, "b: not a NumPy file"),
        ({"mask": encoded(np.zeros((2, 3), np.uint8), "b")}, "b: mask size 3x2 differs"),
        ({"mask": {"size": [3, 2], "counts": [6]}}, r"mask of the image: run lengths are for size \[3, 2\]"),
        ({"mask": [[5, 0, 8, 0, 8, 2]]}, "mask of the image: a polygon lies outside the 2x2 picture .x from 5 to 8."),
        ({"mask": [[0, 0, 1, 1, 0, 1], [0, -3, 1, -4, 1, -1]]}, "outside the 2x2 picture .y from -4 to -1."),
        ({"mask": [["a"] * 6]}, "polygon point 'a' is no place"),
    ],
)
def test_parts_that_do_not_fit(parts, message):
    with pytest.raises(UsageError, match=message):
        READER.sample("a", image=IMAGE, **parts)


def test_claimed_sizes_take_no_memory(tmp_path):
    content = npy(np.zeros((2, 2), dtype=np.float32)).content
    content = content.replace(b"(2, 2), }            ", b"(99999999, 99999999),}")
    with pytest.raises(UsageError, match="megapixels"):
        READER.sample("a", image=IMAGE, depth=Encoded(content, "depth"))
    with pytest.raises(UsageError, match=r"gone\.npy: no such file"):
        READER.sample("a", image=IMAGE, depth=tmp_path / "gone.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(UsageError, match=r"folder\.npy: cannot be read \(Is a directory"):
        READER.sample("a", image=IMAGE, depth=tmp_path / "folder.npy")


def test_labels_need_class_names():
    with pytest.raises(UsageError, match="the image: labels without class names"):
        PartReader().sample("a", image=IMAGE, labels=LABELS)


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "much"])
@pytest.mark.parametrize("name", ["depth_scale", "max_depth_m"])
def test_wrong_numbers(name, value):
    with pytest.raises(UsageError, match=f"{name}=.*; it must be a number above 0"):
        PartReader(**{name: value})


def test_wrong_overlap():
    with pytest.raises(UsageError, match="overlap='both'; choose union or background"):
        PartReader(overlap="both")


def test_scenes_and_tasks():
    assert scene_names(["office", None, "attic", "office"]) == ("attic", "office")
    assert scene_names([None, ""]) == (GENERIC_SCENE,)
    assert tasks_of(["image", "depth", "labels"]) == ("segment", "depth")
