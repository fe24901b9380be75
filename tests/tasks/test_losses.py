"""Losses, against values by hand and the golden losses."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vpd.tasks.losses import (
    mean_loss,
    referring_loss,
    referring_loss_sum,
    segmentation_loss,
    segmentation_loss_sum,
    silog_loss,
    silog_loss_sum,
)

# Two pixels of two classes: probability of the second class 0.8 and 0.5.
LOGITS = torch.tensor([[0.0, 0.0], [math.log(4.0), 0.0]]).reshape(1, 2, 1, 2)


def labels(*classes):
    return torch.tensor(classes).reshape(1, 1, 2)


def depth(*metres, requires_grad=False):
    return torch.tensor(metres).reshape(1, 1, 1, -1).requires_grad_(requires_grad)


def test_segmentation_loss_by_hand():
    loss = segmentation_loss(LOGITS, labels(1, 0))
    assert float(loss) == pytest.approx((-math.log(0.8) - math.log(0.5)) / 2)


@pytest.mark.parametrize(("count_ignored", "pixels"), [(False, 1), (True, 2)])
def test_ignored_pixels_enter_the_mean_only_when_counted(count_ignored, pixels):
    loss = segmentation_loss(LOGITS, labels(1, 255), count_ignored=count_ignored)
    assert float(loss) == pytest.approx(-math.log(0.8) / pixels)


def test_referring_loss_by_hand():
    loss = referring_loss(LOGITS, labels(1, 0), class_weights=(0.9, 1.1))
    assert float(loss) == pytest.approx((-1.1 * math.log(0.8) - 0.9 * math.log(0.5)) / (1.1 + 0.9))


def test_referring_loss_leaves_out_ignored_pixels():
    assert float(referring_loss(LOGITS, labels(1, 255))) == pytest.approx(-math.log(0.8))


def test_silog_loss_by_hand():
    loss = silog_loss(depth(1.0, 2.0, 5.0), depth(2.0, 2.0, 0.0), variance_focus=0.5)
    assert float(loss) == pytest.approx(math.log(2) * math.sqrt(1 / 2 - 0.5 / 4))


def test_silog_loss_over_images_is_the_mean_of_those_with_a_measurement():
    pred, target = (
        torch.tensor(rows).reshape(3, 1, 1, 2) for rows in ([[1.0, 2.0]] * 3, [[2.0, 0], [2.0, 8.0], [0, 0]])
    )
    each = [silog_loss(pred[i : i + 1], target[i : i + 1]) for i in range(3)]
    assert each[2] == 0
    total, images = silog_loss_sum(pred, target, over="image")
    assert images == 2 and float(total) == pytest.approx(float(each[0] + each[1]))
    assert float(silog_loss(pred, target, over="image")) == pytest.approx(float(each[0] + each[1]) / 2)
    assert float(silog_loss(pred, target)) != pytest.approx(float(silog_loss(pred, target, over="image")))
    assert silog_loss_sum(pred, target, over="batch")[1] == 1


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(0, 6))
def test_sums_of_parts_are_the_sums_of_the_whole(first: int, second: int):
    """However a batch is cut, for every loss that says so."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 2, 3, 4, generator=generator, dtype=torch.float64)
    classes = torch.randint(0, 3, (6, 3, 4), generator=generator) % 2
    classes[1] = 255
    classes[2, :2] = 255
    pred, target = logits.exp().split(1, dim=1)
    target = target * (torch.rand(target.shape, generator=generator) > 0.5)
    target[3] = 0
    ends = [0, *sorted((first, second)), 6]
    for loss_sum, one, other, options in (
        (segmentation_loss_sum, logits, classes, {}),
        (segmentation_loss_sum, logits, classes, {"count_ignored": True}),
        (referring_loss_sum, logits, classes, {}),
        (silog_loss_sum, pred, target, {"over": "image"}),
    ):
        parts = [loss_sum(one[begin:end], other[begin:end], **options) for begin, end in pairwise(ends) if end > begin]
        total, weight = (sum(values) for values in zip(*parts, strict=True))
        whole = loss_sum(one, other, **options)
        torch.testing.assert_close(total, whole[0])
        torch.testing.assert_close(weight, whole[1])
        assert float(mean_loss(total, weight)) == pytest.approx(float(mean_loss(*whole)))


@settings(deadline=None)
@given(st.floats(0.1, 10.0), st.lists(st.floats(0.1, 10.0), min_size=2, max_size=8))
def test_silog_loss_with_full_focus_knows_no_scale(factor, metres):
    pred, target = depth(*metres).double(), depth(*reversed(metres)).double()
    scaled, plain = (silog_loss(scale * pred, target, variance_focus=1.0) for scale in (factor, 1.0))
    assert float(scaled) == pytest.approx(float(plain), abs=1e-6)


