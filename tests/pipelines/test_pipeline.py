"""Pipelines answer in the shapes of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vpd
from vpd.config import Resize
from vpd.errors import UsageError

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    fit = Resize(size_px=64)
    small = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    classes = ("sky", "road", "tree")
    return {
        "segment": vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=classes, head_channels=8, fit=fit),
        "refer": vpd.ReferringModel.from_diffusion(
            tiny_diffusion, token_length=8, head_channels=8, fit=Resize(mode="squash", size_px=64)
        ),
        "depth": vpd.DepthModel.from_diffusion(tiny_diffusion, scenes=("kitchen",), fit=fit, **small),
    }


def test_segmentation(models: dict[str, Any]):
    pipe = vpd.pipeline("image-segmentation", models["segment"])
    answer = pipe(PHOTO)
    labels = models["segment"].predict(PHOTO).numpy()
    assert [set(part) for part in answer] == [{"score", "label", "mask"}] * len(np.unique(labels))
    for part in answer:
        assert part["score"] is None and (part["mask"].mode, part["mask"].size) == ("L", PHOTO.size)
        inside = labels == models["segment"].config.classes.index(part["label"])
        np.testing.assert_array_equal(np.asarray(part["mask"]), 255 * inside)
    several = pipe([PHOTO, PHOTO], batch_size=2)
    assert len(several) == 2 and [part["label"] for part in several[0]] == [part["label"] for part in answer]


def test_depth(models: dict[str, Any]):
    answer = vpd.pipeline("depth-estimation", models["depth"], scene="kitchen")(PHOTO)
    assert set(answer) == {"predicted_depth", "depth"}
    wanted = models["depth"].predict(PHOTO, scene="kitchen").depth_m
    assert torch.equal(answer["predicted_depth"], wanted)
    pixels = np.asarray(answer["depth"])
    assert answer["depth"].mode == "L" and (pixels.min(), pixels.max()) == (0, 255)


def test_one_depth_all_over(models: dict[str, Any]):
    pipe = vpd.pipeline("depth-estimation", models["depth"])
    flat = models["depth"].predict(PHOTO)
    flat.depth_m.fill_(3)
    assert not np.asarray(pipe.answer(flat)["depth"]).any()


def test_referring(models: dict[str, Any]):
    pipe = vpd.pipeline("referring-segmentation", models["refer"])
    (one,) = pipe(PHOTO, text="the sky")
    assert set(one) == {"score", "label", "mask"} and one["label"] == "the sky" and 0 <= one["score"] <= 1
    found = models["refer"].predict(PHOTO, text="the sky")
    np.testing.assert_array_equal(np.asarray(one["mask"]), 255 * found.numpy())
    several = pipe([PHOTO, PHOTO], text=["the sky", "a road"], threshold=0.4)
    assert [[part["label"] for part in answer] for answer in several] == [["the sky", "a road"]] * 2
    for wrong in ({}, {"text": []}):
        with pytest.raises(UsageError, match="needs words"):
            pipe(PHOTO, **wrong)


def test_several_texts_of_a_picture_that_can_be_read_once(models: dict[str, Any], tmp_path: Path):
    """An open file, turned by EXIF too, gives what its path gives."""
    exif = Image.Exif()
    exif[0x0112] = 6
    PHOTO.save(tmp_path / "photo.jpg", exif=exif)
    pipe, texts = vpd.pipeline("referring-segmentation", models["refer"]), ["the sky", "a road"]
    wanted = [pipe(tmp_path / "photo.jpg", text=text)[0] for text in texts]
    with (tmp_path / "photo.jpg").open("rb") as file:
        (found,) = pipe([file], text=texts)
    assert [part["label"] for part in found] == texts
    for one, other in zip(found, wanted, strict=True):
        assert one["mask"].size == PHOTO.size[::-1] and one["score"] == other["score"]
        np.testing.assert_array_equal(np.asarray(one["mask"]), np.asarray(other["mask"]))
    with pytest.raises(UsageError, match="none.jpg"):
        pipe([tmp_path / "photo.jpg", tmp_path / "none.jpg"], text=texts)


def test_wrong_requests(models: dict[str, Any]):
    with pytest.raises(UsageError, match="There is no pipeline 'segmentation'. Choose one of: image-segmentation"):
        vpd.pipeline("segmentation", models["segment"])
    with pytest.raises(UsageError, match="this one is for depth. Its pipeline is 'depth-estimation'"):
        vpd.pipeline("image-segmentation", models["depth"])
    with pytest.raises(UsageError, match="give a model folder or hub id"):
        vpd.pipeline("image-segmentation")


def shape_of(answer: Any) -> Any:
    """What an answer is made of."""
    if isinstance(answer, list):
        return [shape_of(answer[0])]
    if isinstance(answer, dict):
        return {name: shape_of(value) for name, value in answer.items()}
    if isinstance(answer, Image.Image):
        return (answer.mode, answer.size)
    return (answer.dtype, tuple(answer.shape)) if isinstance(answer, torch.Tensor) else type(answer)


def test_transformers_answers_alike(models: dict[str, Any]):
    """Its own pipelines, of tiny models of its own, on the same picture."""
    import transformers

    layers = {"depths": [1] * 4, "hidden_sizes": [8] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
    theirs = {
        "image-segmentation": transformers.pipeline(
            "image-segmentation",
            model=transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(num_labels=3, **layers)),
            image_processor=transformers.SegformerImageProcessorPil(size={"height": 32, "width": 32}),
        ),
        "depth-estimation": transformers.pipeline(
            "depth-estimation",
            model=transformers.GLPNForDepthEstimation(transformers.GLPNConfig(**layers)),
            image_processor=transformers.GLPNImageProcessorPil(),
        ),
    }
    for (name, pipe), task in zip(theirs.items(), ("segment", "depth"), strict=True):
        ours = vpd.pipeline(name, models[task])
        for inputs in (PHOTO, [PHOTO, PHOTO]):
            assert shape_of(ours(inputs)) == shape_of(pipe(inputs)), name
            assert len(ours(inputs)) == len(pipe(inputs)) or not isinstance(inputs, list)
