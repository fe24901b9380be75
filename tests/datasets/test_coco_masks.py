import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from vpd.datasets.coco_masks import decode_mask
from vpd.errors import UsageError

SQUARE = [0, 0, 4, 0, 4, 4, 0, 4]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**16), st.sampled_from(["dict", "list", "plain"]))
def test_run_lengths_of_every_form(height, width, seed, form):
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    flat = mask.T.ravel()  # column by column
    if form == "plain":
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int)])))
        counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
        segmentation = {"size": [height, width], "counts": counts}
    else:
        segmentation = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    decoded = decode_mask([segmentation] if form == "list" else segmentation, height=height, width=width, name="object")
    assert np.array_equal(decoded, mask)


def test_a_polygon_outside_gives_nothing():
    outside = [20, 0, 24, 0, 24, 4, 20, 4]
    assert not decode_mask([outside], height=8, width=8, name="object").any()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "is empty"),
        ("polygon", "neither polygons nor run lengths"),
        ([[0, 0, 4, 0]], "a polygon of 4 numbers"),
        ([[*SQUARE, 1]], "a polygon of 9 numbers"),
        ([[0, 0, 1e9, 0, 1e9, 4]], "is no place in or near"),
        ([[0, 0, float("nan"), 0, 4, 4]], "is no place in or near"),
        ([[0, 0, 10**400, 0, 4, 4]], "is no place in or near"),
        ([[0, 0, 30, 30] * 200_000], "a polygon's outline is 24,000,000 px long; the limit is 4,000,000"),
        ([["0", 0, 4, 0, 4, 4]], "is no place in or near"),
        ([SQUARE, {"size": [8, 8], "counts": [64]}], "must be all polygons or all run lengths"),
        ([0, 0, 4, 0, 4, 4], "must be all polygons or all run lengths"),
        ({"size": [8, 9], "counts": [72]}, r"are for size \[8, 9\], the picture has \[8, 8\]"),
        ({"size": [8, 8], "counts": [10]}, "do not add up to 8x8"),
        ({"size": [8, 8], "counts": [70, -6]}, "do not add up to 8x8"),
        ({"size": [8, 8], "counts": b"\xff\xff\xff"}, "do not add up"),
        ({"size": [8, 8], "counts": "\ud83d"}, "do not add up"),
        ({"size": [8, 8], "counts": "P2é"}, "do not add up"),
        ({"size": [8, 8]}, "must be all polygons"),
    ],
)
def test_impossible_segmentations(segmentation, message):
    with pytest.raises(UsageError, match=f"object 3: .*{message}"):
        decode_mask(segmentation, height=8, width=8, name="object 3")


def test_claimed_sizes_are_limited():
    with pytest.raises(UsageError, match="megapixels"):
        decode_mask([SQUARE], height=100_000, width=100_000, name="object")


def test_text_made_to_take_time_is_refused_at_once():
    endless = {"size": [4, 4], "counts": "o" * 1_000_000}  # every character says that the number goes on
    with pytest.raises(UsageError, match="run lengths do not add up to 4x4 pixels"):
        decode_mask(endless, height=4, width=4, name="crafted")
