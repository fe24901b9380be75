from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vpd
from tiny import CLASSES
from vpd import DepthModel, ReferringModel, SegmentationModel, UsageError
from vpd.config import DepthConfig, Resize
from vpd.tasks.depth import MEAN_SCENE
from vpd.tensors import Batch

SMALL = Resize(size_px=64, max_long_px=256)
SIZES = [(375, 500), (1242, 375), (97, 1000), (1, 1)]


@pytest.fixture(scope="module")
def segmenter(tiny_diffusion: Path) -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, fit=SMALL, head_channels=8)


@pytest.fixture(scope="module")
def open_segmenter(tiny_diffusion: Path) -> SegmentationModel:
    torch.manual_seed(0)
    return SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, fit=SMALL, head="open", head_channels=8)


@pytest.fixture(scope="module")
def referrer(tiny_diffusion: Path) -> ReferringModel:
    torch.manual_seed(0)
    fit = Resize(mode="squash", size_px=64)
    return ReferringModel.from_diffusion(tiny_diffusion, fit=fit, head_channels=8, token_length=12)


@pytest.fixture(scope="module")
def depther(tiny_diffusion: Path) -> DepthModel:
    torch.manual_seed(0)
    fit = Resize(size_px=64, max_long_px=256, window_px=64, stride_px=32, flip=True)
    return DepthModel.from_diffusion(
        tiny_diffusion, scenes=["kitchen", "dining_room"], fit=fit, head_channels=16, feature_channels=32
    )


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_predictions_have_the_size_of_the_image(size, segmenter, open_segmenter, referrer, depther) -> None:
    image = picture(*size)
    for model in (segmenter, open_segmenter):
        labels = model.predict(image).labels
        assert tuple(labels.shape) == size
        assert labels.dtype == torch.uint8
        assert labels.max() < len(CLASSES)
    mask = referrer.predict(image, text="the dog on the left")
    assert tuple(mask.mask.shape) == tuple(mask.probability.shape) == size
    depth = depther.predict(image)
    assert tuple(depth.depth_m.shape) == size
    assert (depth.depth_m > 0).all()
    assert (depth.depth_m < depth.max_depth_m).all()
    assert depth.scene == MEAN_SCENE


def test_what_goes_in_comes_out(tmp_path: Path, segmenter: SegmentationModel) -> None:
    """One in, one out; a list in, a list out; path, picture and array are the same image."""
    image = picture(40, 60)
    image.save(tmp_path / "image.png")
    one = segmenter.predict(image)
    several = segmenter.predict([image, np.array(image), tmp_path / "image.png", str(tmp_path / "image.png")])
    assert isinstance(several, list)
    assert all(torch.equal(one.labels, other.labels) for other in several)
    assert segmenter.predict([]) == []


def test_batches_do_not_mix(segmenter: SegmentationModel, referrer: ReferringModel, depther: DepthModel) -> None:
    images = [picture(40, 60, seed) for seed in range(3)] + [picture(30, 30, 9)]
    texts = ["a dog", "a cat", "the sky", "a red car on the right"]
    for model, options in ((segmenter, {"scores": True}), (referrer, {"text": texts}), (depther, {})):
        one_by_one = model.predict(images, **options)
        together = model.predict(images, batch_size=4, **options)
        for one, other in zip(one_by_one, together, strict=True):
            values = [
                getattr(p, {"segment": "scores", "refer": "probability", "depth": "depth_m"}[model.config.task])
                for p in (one, other)
            ]
            torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=1e-4)


def test_scores_are_probabilities(segmenter: SegmentationModel) -> None:
    prediction = segmenter.predict(picture(50, 70), scores=True)
    assert prediction.scores is not None
    assert tuple(prediction.scores.shape) == (len(CLASSES), 50, 70)
    torch.testing.assert_close(prediction.scores.sum(0), torch.ones(50, 70))
    assert torch.equal(prediction.scores.argmax(0).to(torch.uint8), prediction.labels)


