from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vpd.heads.cascade import CascadeHead
from vpd.heads.deconv import DeconvHead, _replicated
from vpd.heads.fpn import FPNHead
from vpd.heads.norms import build_norm
from vpd.heads.open_vocabulary import OpenVocabularyHead
from vpd.tensors import Features

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


@pytest.mark.parametrize(
    ("channels", "groups"), [(8, 1), (16, 2), (32, 4), (192, 24), (256, 32), (640, 32), (7, 1), (12, 1), (44, 4)]
)
def test_groups_have_eight_channels_at_least(channels: int, groups: int) -> None:
    norm = build_norm("group", channels)
    assert isinstance(norm, torch.nn.GroupNorm) and norm.num_groups == groups


def heads_of(norm: str) -> list[torch.nn.Module]:
    torch.manual_seed(0)
    small = {"channels": CHANNELS, "hidden_channels": 16, "norm": norm}
    return [
        FPNHead(out_channels=5, dropout=0.0, **small),
        CascadeHead(out_channels=5, **small),
        DeconvHead(
            channels=CHANNELS,
            strides=(8, 16, 32, 64),
            max_depth_m=7.0,
            feature_channels=32,
            deconv_channels=(8, 8, 8),
            head_channels=16,
            norm=norm,
        ),
        OpenVocabularyHead(attention_strides=(16, 32), text_dim=12, dropout=0.0, embed_dim=16, **small),
    ]


def test_group_norm_makes_an_image_independent_of_its_batch() -> None:
    """In training mode, with the batch whole and cut in two; BatchNorm cannot."""
    maps, texts = maps_of(16, 16), torch.randn(2, 5, 12)
    attention = {s: torch.rand(2, 5, 16 * 8 // s, 16 * 8 // s).softmax(1) for s in (16, 32)}

    def run(head: torch.nn.Module, part: slice) -> torch.Tensor:
        if isinstance(head, OpenVocabularyHead):
            cut = {stride: values[part] for stride, values in attention.items()}
            return head(Features(tuple(m[part] for m in maps), (8, 16, 32, 64), cut), texts[part])
        return head(tuple(m[part] for m in maps))

    for norm, is_equal in (("group", True), ("batch", False)):
        for head in heads_of(norm):
            whole = run(head, slice(0, 2))
            cut = torch.cat([run(head, slice(0, 1)), run(head, slice(1, 2))])
            assert torch.allclose(cut, whole, atol=1e-5) == is_equal, (norm, type(head))


def test_names_of_weights_do_not_depend_on_the_norm() -> None:
    for batch, group in zip(heads_of("batch"), heads_of("group"), strict=True):
        assert dict(batch.named_parameters()).keys() == dict(group.named_parameters()).keys()
        assert not [name for name, _ in group.named_buffers()]
        assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in batch.modules())
        assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in group.modules())


@pytest.mark.parametrize("strides", [(8, 16, 32, 64), (4, 8, 16, 32)])
def test_depth_is_bounded_and_full_size(strides: tuple[int, ...]) -> None:
    head = DeconvHead(channels=CHANNELS, strides=strides, max_depth_m=7.0, feature_channels=32, head_channels=16).eval()
    depth = head(maps_of(16, 24))
    assert depth.shape == (2, 1, 16 * strides[0], 24 * strides[0])
    assert depth.min() > 0
    assert depth.max() < 7


def depth_head(**options) -> DeconvHead:
    torch.manual_seed(0)
    small = {"max_depth_m": 7.0, "feature_channels": 32, "deconv_channels": (8, 8, 8), "head_channels": 16}
    return DeconvHead(**{"channels": CHANNELS, "strides": (8, 16, 32, 64), **small, **options}).eval()


@pytest.mark.parametrize("deconv_channels", [(8,) * count for count in (1, 2, 3, 4, 5)])
def test_replicated_borders_leave_no_frame(deconv_channels: tuple[int, ...]) -> None:
    """Features that are the same everywhere make depth that is the same everywhere; zeros at the border do not."""
    fused = torch.randn(1, 32, 1, 1).expand(1, 32, 3, 4)
    made = {}
    for padding in ("zeros", "replicate"):
        head = depth_head(padding=padding, deconv_channels=deconv_channels)
        for layer in head.deconvs[::3]:  # or each makes a pattern of its own of every pixel
            layer.weight.data[:] = layer.weight.data.mean(dim=(2, 3), keepdim=True)
        made[padding] = head.decode(fused)
    assert made["zeros"].shape == made["replicate"].shape == (1, 1, 96, 128)
    frames = {padding: float(depth_m.detach().max() - depth_m.detach().min()) for padding, depth_m in made.items()}
    assert frames["replicate"] < 1e-5 < 1e-3 < frames["zeros"], frames


def test_fine_maps_reach_the_depth_head_at_their_own_size_by_skips() -> None:
    maps = maps_of(16, 16)
    head, without = depth_head(has_skips=True), depth_head()
    fused = head.fused(maps)
    without.load_state_dict(head.state_dict(), strict=False)
    assert torch.equal(head(maps), without(maps))  # until it has learnt
    for parameter in head.skips.parameters():
        torch.nn.init.normal_(parameter)
    changed = [m.clone() for m in maps]
    changed[0][..., 5, 9] += 1
    seen = (head.decode(fused, tuple(changed)) - head.decode(fused, maps)).abs().sum(dim=(0, 1)) > 0
    rows, columns = (seen.any(dim=axis).nonzero() for axis in (1, 0))
    assert seen[40:48, 72:80].all() and rows.min() >= 28 and rows.max() < 60 and columns.min() >= 60
    assert torch.equal(without.decode(fused, tuple(changed)), without.decode(fused, maps))
    assert not [name for name, _ in without.named_parameters() if "skips" in name]


def test_logarithmic_depth_goes_from_a_hundredth_to_all_of_the_range() -> None:
    head = depth_head(scale="log")
    last = head.predictor[-1]
    for bias, metres in ((-50.0, 0.07), (0.0, 0.7), (50.0, 7.0)):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, bias)
        torch.testing.assert_close(head(maps_of(16, 16)), torch.full((2, 1, 128, 128), metres))


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


def test_gradients_of_a_replicated_border_are_those_of_torch_padding():
    maps = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    for by in (1, 2):
        weights = torch.randn(2, 3, 4 + 2 * by, 5 + 2 * by, dtype=torch.float64)
        ours, theirs = _replicated(maps, by), F.pad(maps, (by,) * 4, mode="replicate")
        assert torch.equal(ours, theirs)
        found, wanted = (torch.autograd.grad((padded * weights).sum(), maps)[0] for padded in (ours, theirs))
        torch.testing.assert_close(found, wanted)
