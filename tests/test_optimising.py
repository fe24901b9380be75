from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vpd
from tiny import CLASSES, TEXT_DIM
from vpd import DepthModel, ReferringModel, SegmentationModel, UsageError
from vpd.backbones.packed_layers import PackedConv2d, PackedLinear, can_pack, pack_layers
from vpd.config import LoraSettings
from vpd.optimising import fast_dtype, optimise
from vpd.tasks.model import PerceptionModel
from vpd.tensors import Features

IMAGE = np.random.default_rng(0).integers(0, 255, (70, 100, 3), dtype=np.uint8)
WORDS: dict[str, dict[str, Any]] = {"segment": {}, "refer": {"text": "the dog"}, "depth": {"scene": "kitchen"}}
on_cpus_that_have_it = pytest.mark.skipif(
    fast_dtype(torch.device("cpu")) != torch.bfloat16, reason="this CPU does not compute in bfloat16"
)


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path) -> dict[str, PerceptionModel]:
    torch.manual_seed(0)
    made: dict[str, PerceptionModel] = {
        "segment": SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=16),
        "open": SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head="open", head_channels=16),
        "refer": ReferringModel.from_diffusion(tiny_diffusion, head_channels=16),
        "depth": DepthModel.from_diffusion(
            tiny_diffusion, scenes=["kitchen", "office"], head_channels=16, feature_channels=32
        ),
    }
    for model in made.values():
        torch.nn.init.uniform_(model.adapter.gamma, 0.2, 0.6)  # it starts as next to nothing
        for parameter in model.backbone.unet.time_embedding.parameters():
            torch.nn.init.normal_(parameter)
        model.eval()
    return made


@pytest.fixture(params=["segment", "open", "refer", "depth"])
def model(request: pytest.FixtureRequest, models: dict[str, PerceptionModel]) -> PerceptionModel:
    return models[request.param]


@torch.no_grad()
def features(model: PerceptionModel, images: Tensor) -> Features:
    """Features of images, prompted as `predict` does."""
    if model.prepared_text is not None:
        padded, _ = model.padded(images.to(model.dtype))
        return model.backbone(padded, model.prepared_text.layers)
    own = model.constant_prompts()
    embeds = torch.randn(1, 5, TEXT_DIM, generator=torch.manual_seed(1)) if own is None else own
    padded, _ = model.padded(images.to(model.dtype))
    return model.backbone(padded, model.adapter(embeds.to(model.dtype)))


def errors(got: Features, wanted: Features) -> list[float]:
    """Relative L2 error of each map, by level, then of the attention."""
    pairs = [*zip(got.maps, wanted.maps, strict=True)]
    pairs += [(got.attention[stride], wanted.attention[stride]) for stride in wanted.attention]
    return [float((ours.float() - theirs).norm() / theirs.norm()) for ours, theirs in pairs]


def outcome(model: PerceptionModel, **options: Any) -> Tensor:
    """What `predict` gives as numbers."""
    prediction = model.predict(IMAGE, **WORDS[model.config.task], **options)
    if model.config.task == "segment":
        return model.predict(IMAGE, scores=True, **options).scores
    return prediction.probability if model.config.task == "refer" else prediction.depth_m


def images(height: int = 64, width: int = 96, number: int = 2) -> Tensor:
    return torch.rand(number, 3, height, width, generator=torch.manual_seed(2)) * 2 - 1


class TestInFloat32:
    def test_features_are_the_same(self, model: PerceptionModel) -> None:
        assert max(errors(features(optimise(model, dtype="float32"), images()), features(model, images()))) < 1e-5

    def test_predictions_are_the_same(self, model: PerceptionModel) -> None:
        torch.testing.assert_close(outcome(optimise(model, dtype="float32")), outcome(model), atol=2e-5, rtol=1e-5)

    def test_what_is_folded(self, models: dict[str, PerceptionModel]) -> None:
        fast = optimise(models["segment"], dtype="float32")
        assert fast.backbone.unet.time_embedding is None
        assert not [name for name, _ in fast.named_modules() if name.endswith("time_emb_proj")]
        assert fast.prepared_text is not None and len(fast.prepared_text.layers) == 16

    def test_low_rank_layers_are_merged(self, tiny_diffusion: Path) -> None:
        pytest.importorskip("peft")
        model = SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=16).eval()
        model.add_lora(LoraSettings(rank=2))
        for name, parameter in model.backbone.unet.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        fast = optimise(model, dtype="float32")
        assert fast.config.backbone.lora is None and not any("lora" in name for name, _ in fast.named_modules())
        assert max(errors(features(fast, images()), features(model, images()))) < 1e-5
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_double_precision_is_kept_where_asked_for(self, models: dict[str, PerceptionModel]) -> None:
        assert optimise(models["depth"], dtype="float64").dtype == torch.float64


