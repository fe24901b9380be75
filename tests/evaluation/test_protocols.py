"""How samples are predicted, counted and shown for each task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from hand_made import Samples
from vpd.config import Resize
from vpd.data.sample import Sample
from vpd.drawing.overlays import UNKNOWN_COLOUR
from vpd.errors import UsageError
from vpd.evaluation.protocols import Protocol, change_fit
from vpd.inference.resize import fit_image, fitted_size
from vpd.tasks.depth import DepthModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel

CLASSES = ("sky", "road", "tree")


def picture(height: int = 50, width: int = 70) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    fit, square = Resize(size_px=64), Resize(mode="squash", size_px=64)
    small = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    return {
        "segment": SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=8, fit=fit),
        "refer": ReferringModel.from_diffusion(tiny_diffusion, head_channels=8, token_length=8, fit=square),
        "depth": DepthModel.from_diffusion(tiny_diffusion, scenes=("kitchen",), fit=fit, **small),
    }


@torch.no_grad()
def test_scales_and_mirror_images_are_averaged_as_probabilities(segmenter: SegmentationModel):
    scales = (0.5, 1.0, 1.75)
    change_fit(segmenter, {"scales": scales, "flip": True})
    image = Image.fromarray(picture())
    segmenter.eval()
    probabilities = []
    for scale in scales:
        pixels = fit_image(image, segmenter.config.fit, scale)
        assert pixels.shape[-2] == 64 * scale
        for flipped in (False, True):
            logits = segmenter(pixels.flip(-1) if flipped else pixels)
            one = F.interpolate(logits, size=(50, 70), mode="bilinear", align_corners=False)[0].softmax(dim=0)
            probabilities.append(one.flip(-1) if flipped else one)
    wanted = torch.stack(probabilities).mean(dim=0)
    prediction = segmenter.predict(image, scores=True)
    torch.testing.assert_close(prediction.scores, wanted, atol=1e-5, rtol=0)
    assert torch.equal(prediction.labels, prediction.scores.argmax(dim=0).to(torch.uint8))
    assert torch.equal(segmenter.predict([image] * 2, batch_size=2)[1].labels, prediction.labels)


def test_one_scale_is_that_scale(segmenter: SegmentationModel):
    """0.75 times short side 64 is short side 48, whether a scale says so or the size."""
    image = Image.fromarray(picture())
    change_fit(segmenter, {"scales": [0.75]})
    scaled = segmenter.predict(image, scores=True).scores
    change_fit(segmenter, {"scales": [1.0], "size_px": 48})
    torch.testing.assert_close(scaled, segmenter.predict(image, scores=True).scores, atol=1e-5, rtol=0)


def test_scales_multiply_every_size_of_the_fit():
    assert fitted_size(Resize(), 375, 500, 1.75) == (896, 1195)
    assert fitted_size(Resize(max_long_px=1024), 100, 1000, 0.5) == (51, 512)
    assert fitted_size(Resize(mode="squash", size_px=64), 10, 99, 0.5) == (32, 32)
    assert fitted_size(Resize(mode="native"), 375, 500, 0.5) == (188, 250)
    assert fitted_size(Resize(mode="native"), 1, 1, 0.1) == (1, 1)


def test_windows_keep_their_side_at_every_scale(segmenter: SegmentationModel):
    sizes = []
    segmenter.register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape[-2:])))
    change_fit(segmenter, {"scales": [0.5, 2.0], "window_px": 64, "stride_px": 48})
    segmenter.predict(Image.fromarray(picture(64, 64)))
    assert sizes == [(32, 32)] + [(64, 64)] * 9  # 128 px in three rows and columns of windows


@pytest.mark.parametrize(("fit", "passes"), [({}, 1), ({"antialias": False}, 2), ({"mode": "resize_short"}, 2)])
def test_referring_runs_twice_only_where_the_pixels_differ(referrer: ReferringModel, fit: dict, passes: int):
    calls = []
    referrer.register_forward_hook(lambda *_: calls.append(1))
    change_fit(referrer, fit)
    mask = np.zeros((50, 70), bool)
    mask[10:30, 20:40] = True
    ((_, rows),) = Protocol(referrer, Samples()).measure([Sample("a", picture(), mask=mask, texts=("it",))])
    assert len(calls) == passes
    square = Image.fromarray(picture()).resize((64, 64), Image.Resampling.BILINEAR)
    wanted = referrer.predict(square, text="it").mask
    assert (
        rows["_squashed"][0] == (wanted & torch.from_numpy(np.array(Image.fromarray(mask).resize((64, 64), 0)))).sum()
    )
    assert rows[""][0] == (referrer.predict(picture(), text="it").mask & torch.from_numpy(mask)).sum()


def test_sentences_about_one_picture_share_its_latents(referrer: ReferringModel, monkeypatch: pytest.MonkeyPatch):
    encode, encoded = referrer.backbone.encode, []
    monkeypatch.setattr(referrer.backbone, "encode", lambda images: encoded.append(len(images)) or encode(images))
    mask = np.ones((50, 70), bool)
    samples = [Sample(text, picture(), mask=mask, texts=(text,)) for text in ("the sky", "the road", "a tree")]
    protocol = Protocol(referrer, Samples())
    rows = [row for some in (samples[:2], samples[2:]) for _, row in protocol.measure(some)]
    assert encoded == [1]
    for sample, row in zip(samples, rows, strict=True):
        assert row[""][0] == referrer.predict(sample.image, text=sample.texts[0]).mask.sum()


def test_samples_are_shown_with_what_their_colours_mean(segmenter, referrer, depth_model):
    labels = np.zeros((50, 70), np.uint8)
    labels[:5], labels[5:20] = 255, 1
    shown = Protocol(segmenter, Samples()).shown(Sample("a", picture(), labels=labels))
    assert shown.truth.size == shown.prediction.size == (70, 50)
    assert sum(shown.legend.values()) == 2 * 50 * 70
    assert {name for _, name in shown.legend} <= {*CLASSES, "no class"}
    assert shown.legend[(UNKNOWN_COLOUR, "no class")] == 5 * 70
    shown = Protocol(referrer, Samples()).shown(Sample("b", picture(), mask=labels == 1, texts=("the sky",)))
    assert shown.words == "“the sky”"
    depth_m = np.linspace(0, 5, 3500, dtype=np.float32).reshape(50, 70)
    shown = Protocol(depth_model, Samples()).shown(Sample("c", picture(), depth_m=depth_m, scene="kitchen"))
    assert shown.scale_m == pytest.approx((0.05, 4.95), abs=0.01)
    assert shown.legend == {(UNKNOWN_COLOUR, "not measured"): 1}


def test_a_fit_is_changed_by_known_keys_only(segmenter, referrer, depth_model):
    change_fit(segmenter, {"size_px": 96, "window_px": 64, "stride_px": 32})
    assert segmenter.config.fit == Resize(size_px=96, window_px=64, stride_px=32)
    with pytest.raises(UsageError, match=r"Unknown keys of the fit: sizes\. Known: mode, size_px, .*scales"):
        change_fit(segmenter, {"sizes": 3})
    for model, changes, problem in (
        (segmenter, {"scales": []}, "fit.scales: Tuple should have at least 1 item"),
        (segmenter, {"scales": [0]}, "fit.scales.0: Input should be greater than 0"),
        (segmenter, {"window_px": None}, "window_px and stride_px go together"),
        (referrer, {"flip": True}, "referring averages neither scales nor mirror images"),
        (referrer, {"scales": [1, 2]}, "referring averages neither scales"),
        (depth_model, {"scales": [1, 2]}, "depth does not average scales"),
    ):
        before = model.config
        with pytest.raises(UsageError, match="Images cannot be fitted by .*" + problem):
            change_fit(model, changes)
        assert model.config is before


def test_a_fit_says_what_it_does():
    fit = Resize(scales=(0.5, 1.25), window_px=512, stride_px=341, flip=True)
    assert fit.describe() == (
        "short side to 512 px, long side at most 2048 px, times 0.5, 1.25, in windows of 512 px every 341 px, "
        "averaged with the mirror image"
    )
    assert Resize(mode="squash", size_px=64).describe() == "squashed to 64x64 px"
    assert Resize(mode="native").describe() == "at their own size"
