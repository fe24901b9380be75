"""Charts put what they are given where it belongs, and somebody's words stay words."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from vpd.drawing.charts import Axis, Bar, bar_chart, column_chart, line_chart, matrix_chart, write_svg


def points_of(chart: str) -> list[list[tuple[float, ...]]]:
    lines = re.findall(r'polyline points="([^"]*)"', chart)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]


def test_curves_lie_on_their_axes():
    chart = line_chart({"a<b": [(0, 0), (10, 50)]}, Axis("x", 0, 10), Axis("y", 0, 100))
    (((x0, y0), (x1, y1)),) = points_of(chart)
    axis = {float(match) for match in re.findall(r'y1="([\d.]+)"', chart)}
    assert x1 > x0 and y0 == max(axis) and y1 == pytest.approx((max(axis) + min(axis)) / 2, abs=0.1)
    assert "a&lt;b" in chart


def test_what_is_not_finite_is_a_gap():
    chart = line_chart({"a": [(0, 1), (1, math.nan), (2, 1), (3, 2)]}, Axis("x", 0, 3), Axis("y", 0, 2))
    assert [len(run) for run in points_of(chart)] == [1, 2]
    assert "nan" not in chart


def test_axes_hold_what_is_finite():
    assert Axis.around("loss", [math.nan, 3.0, 1.0]) == Axis("loss", 1.0, 3.0)
    assert Axis.around("loss", [2.0], start=0) == Axis("loss", 0, 2.0)
    assert Axis.around("loss", [math.inf]) == Axis("loss", 0.0, 1.0)  # never empty


def test_bars_are_as_long_as_their_values():
    bars = [Bar("half", 0.5, "50 %", 0.4, 0.6), Bar("<whole>", 1.0, "100 %"), Bar("none", math.nan, "–")]
    chart = bar_chart(bars, end=1)
    half, whole = (float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', chart))
    assert whole == pytest.approx(2 * half, abs=0.2)
    assert "&lt;whole&gt;" in chart and "<whole>" not in chart


def test_columns_count():
    chart = column_chart([1, 4, 0], Axis("IoU", 0, 1), y_label="samples")
    heights = [float(height) for height in re.findall(r'<rect [^>]*height="([\d.]+)"', chart)]
    assert heights[1] == pytest.approx(4 * heights[0], abs=0.3) and heights[2] == 0


def test_a_matrix_leaves_empty_rows_white():
    shares = np.array([[1.0, 0.0], [math.nan, math.nan]])
    chart = matrix_chart(shares, ["a", "b&c"], rows="truth", columns="prediction")
    assert chart.count("<rect") == 2 and "b&amp;c" in chart and ">100<" in chart


def test_a_file_of_charts_is_svg(tmp_path: Path):
    chart = line_chart({"a & b": [(0, 0), (1, 1)]}, Axis("x", 0, 1), Axis("y", 0, 1), size=(300, 200))
    write_svg(tmp_path / "curves.svg", [("One < two", chart), ("Two", chart)])
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("viewBox") == "0 0 300 488"
    assert len(root.findall("{http://www.w3.org/2000/svg}svg")) == 2