@on_cpus_that_have_it
class TestInBfloat16:
    def test_it_is_chosen(self, model: PerceptionModel) -> None:
        assert optimise(model).dtype == torch.bfloat16

    def test_features(self, model: PerceptionModel) -> None:
        assert max(errors(features(optimise(model), images()), features(model, images()))) < 4e-2

    def test_latents(self, models: dict[str, PerceptionModel]) -> None:
        """The autoencoder alone, whose errors all else inherits."""
        model = models["depth"]
        ours, theirs = (m.backbone.encode(images().to(m.dtype)).float() for m in (optimise(model), model))
        assert (ours - theirs).norm() / theirs.norm() < 3e-2

    def test_prepared_keys_are_as_the_attention_kernel_wants_them(self, models: dict[str, PerceptionModel]) -> None:
        layers = optimise(models["segment"]).prepared_text.layers
        assert all(layer.key.is_contiguous() and layer.value.is_contiguous() for layer in layers)

    def test_predictions(self, model: PerceptionModel) -> None:
        ours, theirs = outcome(optimise(model)), outcome(model)
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() / theirs.norm() < 4e-2


class TestTheModelItIsMadeFrom:
    def test_it_is_not_changed(self, model: PerceptionModel) -> None:
        before = {key: (value.data_ptr(), value.clone()) for key, value in model.state_dict().items()}
        layers = {name: id(module) for name, module in model.named_modules()}
        fast = optimise(model, dtype="float32")
        outcome(fast)
        after = model.state_dict()
        assert {name: id(module) for name, module in model.named_modules()} == layers
        assert all(
            after[key].data_ptr() == place and torch.equal(after[key], was) for key, (place, was) in before.items()
        )

    def test_nothing_is_shared(self, model: PerceptionModel) -> None:
        fast = optimise(model, dtype="float32")
        ours = {value.untyped_storage().data_ptr() for value in (*fast.parameters(), *fast.buffers())}
        assert not ours & {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
        wanted = outcome(fast)
        with torch.no_grad():
            model.backbone.unet.conv_in.weight.mul_(2)
        try:
            assert torch.equal(outcome(fast), wanted)
        finally:
            with torch.no_grad():
                model.backbone.unet.conv_in.weight.div_(2)


class TestContract:
    def test_what_stays(self, model: PerceptionModel) -> None:
        fast = optimise(model)
        assert type(fast) is type(model) and not fast.training
        assert not any(parameter.requires_grad for parameter in fast.parameters())
        assert fast.config.model_copy(update={"backbone": model.config.backbone}) == model.config
        assert fast.backbone.channels == model.backbone.channels and fast.backbone.strides == model.backbone.strides
        batch = fast.predict([IMAGE, IMAGE[:40]], batch_size=2, **WORDS[model.config.task])
        assert [prediction.image.size for prediction in batch] == [(100, 70), (100, 40)]

    def test_other_classes(self, models: dict[str, PerceptionModel]) -> None:
        names = ["sky", "a boat"]
        ours, theirs = (
            m.predict(IMAGE, classes=names, scores=True) for m in (optimise(models["open"]), models["open"])
        )
        assert ours.classes == theirs.classes == tuple(names)
        assert (ours.scores - theirs.scores).norm() / theirs.scores.norm() < 4e-2
        own = optimise(models["segment"]).predict(IMAGE, classes=["tree"])
        assert own.classes == ("tree",) and own.labels.max() == 0

    def test_it_only_predicts(self, models: dict[str, PerceptionModel], tmp_path: Path) -> None:
        fast = optimise(models["segment"])
        for refused in (
            lambda: fast.save(tmp_path / "fast"),
            lambda: fast.add_lora(LoraSettings()),
            lambda: fast.with_classes(["sea"]),
        ):
            with pytest.raises(
                UsageError, match="only predicts. Save, train or change the model that it was made from"
            ):
                refused()
        assert not (tmp_path / "fast").exists()
        with pytest.raises(UsageError, match=r"was made by vpd.optimise already"):
            optimise(fast)

    @on_cpus_that_have_it
    def test_it_stays_where_it_is(self, models: dict[str, PerceptionModel]) -> None:
        with pytest.raises(UsageError, match="optimised for the processor and precision it is in. Move or convert"):
            optimise(models["depth"]).to(torch.float32)

    def test_what_is_unknown(self, models: dict[str, PerceptionModel]) -> None:
        with pytest.raises(UsageError, match="Unknown compile mode 'fastest'. Choose one of: default, reduce-overhead"):
            optimise(models["depth"], compile_mode="fastest")  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="Unknown dtype 'int8'"):
            optimise(models["depth"], dtype="int8")

    def test_public_name(self) -> None:
        assert vpd.optimise is optimise


