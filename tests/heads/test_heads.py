from __future__ import annotations

import pytest
import torch

from vpd.heads.cascade import CascadeHead
from vpd.heads.deconv import DeconvHead
from vpd.heads.fpn import FPNHead
from vpd.heads.open_vocabulary import OpenVocabularyHead
from vpd.types import Features

CHANNELS = (16, 24, 24, 32)


def maps_of(height: int, width: int, channels=CHANNELS) -> tuple[torch.Tensor, ...]:
    sizes = [(-(-height // 2**level), -(-width // 2**level)) for level in range(4)]
    return tuple(torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True))


@pytest.mark.parametrize("size", [(16, 16), (7, 13), (1, 1), (12, 5)])
def test_outputs_are_as_large_as_the_finest_map(size: tuple[int, int]) -> None:
    for head in (
        FPNHead(channels=CHANNELS, out_channels=5, hidden_channels=8).eval(),
        CascadeHead(channels=CHANNELS, out_channels=5, hidden_channels=8).eval(),
    ):
        assert head(maps_of(*size)).shape == (2, 5, *size)


def test_fpn_has_one_one_two_three_convolutions() -> None:
    head = FPNHead(channels=CHANNELS, out_channels=5, hidden_channels=8)
    convolutions = [sum(hasattr(layer, "conv") for layer in tower) for tower in head.towers]
    assert convolutions == [1, 1, 2, 3]


@pytest.mark.parametrize("strides", [(8, 16, 32, 64), (4, 8, 16, 32)])
def test_depth_is_bounded_and_full_size(strides: tuple[int, ...]) -> None:
    head = DeconvHead(channels=CHANNELS, strides=strides, max_depth_m=7.0, feature_channels=32, head_channels=16).eval()
    depth = head(maps_of(16, 24))
    assert depth.shape == (2, 1, 16 * strides[0], 24 * strides[0])
    assert depth.min() > 0
    assert depth.max() < 7


def features_of(num_tokens: int) -> Features:
    maps = maps_of(16, 16)
    attention = {s: torch.rand(2, num_tokens, 16 * 8 // s, 16 * 8 // s).softmax(1) for s in (16, 32)}
    return Features(maps=maps, strides=(8, 16, 32, 64), attention=attention)


def test_open_head_treats_classes_alike() -> None:
    """Another order of the classes gives the same logits in that order; any number of classes runs."""
    torch.manual_seed(0)
    head = OpenVocabularyHead(
        channels=CHANNELS, attention_strides=(16, 32), text_dim=12, hidden_channels=8, embed_dim=16
    ).eval()
    head.attention_weights.data.fill_(0.5)
    features, texts = features_of(5), torch.randn(2, 5, 12)
    logits, order = head(features, texts), torch.tensor([3, 1, 4, 0, 2])
    shuffled = Features(features.maps, features.strides, {s: a[:, order] for s, a in features.attention.items()})
    torch.testing.assert_close(head(shuffled, texts[:, order]), logits[:, order])
    assert head(features_of(9), torch.randn(2, 9, 12)).shape == (2, 9, 16, 16)


def test_with_attention_concatenates_where_there_is_some() -> None:
    features = features_of(5)
    assert [m.shape[1] for m in features.with_attention()] == [16, 29, 29, 32]
    assert torch.equal(features.with_attention()[1][:, 24:], features.attention[16])