def test_windows_of_a_big_picture_in_its_own_size(segmenter: SegmentationModel) -> None:
    """Native windows: labels per strip equal the argmax of all logits at once."""
    model = segmenter
    config = model.config
    model.config = config.model_copy(update={"fit": Resize(mode="native", window_px=64, stride_px=48)})
    image = picture(150, 200)
    with_scores, by_strips = model.predict(image, scores=True), model.predict(image)
    model.config = config
    assert torch.equal(with_scores.labels, by_strips.labels)


def test_size_option(segmenter: SegmentationModel) -> None:
    seen = []
    first = segmenter.backbone.vae.encoder.conv_in
    hook = first.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape))
    segmenter.predict(picture(100, 200), size=128)
    hook.remove()
    assert tuple(seen[0][-2:]) == (128, 256)


def test_mode_is_put_back(segmenter: SegmentationModel) -> None:
    segmenter.train()
    segmenter.predict(picture(8, 8))
    assert segmenter.training
    with pytest.raises(UsageError):
        segmenter.predict("no-such-file.png")
    assert segmenter.training
    segmenter.eval()


def test_save_and_load_are_bit_equal(tmp_path: Path, segmenter, open_segmenter, referrer, depther) -> None:
    image = picture(60, 80)
    for name, model, options in (
        ("segment", segmenter, {}),
        ("open", open_segmenter, {}),
        ("refer", referrer, {"text": "a dog"}),
        ("depth", depther, {"scene": "kitchen"}),
    ):
        model.eval().save(tmp_path / name)
        loaded = vpd.load(tmp_path / name, device="cpu")
        assert loaded.config == model.config
        mine = model.state_dict()
        assert all(torch.equal(value, mine[key]) for key, value in loaded.state_dict().items())
        assert set(loaded.state_dict()) == set(mine)
        first, second = (m.predict(image, **options) for m in (model, loaded))
        for field in ("labels", "probability", "depth_m"):
            if hasattr(first, field):
                assert torch.equal(getattr(first, field), getattr(second, field))
        assert not any(p.requires_grad for p in loaded.backbone.vae.parameters())
        assert any(p.requires_grad for p in loaded.backbone.unet.parameters())


def test_prediction_needs_no_text_encoder(segmenter: SegmentationModel, depther: DepthModel) -> None:
    assert segmenter.text_encoder is None
    assert depther.text_encoder is None
    rows = segmenter.class_embeddings
    assert not torch.allclose(rows[0], rows[1])
    assert not torch.allclose(depther.scene_embeddings[0], depther.scene_embeddings[1])


def test_classes_of_a_fixed_head(segmenter: SegmentationModel) -> None:
    prediction = segmenter.predict(picture(40, 40), classes=["tree", "sky"], scores=True)
    assert prediction.classes == ("tree", "sky")
    full = segmenter.predict(picture(40, 40), scores=True)
    wanted = torch.stack([full.scores[2], full.scores[0]])  # type: ignore[index]
    torch.testing.assert_close(prediction.scores, wanted / wanted.sum(0), atol=1e-5, rtol=1e-4)
    with pytest.raises(UsageError, match="cannot predict zebra.*sky, road, tree"):
        segmenter.predict(picture(8, 8), classes=["sky", "zebra"])


def test_any_classes_with_the_open_head(open_segmenter: SegmentationModel, tmp_path: Path) -> None:
    prediction = open_segmenter.predict(picture(40, 40), classes=["zebra", "grass", "sky", "giraffe"])
    assert prediction.classes == ("zebra", "grass", "sky", "giraffe")
    assert prediction.labels.max() < 4
    open_segmenter.save(tmp_path / "model")
    import shutil

    shutil.rmtree(tmp_path / "model" / "text_encoder")
    with pytest.raises(UsageError, match="saved without text encoder"):
        vpd.load(tmp_path / "model").predict(picture(8, 8), classes=["zebra"])


