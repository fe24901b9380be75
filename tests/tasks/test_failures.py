"""Kinds of errors, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vpd.tasks.failures import depth_failure, label_failure, mask_failure


def test_the_largest_confusion_is_named():
    labels = np.array([[0, 0, 1, 255]], np.uint8)
    assert label_failure(np.array([[2, 2, 0, 1]], np.uint8), labels, ("sky", "road", "tree")) == "sky taken for tree"
    assert label_failure(np.array([[0, 0, 1, 2]], np.uint8), labels, ("sky", "road", "tree")) == ""
    assert label_failure(np.array([[255, 0, 1, 2]], np.uint8), labels, ("sky", "road")) == "sky taken for no class"


@pytest.mark.parametrize(
    ("predicted", "mask", "kind"),
    [
        ("0110", "0110", ""),
        ("0000", "0000", ""),
        ("0000", "0110", "nothing marked"),
        ("0110", "0000", "marked, though there is no such object"),
        ("1000", "0110", "something else marked"),
        ("1111", "0100", "the object and more"),
        ("0100", "0111", "only a part of it"),
        ("1101", "0111", "outline not right"),
        ("111100000", "000111111", "a part of it and something else"),
    ],
)
def test_how_a_mask_misses(predicted: str, mask: str, kind: str):
    assert mask_failure(*(np.array([list(map(int, bits))], bool) for bits in (predicted, mask))) == kind


@pytest.mark.parametrize(
    ("factors", "kind"),
    [
        ((1.2, 1.3, 1.2, 1.25), "all of it too far"),
        ((0.8, 0.7, 0.8, 0.8), "all of it too near"),
        ((1.01, 0.99, 0.6, 0.7), "far half too near"),
        ((1.6, 1.5, 0.99, 0.98), "near half too far"),
        ((1.01, 0.99, 1.5, 0.6), "far half here too near, there too far"),
    ],
)
def test_where_depth_is_wrong(factors: tuple[float, ...], kind: str):
    truth = torch.tensor([1.0, 2.0, 8.0, 9.0], dtype=torch.float64)
    assert depth_failure(truth * torch.tensor(factors, dtype=torch.float64), truth) == kind


def test_no_pixel_no_kind():
    assert depth_failure(torch.empty(0), torch.empty(0)) == ""
