"""Depth errors, against values by hand and the golden evaluation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpd.metrics.depth import (
    ERRORS,
    DepthMetrics,
    EdgeMetrics,
    crop_window,
    depth_errors,
    evaluated_pixels,
    kb_crop,
    near_edges,
)

maps = st.lists(
    st.tuples(st.floats(0.1, 9.9), st.one_of(st.just(0.0), st.floats(0.1, 9.9))), min_size=6, max_size=6
).map(lambda pixels: torch.tensor(pixels, dtype=torch.float64).T.reshape(2, 2, 3))


def metrics_of(*pairs, **limits):
    metrics = DepthMetrics(**limits)
    for pred, target in pairs:
        metrics.update(pred, target)
    return metrics


def test_errors_by_hand():
    pred, target = torch.tensor([2.0, 4.0, 4.0]), torch.tensor([1.0, 4.0, 5.0])

    errors = dict(zip(ERRORS, depth_errors(pred.double(), target.double()).tolist(), strict=True))

    two, ratio = math.log(2), math.log(0.8)
    mean, mean_square = (two + ratio) / 3, (two**2 + ratio**2) / 3
    assert errors == pytest.approx(
        {
            "d1": 1 / 3,  # 5 / 4 = 1.25 is not below 1.25
            "d2": 2 / 3,
            "d3": 2 / 3,
            "abs_rel": (1 + 0 + 0.2) / 3,
            "sq_rel": (1 + 0 + 0.2) / 3,
            "rmse": math.sqrt((1 + 1) / 3),
            "rmse_log": math.sqrt(mean_square),
            "log10": (math.log10(2) - math.log10(0.8)) / 3,
            "silog": math.sqrt(mean_square - 0.5 * mean**2),
        }
    )


def test_a_perfect_prediction_has_no_error():
    target = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    result = metrics_of((target, target)).compute()
    assert result == {name: float(name in ("d1", "d2", "d3")) for name in ERRORS} | {"images": 1.0}


def test_errors_are_averaged_over_images_not_pixels():
    one = (torch.tensor([[2.0, 5.0]]), torch.tensor([[1.0, 0.0]]))  # one pixel, 100 % off
    two = (torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 1.0]]))  # two pixels, exact
    assert metrics_of(one, two).compute()["abs_rel"] == 0.5


def test_a_row_is_nine_errors_and_one():
    row = DepthMetrics().row(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]))
    assert row.dtype == torch.float64 and row.shape == (10,)
    assert row[0] == 0.5 and row[3] == 0.25 and row[-1] == 1
    assert DepthMetrics().row(torch.ones(1, 2), torch.zeros(1, 2)).tolist() == [0.0] * 10


def test_images_without_measurement_are_left_out():
    empty = (torch.ones(2, 2), torch.zeros(2, 2))
    exact = (torch.ones(2, 2), torch.ones(2, 2))
    result = metrics_of(empty, exact).compute()
    assert result["d1"] == 1.0
    assert result["images"] == 1.0
    assert math.isnan(metrics_of(empty).compute()["rmse"])


def test_range_is_open_and_predictions_are_not_clipped():
    target = torch.tensor([[0.5, 1.0, 2.0, 4.0]])
    pred = torch.tensor([[9.0, 9.0, 9.0, 9.0]])
    kept, true = evaluated_pixels(pred, target, min_depth_m=0.5, max_depth_m=4.0)
    assert true.tolist() == [1.0, 2.0]
    assert kept.tolist() == [9.0, 9.0]


def test_infinite_becomes_max_and_nan_becomes_min():
    pred = torch.tensor([[math.inf, -math.inf, math.nan]])
    kept, _ = evaluated_pixels(pred, torch.ones(1, 3), min_depth_m=0.001, max_depth_m=10.0)
    assert kept.tolist() == [10.0, 10.0, 0.001]


def test_negative_predictions_are_never_within_a_ratio():
    errors = depth_errors(torch.tensor([-1.0]), torch.tensor([1.0]))
    assert errors[:3].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("crop", "size", "rows", "columns"),
    [
        (None, (5, 7), (0, 5), (0, 7)),
        ("nyu", (480, 640), (45, 471), (41, 601)),
        ("nyu", (352, 480), (45, 352), (41, 480)),
        ("garg", (352, 1216), (143, 349), (43, 1172)),
        ("eigen", (375, 1242), (124, 342), (44, 1197)),
    ],
)
def test_crops(crop, size, rows, columns):
    assert crop_window(crop, *size) == (slice(*rows), slice(*columns))


def test_unknown_crop_lists_the_choices():
    with pytest.raises(ValueError, match=r"'center'.*nyu, garg, eigen"):
        crop_window("center", 480, 640)


@pytest.mark.parametrize(("crop", "size"), [("nyu", (45, 640)), ("garg", (1, 1))])
def test_crop_that_leaves_nothing_is_an_error(crop, size):
    with pytest.raises(ValueError, match="Nothing is left"):
        crop_window(crop, *size)


def test_kb_crop_keeps_bottom_and_centre():
    rows = torch.arange(375).reshape(375, 1).expand(375, 1243)
    columns = torch.arange(1243).expand(375, 1243)
    cropped = kb_crop(torch.stack([rows, columns]))
    assert cropped.shape == (2, 352, 1216)
    assert cropped[:, 0, 0].tolist() == [23, 13]
    assert cropped[:, -1, -1].tolist() == [374, 1228]


def test_kb_crop_needs_a_large_enough_image():
    with pytest.raises(ValueError, match="351x1242"):
        kb_crop(torch.zeros(351, 1242))


def test_shapes_must_be_equal():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(1, 2, 3\)"):
        DepthMetrics().update(torch.ones(2, 3), torch.ones(1, 2, 3))


@settings(deadline=None)
@given(maps, maps)
def test_rows_add_up_in_any_order(first, second):
    metrics = DepthMetrics()
    rows = metrics.row(*first) + metrics.row(*second)
    torch.testing.assert_close(rows, metrics_of(second, first).totals)
    assert metrics.totals.sum() == 0  # a row alone counts nothing


def test_values_of_many_sums_at_once():
    metrics = DepthMetrics()
    rows = torch.stack([torch.arange(10.0).double(), 2 * torch.ones(10).double()])
    values = metrics.values(rows)
    assert values["d2"].tolist() == [1 / 9, 1.0] and values["images"].tolist() == [9.0, 2.0]


@settings(deadline=None)
@given(maps, st.permutations(range(6)))
def test_order_of_pixels_does_not_matter(pair, order):
    shuffled = pair.reshape(2, 6)[:, order].reshape(2, 2, 3)
    torch.testing.assert_close(metrics_of(shuffled).totals, metrics_of(pair).totals, atol=1e-7, rtol=1e-7)


def test_metrics_equal_golden(golden):
    cases = golden.json("procedures/depth.json")["metrics"]
    measured = {case: wanted for case, wanted in cases.items() if isinstance(wanted, dict)}  # else the original fails
    stored = [case for case in measured if not golden.is_omitted("procedures/depth_metrics.safetensors", f"{case}/gt")]
    assert stored
    for case in stored:
        check_golden_case(golden, case, measured[case])


def check_golden_case(golden, case, wanted):
    pred, target = (golden.tensor("procedures/depth_metrics.safetensors", f"{case}/{k}") for k in ("pred", "gt"))
    case_settings = wanted["settings"]
    names = {"garg_crop": "garg", "eigen_crop": "eigen"}
    crop = "nyu" if case_settings["dataset"] == "nyudepthv2" else names.get(case_settings["kitti_crop"])
    if case_settings["dataset"] == "kitti" and case_settings["do_kb_crop"]:
        pred, target = kb_crop(pred), kb_crop(target)
    limits = {"min_depth_m": case_settings["min_depth_eval"], "max_depth_m": case_settings["max_depth_eval"]}

    kept, true = evaluated_pixels(pred, target, crop=crop, **limits)
    result = metrics_of((pred, target), crop=crop, **limits).compute()

    assert len(kept) == wanted["n_pixels"]
    assert float(kept.sum()) == pytest.approx(wanted["sum_pred"], rel=1e-6)
    assert float(true.sum()) == pytest.approx(wanted["sum_gt"], rel=1e-6)
    assert {name: result[name] for name in ERRORS} == pytest.approx(wanted["values"], rel=1e-6), case


@pytest.mark.parametrize("network", ["model", "stub"])
def test_metrics_of_golden_predictions(golden, network):
    validated = golden.json("procedures/depth.json")["validate"]
    cases = [case for case in validated if case.startswith(f"{network}/")]
    file, far_m = f"procedures/depth_validate_{network}.safetensors", golden.json("depth/config.json")["settings"]
    target, limits = golden.tensor(file, f"{network}/depth").squeeze(0).float(), {"max_depth_m": far_m["max_depth"]}
    assert cases
    for case in cases:
        pred, wanted = golden.tensor(file, case), validated[case]
        kept, _ = evaluated_pixels(pred, target, min_depth_m=1e-3, crop="nyu", **limits)
        result = metrics_of((pred, target), crop="nyu", **limits).compute()
        assert len(kept) == wanted["n_pixels"], case
        assert {name: result[name] for name in ERRORS} == pytest.approx(wanted["metrics"], rel=1e-6), case


def test_three_pixels_on_either_side_of_an_edge_are_near_it():
    depth_m = torch.full((3, 12), 2.0)
    depth_m[:, 6:] = 2.3
    assert near_edges(depth_m).tolist() == [[3 <= column < 9 for column in range(12)]] * 3
    assert near_edges(depth_m.T[None])[0].T.tolist() == near_edges(depth_m).tolist()


@pytest.mark.parametrize(
    "row",
    [
        [2.0, 2.15, 2.3, 2.45],  # a slope
        [2.0, 2.2, 2.2, 2.2],  # a tenth is no more than a tenth
        [2.0, 0.0, 9.0, 9.0],  # nobody measured where it is
    ],
)
def test_slopes_and_holes_are_no_edges(row):
    assert not near_edges(torch.tensor([row])).any()


def test_a_single_pixel_has_no_edges():
    assert not near_edges(torch.ones(1, 1)).any()


def test_errors_near_edges_are_of_their_pixels_alone():
    truth = torch.full((4, 20), 2.0)
    truth[:, 10:] = 4.0
    pred = truth.clone()
    pred[:, 0] = 9.0  # far from the edge
    pred[:, 9] = 3.0  # one of the six columns near it
    assert EdgeMetrics().row(pred, torch.ones(4, 20)).tolist() == [0.0] * 10
    metrics = EdgeMetrics()
    for target in (truth, torch.ones(4, 20)):  # the second has no edge, and does not count
        metrics.update(pred, target)
    assert metrics.compute() == pytest.approx({"rmse": math.sqrt(1 / 6), "abs_rel": 0.5 / 6, "images": 1.0})


def test_edges_count_inside_range_and_crop_only():
    truth = torch.full((100, 100), 2.0)
    truth[:, 50:] = 6.0
    pred = torch.where(truth == 2, 2.5, 1.0)
    assert EdgeMetrics(max_depth_m=5.0, crop="garg").row(pred, truth)[ERRORS.index("rmse")] == 0.5


def test_edge_errors_of_maps_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="must have the same shape"):
        EdgeMetrics().row(torch.ones(2, 3), torch.ones(3, 2))