@pytest.mark.parametrize("names", [[], ["sky", "sky"], ["sky", " "]])
def test_class_names_are_checked(tiny_diffusion: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match="Names must be given"):
        SegmentationModel.from_diffusion(tiny_diffusion, classes=names)


def batch_of(size: int = 64) -> Batch:
    torch.manual_seed(1)
    return Batch(
        images=torch.rand(2, 3, size, size) * 2 - 1,
        names=["a", "b"],
        labels=torch.randint(0, 3, (2, size, size)),
        masks=torch.randint(0, 2, (2, size, size)),
        depth_m=torch.rand(2, 1, size, size) * 8,
        texts=["a dog", "the cat"],
        scenes=["kitchen", None],
    )


def test_a_few_steps_lower_the_loss(segmenter, open_segmenter, referrer, depther) -> None:
    from copy import deepcopy

    for original in (segmenter, open_segmenter, referrer, depther):
        model = deepcopy(original).train()
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
        losses = []
        for _ in range(8):
            optimiser.zero_grad()
            loss = model.loss(batch_of())
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0], type(model).__name__
        assert all(p.grad is None for p in model.backbone.vae.parameters())


def test_loss_is_the_total_over_the_weight(segmenter, referrer, depther) -> None:
    batch = batch_of()
    batch.labels[0, :32] = 255
    batch.depth_m[1] = 0
    for model, weight in ((segmenter, 64 * 64 * 1.5), (referrer, None), (depther, 1)):
        with torch.no_grad():
            total, counted = model.eval().loss_sum(batch)
            loss = model.loss(batch)
        assert total.ndim == counted.ndim == 0
        assert float(loss) == pytest.approx(float(total / counted))
        assert weight is None or float(counted) == weight


def test_losses_say_what_is_missing(segmenter, referrer, depther) -> None:
    bare = Batch(images=torch.zeros(1, 3, 64, 64), names=["a"])
    for model, message in ((segmenter, "label images"), (referrer, "masks with expressions"), (depther, "depth maps")):
        with pytest.raises(UsageError, match=message):
            model.loss(bare)


def test_requests_that_do_not_fit(referrer: ReferringModel, depther: DepthModel) -> None:
    images = [picture(8, 8), picture(8, 8)]
    with pytest.raises(UsageError, match="2 images but 1 expressions"):
        referrer.predict(images, text=["a dog"])
    with pytest.raises(UsageError, match="must say something"):
        referrer.predict(images[0], text="  ")
    with pytest.raises(UsageError, match="2 images but 1 scenes"):
        depther.predict(images, scene=["kitchen"])
    with pytest.raises(UsageError, match="does not know the scene 'beach'.*kitchen, dining_room"):
        depther.predict(images[0], scene="beach")
    without = ReferringModel(referrer.config, backbone=referrer.backbone)
    with pytest.raises(UsageError, match="Convert it again with --diffusion"):
        without.predict(images[0], text="a dog")


def test_recipes_differ_as_documented(tiny_diffusion: Path) -> None:
    reference = SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, recipe="reference", head_channels=8)
    default = SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=8)
    assert (reference.config.backbone.latent_scaling, default.config.backbone.latent_scaling) == ("none", "scaled")
    assert (reference.config.backbone.detach_maps, default.config.backbone.detach_maps) == (True, False)
    scales = (reference.config.backbone.map_scale, default.config.backbone.map_scale)
    assert scales == ("probability", "log_ratio")
    assert (reference.config.count_ignored, default.config.count_ignored) == (True, False)
    small = {"scenes": ["kitchen"], "head_channels": 16, "feature_channels": 32}
    depth = [DepthModel.from_diffusion(tiny_diffusion, recipe=recipe, **small) for recipe in ("reference", "default")]
    assert [model.config.loss_over for model in depth] == ["batch", "image"]
    assert not torch.allclose(reference.class_embeddings, default.class_embeddings)  # one template against 80