@settings(deadline=None)
@given(st.permutations(range(6)))
def test_losses_do_not_know_the_order_of_pixels(order):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 1, 6, generator=generator, dtype=torch.float64)
    classes = torch.tensor([0, 1, 1, 255, 0, 1]).reshape(1, 1, 6)
    pred, target = logits.exp().split(1, dim=1)

    for loss, first, second in (
        (segmentation_loss, logits, classes),
        (referring_loss, logits, classes),
        (silog_loss, pred, target),
    ):
        torch.testing.assert_close(loss(first[..., order], second[..., order]), loss(first, second))


@pytest.mark.parametrize("loss", [segmentation_loss, referring_loss])
def test_nothing_labelled_is_zero_with_zero_gradients(loss):
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits, labels(255, 255))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("target", [(0.0, 0.0), (2.0, 3.0)], ids=["nothing measured", "exact"])
def test_silog_loss_at_zero_has_zero_gradients(target):
    pred = depth(2.0, 3.0, requires_grad=True)
    value = silog_loss(pred, depth(*target))
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(pred.grad, torch.zeros_like(pred))


def test_pixels_without_measurement_get_no_gradient():
    pred = depth(1.0, 2.0, 5.0, requires_grad=True)
    silog_loss(pred, depth(2.0, 2.0, 0.0)).backward()
    assert pred.grad[..., 2].item() == 0.0
    assert pred.grad[..., :2].abs().min() > 0


def test_silog_loss_survives_a_prediction_of_zero():
    assert math.isfinite(float(silog_loss(depth(0.0, 1.0), depth(1.0, 1.0))))


def test_silog_loss_shows_nan_predictions():
    assert math.isnan(float(silog_loss(depth(math.nan, 1.0), depth(1.0, 1.0))))


def test_half_precision_is_summed_in_float32():
    logits = LOGITS.expand(1, 2, 200, 2).to(torch.bfloat16)
    loss = segmentation_loss(logits, labels(1, 0).expand(1, 200, 2))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx((-math.log(0.8) - math.log(0.5)) / 2, rel=1e-2)


@pytest.mark.parametrize("loss", [segmentation_loss, referring_loss])
@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 1, 3, 2), (2, 3, 2)])
def test_labels_of_another_shape_are_refused(loss, shape):
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 2\)"):
        loss(torch.zeros(1, 2, 3, 2), torch.zeros(shape, dtype=torch.int64))


def test_depth_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 1, 1, 2\).*\(1, 2\)"):
        silog_loss(depth(1.0, 2.0), torch.ones(1, 2))


def golden_logits(golden, file, *, align_corners):
    """The golden output; where a set has only samples of it, from the head's output before the last upsampling."""
    logits, step = golden.sampled(file, "logits")
    if step == 1:
        return logits
    low = golden.tensor(file, "logits_low")
    return torch.nn.functional.interpolate(low, scale_factor=8, mode="bilinear", align_corners=align_corners)


def test_segmentation_loss_equals_golden(golden):
    file = "seg/golden.safetensors"
    logits, target = golden_logits(golden, file, align_corners=False), golden.tensor(file, "target")
    loss = segmentation_loss(logits, target.long(), count_ignored=True)
    wanted = golden.json("seg/golden_train.json")["eval"]["loss"]["decode.loss_ce"]
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_referring_loss_equals_golden(golden):
    file = "refer/golden.safetensors"
    logits, target = golden_logits(golden, file, align_corners=True), golden.tensor(file, "target")
    loss = referring_loss(logits, target.long(), class_weights=(0.9, 1.1))
    wanted = golden.json("refer/golden_train.json")["eval"]["loss"]["loss"]
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_silog_loss_equals_golden_of_the_model(golden):
    tensors = golden.tensors("depth/golden.safetensors")
    loss = silog_loss(tensors["pred_d"], tensors["target"].unsqueeze(1))
    wanted = golden.json("depth/golden_train.json")["eval"]["loss"]["loss"]
    assert float(loss) == pytest.approx(wanted, rel=1e-5)


def test_silog_loss_equals_golden(golden):
    wanted = golden.json("procedures/depth.json")["silog_loss"]
    file = "procedures/depth_metrics.safetensors"
    pred, target = (golden.tensor(file, f"imagepath/{name}").float() for name in ("pred", "gt"))
    loss = silog_loss(pred, target, variance_focus=wanted["lambd"])
    assert float(loss) == pytest.approx(wanted["value"], rel=1e-5)


