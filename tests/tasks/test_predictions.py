import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from vpd.drawing.colours import depth_colours
from vpd.errors import UsageError
from vpd.tasks.predictions import DepthPrediction, MaskPrediction, SegmentationPrediction, read_shown_range


def photo(height: int, width: int) -> Image.Image:
    return Image.new("RGB", (width, height), (90, 120, 60))


def depth_prediction(depth_m: torch.Tensor, max_depth_m: float) -> DepthPrediction:
    return DepthPrediction(depth_m=depth_m, max_depth_m=max_depth_m, scene=None, image=photo(*depth_m.shape))


def test_labels_go_round_through_8_bits_with_their_names(tmp_path: Path):
    labels = torch.tensor([[0, 1, 2], [2, 2, 1]], dtype=torch.uint8)
    prediction = SegmentationPrediction(labels=labels, classes=("sky", "tree", "größe 木"), image=photo(2, 3))
    prediction.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "L"
        assert np.asarray(saved).tolist() == labels.tolist()
        assert json.loads(saved.info["classes"]) == ["sky", "tree", "größe 木"]
    assert prediction.facts()["classes"][0] == {"label": 2, "name": "größe 木", "share": 0.5}


@pytest.mark.parametrize(("num_classes", "mode"), [(255, "L"), (256, "I;16"), (1000, "I;16")])
def test_more_than_255_classes_take_16_bits(tmp_path: Path, num_classes: int, mode: str):
    labels = torch.tensor([[0, num_classes - 1]], dtype=torch.int32)
    classes = tuple(f"class {index}" for index in range(num_classes))
    SegmentationPrediction(labels=labels, classes=classes, image=photo(1, 2)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == mode
        assert np.asarray(saved).tolist() == labels.tolist()


def test_too_many_classes_for_a_png(tmp_path: Path):
    prediction = SegmentationPrediction(
        labels=torch.zeros(1, 1, dtype=torch.int32), classes=("same",) * 65536, image=photo(1, 1)
    )
    with pytest.raises(UsageError, match="65536 classes do not fit"):
        prediction.save(tmp_path / "a.png")


def test_mask_is_0_or_255_with_its_expression(tmp_path: Path):
    mask = torch.tensor([[False, True, True], [False, True, False]])
    prediction = MaskPrediction(mask=mask, probability=mask.float(), text="левая зебра", image=photo(2, 3))
    prediction.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert np.asarray(saved).tolist() == [[0, 255, 255], [0, 255, 0]]
        assert saved.info["text"] == "левая зебра"
    assert prediction.facts() == {"text": "левая зебра", "share": 0.5, "box": [1, 0, 3, 2]}


def test_an_empty_mask_has_no_box():
    mask = torch.zeros(2, 2, dtype=torch.bool)
    facts = MaskPrediction(mask=mask, probability=mask.float(), text="a dog", image=photo(2, 2)).facts()
    assert (facts["share"], facts["box"]) == (0, None)


@pytest.mark.parametrize(
    ("max_depth_m", "step_m"),
    [(10.0, 0.001), (65.0, 0.001), (80.0, 1 / 256), (255.0, 1 / 256), (300.0, 1 / 128), (1000.0, 1 / 64)],
)
def test_depth_goes_round_within_half_a_step(tmp_path: Path, max_depth_m: float, step_m: float):
    depth_m = torch.linspace(step_m, max_depth_m, 600).view(20, 30)
    prediction = depth_prediction(depth_m, max_depth_m)
    prediction.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "I;16"
        assert float(saved.info["metres_per_step"]) == step_m == prediction.facts()["metres_per_step"]
        again = np.asarray(saved).astype(np.float64) * step_m
    np.testing.assert_allclose(again, depth_m.numpy(), atol=0.51 * step_m, rtol=0)


def test_depth_in_millimetres_by_hand(tmp_path: Path):
    depth_prediction(torch.tensor([[0.0, 1.2344, torch.nan, 1e-6, 70.0]]), 10.0).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert np.asarray(saved).tolist() == [[0, 1234, 0, 1, 65535]]


def test_facts_of_depth_say_scale_range_and_scene():
    depth_m = torch.tensor([[1.5, 4.0]])
    told = DepthPrediction(depth_m=depth_m, max_depth_m=80.0, scene="kitchen", image=photo(1, 2))
    assert told.facts() == {
        "metres_per_step": 1 / 256,
        "max_depth_m": 80.0,
        "nearest_m": 1.5,
        "farthest_m": 4.0,
        "scene": "kitchen",
    }


def test_only_png_keeps_the_pixels(tmp_path: Path):
    with pytest.raises(UsageError, match=r"'a\.jpg' must end in \.png"):
        depth_prediction(torch.ones(1, 1), 10.0).save(tmp_path / "a.jpg")


@pytest.mark.parametrize("size", [(1, 1), (97, 300), (20, 30)])
def test_every_prediction_draws_itself(size: tuple[int, int]):
    labels = torch.zeros(size, dtype=torch.uint8)
    segmentation = SegmentationPrediction(labels=labels, classes=("sky",), image=photo(*size))
    mask = MaskPrediction(mask=labels > 0, probability=labels.float(), text="a dog", image=photo(*size))
    for prediction in (segmentation, mask, depth_prediction(labels.float() + 1, 10.0)):
        picture = prediction.overlay()
        assert picture.mode == "RGB"
        assert picture.width >= size[1]
        assert picture.height > size[0]


def test_a_prediction_in_one_line():
    labels = torch.tensor([[0, 1, 1, 1], [2, 3, 4, 5]], dtype=torch.uint8)
    told = SegmentationPrediction(labels=labels, classes=("sky", "tree", "a", "b", "c", "d"), image=photo(2, 4))
    assert repr(told) == "SegmentationPrediction(4x2 px: tree 38%, sky 12%, a 12%, b 12%, c 12%, 1 more)"
    mask = torch.tensor([[False, True, False, False]])
    found = MaskPrediction(mask=mask, probability=mask.float(), text="a dog", image=photo(1, 4), note="in windows")
    assert str(found) == "MaskPrediction(4x1 px: 'a dog', 25% of the picture; in windows)"
    none = MaskPrediction(mask=mask & False, probability=mask.float(), text="a dog", image=photo(1, 4))
    assert str(none) == "MaskPrediction(4x1 px: 'a dog', nothing found)"
    depth = DepthPrediction(depth_m=torch.tensor([[1.5, 4.0]]), max_depth_m=10.0, scene="kitchen", image=photo(1, 2))
    assert str(depth) == "DepthPrediction(2x1 px: 1.50 to 4.00 m, kitchen)"


def segmentation(*, scores: bool = False) -> SegmentationPrediction:
    labels = torch.tensor([[0, 2, 2], [2, 2, 0]], dtype=torch.uint8)
    probabilities = torch.full((3, 2, 3), 0.25)
    probabilities[2] = 0.5
    return SegmentationPrediction(labels, ("sky", "tree", "a cat"), photo(2, 3), probabilities if scores else None)


def test_arrays_and_pictures_are_what_is_saved(tmp_path: Path):
    mask = torch.tensor([[False, True, True], [False, True, False]])
    kinds = {
        "labels": segmentation(),
        "mask": MaskPrediction(mask=mask, probability=mask.float(), text="a dog", image=photo(2, 3)),
        "depth_m": depth_prediction(torch.tensor([[1.5, 0.0, 2.0]]), 10.0),
    }
    for field, prediction in kinds.items():
        np.testing.assert_array_equal(prediction.numpy(), getattr(prediction, field).numpy())
        prediction.save(tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as saved:
            assert saved.mode == prediction.to_pil().mode
            np.testing.assert_array_equal(np.asarray(saved), np.asarray(prediction.to_pil()))


def test_coco_reads_the_masks_back(tmp_path: Path):
    prediction = segmentation(scores=True)
    told = prediction.to_coco(file_name="a.jpg", image_id=7)
    assert told["images"] == [{"id": 7, "file_name": "a.jpg", "width": 3, "height": 2}]
    (tmp_path / "coco.json").write_text(json.dumps(told))
    data = COCO(str(tmp_path / "coco.json"))
    largest, other = data.loadAnns(data.getAnnIds(imgIds=[7]))
    assert [data.cats[each["category_id"]]["name"] for each in (largest, other)] == ["a cat", "sky"]
    np.testing.assert_array_equal(data.annToMask(largest) == 1, prediction.numpy() == 2)
    assert (largest["area"], largest["bbox"], largest["score"]) == (4, [0.0, 0.0, 3.0, 2.0], 0.5)
    assert "score" not in segmentation().to_coco()["annotations"][0]


def test_coco_of_an_expression():
    mask = torch.tensor([[False, True, True], [False, True, False]])
    found = MaskPrediction(mask=mask, probability=0.75 * mask.float(), text="a dog", image=photo(2, 3))
    told = found.to_coco()
    (annotation,) = told["annotations"]
    assert told["categories"] == [{"id": 1, "name": "a dog"}]
    assert (annotation["bbox"], annotation["score"]) == ([1.0, 0.0, 2.0, 2.0], 0.75)
    nothing = MaskPrediction(mask=mask & False, probability=mask.float(), text="a dog", image=photo(2, 3))
    assert nothing.to_coco()["annotations"] == []


def test_supervision_takes_the_masks():
    pytest.importorskip("supervision", reason="supervision is not installed: pip install supervision")
    found = segmentation(scores=True).to_supervision()
    assert found.class_id.tolist() == [2, 0] and found.data["class_name"].tolist() == ["a cat", "sky"]
    assert found.confidence.tolist() == [0.5, 0.25] and found.xyxy.shape == (2, 4)
    np.testing.assert_array_equal(found.mask[0], segmentation().numpy() == 2)
    assert segmentation().to_supervision().confidence is None
    mask = torch.zeros(2, 2, dtype=torch.bool)
    assert len(MaskPrediction(mask=mask, probability=mask.float(), text="a", image=photo(2, 2)).to_supervision()) == 0


@pytest.mark.parametrize(("package", "call"), [("supervision", "to_supervision"), ("matplotlib.figure", "plot")])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, package: str, call: str):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        UsageError, match=f"needs {package.partition('.')[0]} .*pip install {package.partition('.')[0]}"
    ):
        getattr(segmentation(), call)()


