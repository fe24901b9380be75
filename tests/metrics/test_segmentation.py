"""Confusion matrix, IoU and accuracy, against counts by hand and the golden areas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpd.metrics.segmentation import SegmentationMetrics, confusion_matrix, reduce_zero_label


@st.composite
def predictions_and_labels(draw, num_classes=5):
    pixels = draw(st.integers(0, 40))
    classes = st.integers(0, num_classes - 1)
    pred = draw(st.lists(classes, min_size=pixels, max_size=pixels))
    labels = draw(st.lists(classes | st.just(255), min_size=pixels, max_size=pixels))
    return torch.tensor(pred, dtype=torch.uint8), torch.tensor(labels, dtype=torch.uint8)


def metrics_of(*pairs, num_classes=5):
    metrics = SegmentationMetrics(num_classes)
    for pred, labels in pairs:
        metrics.update(pred, labels)
    return metrics


def test_metrics_by_hand():
    pred = torch.tensor([[0, 0, 1], [1, 2, 2]])
    labels = torch.tensor([[0, 1, 1], [255, 1, 1]])

    result = metrics_of((pred, labels), num_classes=4).compute()

    # class 0: 1 of 2; class 1: 1 of 4; class 2: predicted, never true; class 3: nowhere
    assert result["IoU"][:3] == [0.5, 0.25, 0.0]
    assert math.isnan(result["IoU"][3])
    assert result["Acc"][:2] == [1.0, 0.25]
    assert math.isnan(result["Acc"][2])
    assert result["mIoU"] == 0.25
    assert result["mAcc"] == 0.625
    assert result["aAcc"] == 0.4


def test_confusion_matrix_has_true_classes_in_rows():
    confusion = confusion_matrix(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 255]), 2)
    assert confusion.tolist() == [[0, 2], [0, 0]]


def test_reduce_zero_label_at_both_ends():
    labels = torch.tensor([0, 1, 150, 255], dtype=torch.uint8)
    assert reduce_zero_label(labels).tolist() == [255, 0, 149, 255]
    assert labels.tolist() == [0, 1, 150, 255]


def test_reduce_zero_label_refuses_wider_types():
    with pytest.raises(ValueError, match="int64"):
        reduce_zero_label(torch.tensor([0, 255]))


def test_shapes_must_be_equal():
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        confusion_matrix(torch.zeros(2, 3), torch.zeros(3, 2), 2)


@pytest.mark.parametrize(("pred", "labels", "named"), [(0, 7, "Labels"), (7, 0, "Predictions"), (-1, 0, "Pred")])
def test_classes_outside_the_list_are_named(pred, labels, named):
    with pytest.raises(ValueError, match=named):
        confusion_matrix(torch.tensor([0, pred]), torch.tensor([0, labels]), 7)


def test_a_prediction_without_class_is_wrong_and_no_other_class():
    found = metrics_of((torch.tensor([0, 255, 255, 1]), torch.tensor([0, 0, 255, 1]))).compute()
    assert found["IoU"][:2] == [0.5, 1.0] and found["Acc"][:2] == [0.5, 1.0]
    assert found["aAcc"] == pytest.approx(2 / 3)


def test_nothing_counted_is_nan():
    result = metrics_of((torch.tensor([0, 1]), torch.tensor([255, 255]))).compute()
    assert math.isnan(result["mIoU"])
    assert math.isnan(result["aAcc"])


def test_a_row_by_hand():
    metrics = SegmentationMetrics(3)
    row = metrics.row(torch.tensor([[0, 0, 1], [1, 2, 2]]), torch.tensor([[0, 1, 1], [255, 1, 1]]))
    assert row.dtype == torch.int64
    assert row.tolist() == [[1, 1, 0], [2, 1, 2], [1, 4, 0]]  # right, predicted, true
    assert metrics.totals.sum() == 0  # a row alone counts nothing


@settings(deadline=None)
@given(predictions_and_labels(), predictions_and_labels())
def test_rows_add_up_in_any_order(first, second):
    metrics = SegmentationMetrics(5)
    assert torch.equal(metrics.row(*first) + metrics.row(*second), metrics_of(second, first).totals)


def test_values_of_many_sums_at_once():
    pairs = [(torch.tensor([0, 1]), torch.tensor([0, 2])), (torch.tensor([1, 1]), torch.tensor([1, 255]))]
    metrics = SegmentationMetrics(3)
    values = metrics.values(torch.stack([metrics.row(*pair) for pair in pairs]))
    for place, pair in enumerate(pairs):
        alone = metrics_of(pair, num_classes=3).compute()
        assert values["mIoU"][place] == alone["mIoU"] and values["aAcc"][place] == alone["aAcc"]
        assert values["IoU"][place].tolist() == pytest.approx(alone["IoU"], nan_ok=True)


@settings(deadline=None)
@given(predictions_and_labels(), st.randoms(use_true_random=False))
def test_order_of_pixels_and_name_of_classes_do_not_matter(pair, random):
    pred, labels = pair
    order = random.sample(range(len(pred)), len(pred))
    rename = torch.tensor([*random.sample(range(5), 5), *[255] * 251])

    shuffled = metrics_of((rename[pred.long()][order], rename[labels.long()][order])).compute()

    assert shuffled["mIoU"] == pytest.approx(metrics_of(pair).compute()["mIoU"], nan_ok=True)


@settings(deadline=None)
@given(predictions_and_labels())
def test_areas_add_up(pair):
    intersection, predicted, true = SegmentationMetrics(5).row(*pair)
    assert (intersection <= torch.minimum(predicted, true)).all()
    assert predicted.sum() == true.sum() == (pair[1] != 255).sum()


def test_areas_equal_golden(golden):
    measured = golden.json("procedures/seg.json")["metrics"]
    tensors = golden.tensors("procedures/seg_metrics.safetensors")
    assert measured["n_images"] > 0
    for image in range(measured["n_images"]):
        pred, labels = tensors[f"metrics/pred/{image}"], tensors[f"metrics/gt/{image}"]
        right, predicted, true = SegmentationMetrics(measured["num_classes"]).row(pred, labels)
        areas = torch.stack([right, predicted + true - right, predicted, true])
        assert torch.equal(areas, tensors[f"metrics/areas/{image}"].long()), image


@pytest.mark.parametrize("case", ["plain", "reduce_zero_label"])
def test_metrics_equal_golden(golden, case):
    measured = golden.json("procedures/seg.json")["metrics"]
    wanted, images = measured[case], range(measured["n_images"])
    tensors = golden.tensors("procedures/seg_metrics.safetensors")
    prepare = reduce_zero_label if case == "reduce_zero_label" else torch.clone
    pairs = [(tensors[f"metrics/pred/{i}"], prepare(tensors[f"metrics/gt/{i}"])) for i in images]

    result = metrics_of(*pairs, num_classes=measured["num_classes"]).compute()

    for name in ("mIoU", "mAcc", "aAcc"):
        assert result[name] == pytest.approx(wanted[name], rel=1e-6)
        assert round(100 * result[name], 2) == wanted["reported"][name]
    for name in ("IoU", "Acc"):
        values = [math.nan if value is None else value for value in wanted[name]]
        assert result[name] == pytest.approx(values, rel=1e-6, nan_ok=True)