# Three pixels in a row, each of two pictures; of class 0, 1, ignored, and of 1, 1, 1.
PICTURES = torch.tensor([[[0.9, 0.3, 0.5], [0.1, 0.7, 0.5]], [[0.6, 0.2, 0.1], [0.4, 0.8, 0.9]]]).log()[:, :, None]
PICTURE_LABELS = torch.tensor([[[0, 1, 255]], [[1, 1, 1]]])


def picture_loss(**options):
    return float(segmentation_loss(PICTURES, PICTURE_LABELS, **options))


def test_class_weights_by_hand():
    own = [0.9, 0.7, 0.4, 0.8, 0.9]
    weights = [3.0, 0.5, 0.5, 0.5, 0.5]
    total = sum(-weight * math.log(p) for weight, p in zip(weights, own, strict=True))
    assert picture_loss(class_weights=(3.0, 0.5)) == pytest.approx(total / sum(weights), rel=1e-6)
    assert picture_loss(class_weights=(3.0, 0.5), count_ignored=True) == pytest.approx(total / 6.0, rel=1e-6)
    torch_s = torch.nn.functional.cross_entropy(
        PICTURES, PICTURE_LABELS, torch.tensor([3.0, 0.5]), ignore_index=255, reduction="mean"
    )
    assert picture_loss(class_weights=(3.0, 0.5)) == pytest.approx(float(torch_s), rel=1e-6)


def test_focal_by_hand():
    own = [0.9, 0.7, 0.4, 0.8, 0.9]
    total = sum(-((1 - p) ** 2) * math.log(p) for p in own)
    assert picture_loss(kind="focal") == pytest.approx(total / 5, rel=1e-5)
    assert picture_loss(kind="focal", count_ignored=True) == pytest.approx(total / 6, rel=1e-5)
    weighted = -(0.1**0.5) * math.log(0.9) * 3 - sum((1 - p) ** 0.5 * math.log(p) for p in own[1:])
    assert picture_loss(kind="focal", gamma=0.5, class_weights=(3.0, 1.0)) == pytest.approx(weighted / 7, rel=1e-5)
    assert picture_loss(kind="focal", gamma=0.0) == pytest.approx(picture_loss(), rel=1e-6)


def test_dice_by_hand():
    first = [1 - 2 * 0.9 / (0.9 + 0.3 + 1), 1 - 2 * 0.7 / (0.1 + 0.7 + 1)]  # of class 0 and 1
    second = 1 - 2 * 2.1 / (2.1 + 3)  # class 0 is not there
    assert picture_loss(kind="dice") == pytest.approx((sum(first) / 2 + second) / 2, rel=1e-6)
    weighted = (3 * first[0] + first[1]) / 4
    assert picture_loss(kind="dice", class_weights=(3.0, 1.0)) == pytest.approx((weighted + second) / 2, rel=1e-6)
    assert picture_loss(kind="dice", class_weights=(1.0, 0.0)) == pytest.approx(first[0], rel=1e-6)  # of one picture
    entropies = -math.log(0.9 * 0.7) / 2, -math.log(0.4 * 0.8 * 0.9) / 3
    both = sum(first) / 2 + second + sum(entropies)
    assert picture_loss(kind="cross_entropy_dice") == pytest.approx(both / 2, rel=1e-6)


KINDS = ["cross_entropy", "focal", "dice", "cross_entropy_dice"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("class_weights", [None, (1.0, 5.0, 0.0)], ids=["plain", "weighted"])
def test_losses_of_parts_add_up_and_have_gradients(kind, class_weights):
    draw = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(4, 3, 5, 6, generator=draw, dtype=torch.float64)).requires_grad_()
    classes = torch.randint(0, 3, (4, 5, 6), generator=draw)
    classes[0, :2], classes[3] = 255, 255
    options = {"kind": kind, "class_weights": class_weights, "gamma": 1.5}
    whole = segmentation_loss_sum(logits, classes, **options)
    parts = [segmentation_loss_sum(logits[part], classes[part], **options) for part in (slice(1), slice(1, 4))]
    for sums in zip(whole, *parts, strict=True):
        assert float(sums[0]) == pytest.approx(float(sum(sums[1:])), rel=1e-9)

    def loss(scores):
        return segmentation_loss(scores, classes, **options)

    assert torch.autograd.gradcheck(loss, [logits])
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    assert not gradient[0, :, :2].any() and not gradient[3].any()  # ignored


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_labelled_has_no_loss(kind):
    logits = torch.randn(1, 2, 2, 3, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((1, 2, 3), 255), kind=kind, gamma=0.5)
    loss.backward()
    assert float(loss) == 0 and not logits.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_shapes_are_refused_by_every_loss(kind):
    with pytest.raises(ValueError, match="Resize the logits"):
        segmentation_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 2, dtype=torch.int64), kind=kind)