def test_the_backbone_is_one_graph(models: dict[str, PerceptionModel]) -> None:
    """What `compile_mode` asks for can be had: nothing in a pass makes Python look at values."""
    fast = optimise(models["segment"], dtype="float64")  # in which nothing is packed
    graph = torch.compile(fast.backbone, backend="eager", fullgraph=True)
    with torch.no_grad():
        got = graph(images(64, 128).double(), fast.prepared_text.layers)
    wanted = features(fast, images(64, 128))
    for ours, theirs in zip(got.maps, wanted.maps, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.extras
def test_compiled(models: dict[str, PerceptionModel]) -> None:
    fast = optimise(models["depth"], dtype="float32", compile_mode="default")
    torch.testing.assert_close(outcome(fast), outcome(models["depth"]), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not can_pack(), reason="this torch has no packed layers")
class TestPacking:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"padding": 2, "dilation": 2, "bias": False}])
    @torch.no_grad()
    def test_convolution(self, dtype: torch.dtype, options: dict) -> None:
        conv = torch.nn.Conv2d(16, 32, 3, **options).to(dtype=dtype, memory_format=torch.channels_last)
        for shape in [(1, 16, 9, 11), (3, 16, 32, 5)]:
            hidden = torch.randn(shape).to(dtype)
            torch.testing.assert_close(PackedConv2d(conv)(hidden), conv(hidden))

    @torch.no_grad()
    def test_linear(self) -> None:
        linear = torch.nn.Linear(32, 48).bfloat16()
        hidden, factor = torch.randn(2, 7, 32).bfloat16(), torch.randn(2, 7, 48).bfloat16()
        packed, exact = PackedLinear(linear.weight, linear.bias), linear.float()(hidden.float())
        torch.testing.assert_close(packed(hidden).float(), exact, atol=1e-2, rtol=1e-2)
        torch.testing.assert_close(packed.times(hidden, factor).float(), exact * factor, atol=2e-2, rtol=2e-2)
        gated = PackedLinear(linear.weight.bfloat16(), linear.bias.bfloat16(), activation="gelu")
        torch.testing.assert_close(gated(hidden).float(), torch.nn.functional.gelu(exact), atol=1e-2, rtol=1e-2)

    def test_what_does_not_gain_is_left(self) -> None:
        few, grouped, mirrored = (
            torch.nn.Conv2d(3, 64, 3),
            torch.nn.Conv2d(32, 32, 3, groups=2),
            torch.nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"),
        )
        layers = torch.nn.Sequential(few, grouped, mirrored, torch.nn.Linear(32, 32), torch.nn.Conv2d(32, 32, 1))
        pack_layers(layers)
        assert list(layers)[:4] == [few, grouped, mirrored, layers[3]] and type(layers[3]) is torch.nn.Linear
        assert type(layers[4]) is PackedConv2d