def test_figures_show_picture_and_prediction():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    mask = segmentation().labels > 0
    found = MaskPrediction(mask=mask, probability=mask.float(), text="a dog", image=photo(2, 3))
    for prediction, title in ((segmentation(), "a cat 67%, sky 33%"), (found, "“a dog”")):
        left, right = prediction.plot().axes
        assert right.get_title() == title and left.images and right.images
    depth = DepthPrediction(torch.tensor([[1.0, 2.0]]), 10.0, None, photo(1, 2), shown_m=(0.5, 4.0))
    assert depth.plot().axes[1].images[0].get_clim() == (0.5, 4.0)
    assert len(depth.plot().axes) == 3  # the scale


def test_depth_is_drawn_in_the_colours_that_were_asked_for():
    near, far = (
        DepthPrediction(torch.full((300, 300), depth_m), 10.0, None, photo(300, 300), shown_m=(0.0, 10.0)).overlay()
        for depth_m in (0.0001, 10.0)
    )
    assert near.getpixel((5, 5)) == tuple(depth_colours()[0]) and far.getpixel((5, 5)) == tuple(depth_colours()[-1])


def test_one_end_of_the_colours_suffices():
    assert read_shown_range(None, None, 10.0) is None
    assert read_shown_range(None, 4, 10.0) == (0.0, 4.0) and read_shown_range(1, None, 10.0) == (1.0, 10.0)
    for wrong in ((5, 5), (-1, 4), (math.nan, 4), ("a", 4), (12, None)):
        with pytest.raises(UsageError, match="Colours cannot go from near_m="):
            read_shown_range(*wrong, 10.0)