def test_depth_takes_what_helps_by_default_and_what_was_published_by_the_reference(tiny_diffusion: Path) -> None:
    made = {
        recipe: DepthModel.from_diffusion(tiny_diffusion, scenes=["kitchen"], recipe=recipe, feature_channels=32)
        for recipe in ("reference", "default")
    }
    told = made["reference"].config.model_dump(mode="json")
    assert not told.keys() & (DepthConfig.later - {"count_beyond"}) and "blend" not in told["fit"]
    assert made["reference"].head.margin == 0 and not list(made["reference"].head.skips)
    fit = made["default"].config.fit
    assert fit.blend and made["default"].head.margin > 0 and len(made["default"].head.skips) == 2
    assert DepthModel.training_fit("default", 480) == fit
    assert DepthModel.training_fit("reference", 480) == made["reference"].config.fit


@pytest.mark.parametrize("size", [(64, 64), (40, 96), (33, 70)])
def test_options_of_depth_train_at_any_size(tiny_diffusion: Path, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    options = {"head_skips": True, "depth_scale": "log", "pixel_loss": "log_l1", "gradient_loss": 0.5}
    small = {"scenes": ["kitchen"], "feature_channels": 32, "head_channels": 8}
    model = DepthModel.from_diffusion(tiny_diffusion, **small, **options)
    batch = Batch(images=torch.rand(2, 3, *size), names=["a", "b"], depth_m=torch.rand(2, 1, *size) + 1)
    first = model.loss(batch)
    first.backward()
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    optimiser = torch.optim.Adam(model.head.parameters(), lr=0.01)
    for _ in range(4):
        optimiser.zero_grad()
        model.loss(batch).backward()
        optimiser.step()
    assert model.loss(batch) < first
    plain = model.config.model_copy(update={"pixel_loss": None, "gradient_loss": None})
    model.config = plain
    assert model.loss(batch) != first


def test_more_classes_keep_what_was_learnt(segmenter: SegmentationModel, tiny_diffusion: Path) -> None:
    image = picture(40, 40)
    before = segmenter.predict(image, scores=True)
    changed = segmenter.with_classes(["tree", "zebra", "sky", "road"], diffusion=tiny_diffusion)
    assert changed.config.classes == ("tree", "zebra", "sky", "road")
    torch.testing.assert_close(changed.class_embeddings[2], segmenter.class_embeddings[0])
    old, new = segmenter.head.classifier.weight, changed.head.classifier.weight
    assert torch.equal(new[0], old[2])
    width = segmenter.backbone.channels[1]
    lateral = changed.head.laterals[1].weight
    assert torch.equal(lateral[:, width + 3], segmenter.head.laterals[1].weight[:, width + 1])
    assert torch.equal(lateral[:, width + 1], torch.zeros_like(lateral[:, 0]))
    assert changed.predict(image).labels.shape == before.labels.shape
    fewer = segmenter.with_classes(["road", "sky"])
    assert fewer.predict(image).classes == ("road", "sky")


def test_new_classes_need_a_text_encoder(segmenter: SegmentationModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"New classes \(zebra\) need the text encoder.*no text encoder"):
        (tmp_path / "unet").mkdir()
        segmenter.with_classes(["zebra"], diffusion=tmp_path)


def test_a_model_in_one_line(segmenter: SegmentationModel, referrer: ReferringModel, depther: DepthModel) -> None:
    size = sum(weight.numel() for weight in segmenter.parameters()) / 1e6
    told = (
        f"SegmentationModel(3 classes: sky, road, tree; 64 px; from diffusion; {size:.1f} M parameters; float32 on cpu)"
    )
    assert repr(segmenter) == str(segmenter) == told
    assert repr(referrer).startswith("ReferringModel(expressions of up to 12 tokens; 64 px; ")
    assert repr(depther).startswith("DepthModel(up to 10 m; 2 scenes: kitchen, dining_room; 64 px; ")
    assert "conv_in" in repr(segmenter.backbone)
    assert "more" not in repr(segmenter.with_classes(["road", "sky"]))
