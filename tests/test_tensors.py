"""How attention enters a head."""

import pytest
import torch

from vpd.tensors import GAIN, Features, scale_attention


def test_even_attention_is_zero_whatever_the_number_of_tokens():
    for tokens in (1, 4, 77):
        even = torch.full((1, tokens, 2, 3), 1 / tokens)
        assert torch.allclose(scale_attention(even, "log_ratio"), torch.zeros(1, tokens, 2, 3), atol=1e-5)
        assert scale_attention(even, "probability") is even


def test_twice_the_share_is_the_same_step_everywhere():
    attention = torch.tensor([0.5, 0.25, 0.125, 0.125]).view(1, 4, 1, 1)
    first, second, third, _ = scale_attention(attention, "log_ratio").flatten().tolist()
    assert first - second == pytest.approx(second - third) == pytest.approx(GAIN * 0.6931, rel=1e-3)


def test_no_attention_is_finite_and_has_no_gradient():
    attention = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    scaled = scale_attention(attention, "log_ratio")
    scaled.sum().backward()
    assert scaled.isfinite().all() and attention.grad[0, 1] == 0 and attention.grad[0, 0] > 0


def test_only_strides_with_attention_get_it():
    maps = (torch.ones(1, 2, 4, 4), torch.ones(1, 3, 2, 2))
    features = Features(maps, (8, 16), {16: torch.full((1, 5, 2, 2), 0.4)})
    fine, coarse = features.with_attention("log_ratio")
    assert fine.shape == (1, 2, 4, 4) and coarse.shape == (1, 8, 2, 2)
    assert torch.allclose(coarse[:, 3:], torch.full((1, 5, 2, 2), GAIN * 0.6931), rtol=1e-3)
    assert torch.equal(features.with_attention()[1][:, 3:], features.attention[16])
