"""IoU of sentences, against counts by hand and the golden evaluation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpd.metrics.referring import ReferringMetrics, mask_areas, mask_iou

masks = st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=2, max_size=2).map(
    lambda rows: torch.tensor(rows).reshape(2, 3, 4)
)


def metrics_of(*pairs):
    metrics = ReferringMetrics()
    for pred, target in pairs:
        metrics.update(pred, target)
    return metrics


def row(inside, pixels=10):
    return (torch.arange(pixels) < inside).reshape(1, pixels)


def test_metrics_by_hand():
    result = metrics_of((row(5), row(10)), (row(9), row(9)), (row(0), row(0)), (row(2), row(0))).compute()

    assert result["oIoU"] == pytest.approx((5 + 9) / (10 + 9 + 0 + 2))
    assert result["mIoU"] == pytest.approx((0.5 + 1 + 0 + 0) / 4)
    assert [result[f"P@{t}"] for t in (0.5, 0.6, 0.7, 0.8, 0.9)] == [0.5, 0.25, 0.25, 0.25, 0.25]
    assert result["sentences"] == 4


@pytest.mark.parametrize("tenths", [5, 6, 7, 8, 9])
def test_an_iou_at_the_threshold_counts(tenths):
    assert metrics_of((row(tenths), row(10))).compute()[f"P@0.{tenths}"] == 1.0
    assert metrics_of((row(tenths - 1), row(10))).compute()[f"P@0.{tenths}"] == 0.0


def test_nothing_counted_is_nan():
    result = ReferringMetrics().compute()
    assert math.isnan(result["oIoU"])
    assert math.isnan(result["mIoU"])


def test_shapes_must_be_equal():
    with pytest.raises(ValueError, match=r"\(2, 4, 4\).*\(4, 4\)"):
        mask_areas(torch.zeros(2, 4, 4), torch.zeros(4, 4))


def test_a_row_by_hand():
    row_of_sentence = ReferringMetrics().row(row(7), row(10))
    assert row_of_sentence.tolist() == [7, 10, 0.7, 1, 1, 1, 1, 0, 0]


@settings(deadline=None)
@given(masks, masks, masks, masks)
def test_rows_add_up_in_any_order(pred, target, other_pred, other_target):
    metrics = ReferringMetrics()
    rows = metrics.row(pred, target) + metrics.row(other_pred, other_target)
    torch.testing.assert_close(rows, metrics_of((other_pred, other_target), (pred, target)).totals)


def test_values_of_many_sums_at_once():
    rows = torch.stack([metrics_of((row(5), row(10))).totals, ReferringMetrics().totals])
    values = ReferringMetrics().values(rows)
    assert values["oIoU"][0] == values["mIoU"][0] == 0.5
    assert all(values[name][1].isnan() for name in ("oIoU", "mIoU", "P@0.5"))


@settings(deadline=None)
@given(masks, masks)
def test_a_batch_equals_its_sentences(pred, target):
    singles = metrics_of(*zip(pred, target, strict=True))
    torch.testing.assert_close(metrics_of((pred, target)).totals, singles.totals)


@settings(deadline=None)
@given(masks, masks)
def test_iou_is_symmetric_and_at_most_one(pred, target):
    iou = mask_iou(*mask_areas(pred, target))
    assert torch.equal(iou, mask_iou(*mask_areas(target, pred)))
    assert ((iou >= 0) & (iou <= 1)).all()


@pytest.fixture
def golden_sentences(golden):
    tensors = golden.tensors("procedures/refer_metrics.safetensors")
    images = sum(key.startswith("gt/") for key in tensors)
    return [(pred, tensors[f"gt/{i}"].expand_as(pred)) for i in range(images) for pred in [tensors[f"pred/{i}"]]]


def test_iou_of_each_sentence_equals_golden(golden, golden_sentences):
    wanted = golden.json("procedures/refer.json")["metrics"]
    areas = [mask_areas(pred, target) for pred, target in golden_sentences]
    intersections, unions = (torch.cat(column) for column in zip(*areas, strict=True))

    assert mask_iou(intersections, unions).tolist() == pytest.approx(wanted["per_sentence_iou"], rel=1e-6)
    assert int(intersections.sum()) == wanted["cumulative_intersection"]
    assert int(unions.sum()) == wanted["cumulative_union"]


def test_metrics_equal_golden(golden, golden_sentences):
    wanted = golden.json("procedures/refer.json")["metrics"]

    result = metrics_of(*golden_sentences).compute()

    assert result["mIoU"] == pytest.approx(wanted["mean_iou"], rel=1e-6)
    assert result["oIoU"] == pytest.approx(wanted["overall_iou"], rel=1e-6)
    assert result["sentences"] == wanted["n_sentences"]
    for threshold, share in wanted["precision"].items():
        assert result[f"P@{threshold}"] == pytest.approx(share, rel=1e-6)
    printed = {"Mean IoU": "mIoU", "overall IoU": "oIoU"}
    for name, value in wanted["test_printed"].items():
        ours = printed.get(name, name.replace("precision", "P"))
        assert round(100 * result[ours], 2) == value


def test_the_figure_returned_in_published_training_divides_by_images(golden, golden_sentences):
    wanted = golden.json("procedures/refer.json")["metrics"]
    result = metrics_of(*golden_sentences).compute()

    per_image = 100 * result["mIoU"] * result["sentences"] / len(golden_sentences)

    returned = wanted["train_returned"]
    assert per_image == pytest.approx(returned["sum_of_ious_over_number_of_images_x100"], rel=1e-6)
    assert 100 * result["oIoU"] == pytest.approx(returned["overall_iou_x100"], rel=1e-6)
