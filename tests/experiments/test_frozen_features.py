import pytest
import torch

from experiments.frozen_features import FrozenBackbone
from tiny import TEXT_DIM, write_tiny_diffusion
from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.inference.cache import TensorCache


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_diffusion(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture
def backbone(folder):
    return FrozenBackbone.from_pretrained(folder)


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def texts():
    return torch.randn(3, 5, TEXT_DIM, generator=torch.Generator().manual_seed(1))


def test_features_are_those_of_a_plain_backbone(folder, backbone, images, texts):
    plain = StableDiffusionBackbone.from_pretrained(folder)
    with torch.no_grad():
        wanted = plain(images, texts)
    for _ in range(2):  # computed, kept
        features = backbone(images, texts)
        assert features.strides == wanted.strides
        assert list(features.attention) == sorted(wanted.attention)
        for ours, theirs in zip(features.with_attention(), wanted.with_attention(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_kept_rows_come_back_bit_equal_in_any_order_without_computing(backbone, images, texts):
    first = backbone(images, texts)
    computed = backbone.kept.misses
    order = [2, 0]
    again = backbone(images[order], texts[order])
    assert backbone.kept.misses == computed
    for before, after in zip(first.with_attention(), again.with_attention(), strict=True):
        assert torch.equal(before[order], after)


def test_another_text_is_another_pair(backbone, images, texts):
    one, other = backbone(images, texts), backbone(images, texts.flip(0))
    assert not torch.equal(one.maps[0][0], other.maps[0][0])
    assert torch.equal(one.maps[0][1], backbone(images, texts).maps[0][1])


def test_one_text_for_all_images(backbone, images, texts):
    shared = backbone(images, texts[:1])
    repeated = backbone(images, texts[:1].expand(3, -1, -1))
    assert torch.equal(shared.maps[0], repeated.maps[0])
    assert backbone.kept.misses == 3


def test_nothing_trains_and_no_gradient_flows(backbone, images, texts):
    texts.requires_grad_()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone(images, texts).maps[0].requires_grad


def test_latents_are_shared_through_a_cache(folder, backbone, images, texts):
    other = FrozenBackbone.from_pretrained(folder)
    other.kept_latents = backbone.kept_latents = TensorCache(2**20)
    backbone(images, texts)
    other(images, texts)
    assert backbone.kept_latents.misses == 3


def test_what_layers_made_of_a_text_is_refused(backbone, images, texts):
    with pytest.raises(TypeError, match="embeddings"):
        backbone(images, backbone.read_text(texts))
