"""The losses of depth that are not the published one, against values by hand."""

import math

import pytest
import torch

from vpd.tasks.depth_losses import depth_loss_sum, gradient_errors
from vpd.tasks.losses import mean_loss, silog_loss_sum


def logs(*rows, requires_grad=False):
    """Depth of such natural logarithms, `(1, 1, H, W)`."""
    return torch.tensor(rows).exp()[None, None].requires_grad_(requires_grad)


def gradient_of(log_diff, measured=None, over="image"):
    measured = torch.ones_like(log_diff, dtype=torch.bool) if measured is None else measured
    return gradient_errors(log_diff, measured, over=over)


def test_log_l1_by_hand():
    target = logs([1.0, 0.0, 2.0])
    target[..., 2] = 0  # not measured
    loss = mean_loss(*depth_loss_sum(logs([0.5, 1.5, 7.0]), target, over="image", pixels="log_l1"))
    assert float(loss) == pytest.approx((0.5 + 1.5) / 2)


def test_gradient_by_hand():
    """Steps of 1 and 2 to the right over 3 pixels; at the second scale one step of 3 over 2."""
    assert gradient_of(torch.tensor([[[[0.0, 1.0, 3.0]]]])).tolist() == pytest.approx([3 / 3 + 3 / 2])
    assert gradient_of(torch.tensor([[[[0.0], [1.0], [3.0]]]])).tolist() == pytest.approx([3 / 3 + 3 / 2])


def test_gradient_counts_between_measured_pixels_only():
    measured = torch.tensor([[[[True, False, True, True]]]])
    log_diff = torch.tensor([[[[0.0, 0.0, 5.0, 7.0]]]])
    assert gradient_of(log_diff, measured).tolist() == pytest.approx([2 / 3 + 5 / 2])


def test_gradient_knows_no_scale_of_depth_and_punishes_a_blurred_edge():
    sharp, blurred = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    blurred[..., 3], blurred[..., 4] = 0.3, -0.3
    assert float(gradient_of(sharp + 0.7)) == 0 < float(gradient_of(blurred))


@pytest.mark.parametrize("over", ["batch", "image"])
@pytest.mark.parametrize("pixels", ["silog", "log_l1"])
def test_total_is_pixels_and_weighted_gradient(over, pixels):
    torch.manual_seed(0)
    pred, target = torch.rand(3, 1, 9, 7) + 0.5, torch.rand(3, 1, 9, 7) + 0.5
    target[1] = 0
    options = {"over": over, "pixels": pixels}
    (plain, weight), (total, same) = (
        depth_loss_sum(pred, target, **options, gradient_weight=share) for share in (0.0, 0.5)
    )
    assert weight == same == (2 if over == "image" else 1)
    log_diff = torch.where(target > 0, target / pred, 1).log()
    torch.testing.assert_close(total - plain, 0.5 * gradient_errors(log_diff, target > 0, over=over).sum())
    if pixels == "silog":
        assert plain == silog_loss_sum(pred, target, over=over)[0]


def test_images_may_be_summed_apart():
    torch.manual_seed(1)
    pred, target = torch.rand(4, 1, 8, 8) + 0.5, torch.rand(4, 1, 8, 8) + 0.5
    options = {"over": "image", "pixels": "log_l1", "gradient_weight": 0.5}
    whole = depth_loss_sum(pred, target, **options)
    parts = [depth_loss_sum(pred[part], target[part], **options) for part in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(whole[0], parts[0][0] + parts[1][0])
    assert whole[1] == parts[0][1] + parts[1][1]


@pytest.mark.parametrize("over", ["batch", "image"])
def test_nothing_measured_is_no_loss_and_no_gradient(over):
    pred = logs([0.0, 1.0], [2.0, 3.0], requires_grad=True)
    total, weight = depth_loss_sum(pred, torch.zeros(1, 1, 2, 2), over=over, pixels="log_l1", gradient_weight=0.5)
    mean_loss(total, weight).backward()
    assert float(total.detach()) == 0 and pred.grad.abs().sum() == 0


def test_nan_shows_and_shapes_must_agree():
    pred = torch.full((1, 1, 2, 2), math.nan)
    options = {"over": "image", "pixels": "log_l1", "gradient_weight": 1.0}
    assert depth_loss_sum(pred, torch.ones(1, 1, 2, 2), **options)[0].isnan()
    with pytest.raises(ValueError, match="must have the same shape"):
        depth_loss_sum(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 3), **options)
