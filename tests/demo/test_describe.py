"""What is said of a picture to those who do not see it."""

from __future__ import annotations

import numpy as np
import pytest

from vpd.demo.describe import describe


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.array([[0, 1], [1, 1]], np.uint8), "cube 75%, floor 25%"),
        (np.array([[255, 255]], np.uint8), "no class"),
        (np.zeros((3, 3), bool), "nothing is marked"),
        (np.arange(9).reshape(3, 3) == 2, "11% of the picture is marked, around its top right"),
        (np.array([[0.0, 1.26], [3.0, 2.0]], np.float32), "depth from 1.3 to 3.0 m"),
        (np.zeros((1, 1), np.float32), "no depth"),
    ],
)
def test_in_words(pixels, words):
    assert describe(pixels, ("floor", "cube")) == words
