"""Classes that may overlap: each asked for by itself, the first that fits is the label, and a pixel may have none."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vpd
from tiny import CLASSES
from vpd import SegmentationModel, UsageError
from vpd.config import Resize
from vpd.drawing.overlays import UNKNOWN_COLOUR, segmentation_picture
from vpd.tasks.loss_settings import LossSettings
from vpd.tasks.losses import overlapping_loss_sum
from vpd.tasks.overlapping import class_labels, class_probabilities, no_class
from vpd.tasks.predictions import SegmentationPrediction
from vpd.tensors import Batch

SMALL = Resize(size_px=64, max_long_px=256)
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=["open", "fpn"])
def model(request, tiny_diffusion: Path) -> SegmentationModel:
    torch.manual_seed(0)
    options = {"head": request.param, "head_channels": 8, "overlap": True}
    model = SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, fit=SMALL, **options)
    if request.param == "open":
        with torch.no_grad():  # so that attention counts
            model.head.attention_weights.fill_(0.1)
    return model.eval()


def batch_of() -> Batch:
    torch.manual_seed(1)
    labels = torch.randint(0, 3, (2, 64, 64))
    labels[0, :8] = 255
    return Batch(images=torch.rand(2, 3, 64, 64) * 2 - 1, names=["a", "b"], labels=labels)


def test_the_first_that_fits_is_the_label():
    probability = torch.tensor([[0.6, 0.4, 0.2, 0.5], [0.9, 0.7, 0.1, 0.5], [0.1, 0.8, 0.3, 0.2]])
    assert class_labels(probability, overlap=True).tolist() == [0, 1, 255, 255]
    assert class_labels(probability, overlap=None).tolist() == [1, 2, 2, 0]
    many = torch.zeros(300, 2)
    many[270, 1] = 0.9
    assert class_labels(many, overlap=True).tolist() == [65_535, 270]
    assert (no_class(255), no_class(256)) == (255, 65_535)
    assert class_probabilities(torch.zeros(4, 1), overlap=True).tolist() == [[0.5]] * 4
    assert class_probabilities(torch.zeros(4, 1), overlap=False).tolist() == [[0.25]] * 4


def test_each_class_has_a_probability_of_its_own(model: SegmentationModel):
    found = model.predict(PICTURE, scores=True)
    torch.testing.assert_close(class_labels(found.scores, overlap=True).to(torch.uint8), found.labels)
    assert (found.scores.sum(dim=0) - 1).abs().max() > 0.01
    logits = model.predict(PICTURE, classes=["tree", "sky"], scores=True)  # a selection changes no probability
    torch.testing.assert_close(logits.scores, found.scores[[2, 0]], atol=1e-5, rtol=1e-4)


def test_the_order_of_the_list_decides(tiny_diffusion: Path):
    torch.manual_seed(0)
    options = {"head": "open", "head_channels": 8, "overlap": True, "classes": CLASSES}
    model = SegmentationModel.from_diffusion(tiny_diffusion, fit=SMALL, **options)
    with torch.no_grad():
        model.head.bias.bias.fill_(9.0)  # everything fits everywhere
    for names in (["red things", "cubes"], ["cubes", "red things"]):
        found = model.predict(PICTURE, classes=names)
        assert found.facts()["classes"] == [{"label": 0, "name": names[0], "share": 1.0}]
        model.predict(PICTURE, classes=names, size=64)
    with torch.no_grad():
        model.head.bias.bias.fill_(-9.0)
    found = model.predict(PICTURE, classes=["red things", "cubes"])
    assert found.facts() == {"classes": [], "no_class": 1.0}
    assert set(found.labels.unique().tolist()) == {255}


def test_saved_models_stay_what_they_are(model: SegmentationModel, tiny_diffusion: Path, tmp_path: Path):
    model.save(tmp_path / "model")
    again = vpd.load(tmp_path / "model", device="cpu")
    assert again.config.overlap is True
    torch.testing.assert_close(again.predict(PICTURE, scores=True).scores, model.predict(PICTURE, scores=True).scores)
    plain = SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, fit=SMALL, head_channels=8)
    assert "overlap" not in plain.config.model_dump()


def test_it_learns_from_labels(model: SegmentationModel):
    learning = deepcopy(model).train()
    optimiser = torch.optim.AdamW([p for p in learning.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = learning.loss(batch_of())
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_loss_by_hand():
    logits = torch.zeros(2, 2, 1, 2)
    logits[0, 0, 0, 0] = 30.0  # sure, and right
    truth = torch.zeros(2, 2, 1, 2, dtype=torch.bool)
    truth[0, :, 0, 0] = True  # a pixel that fits both
    known = torch.tensor([[[True, True]], [[False, False]]])
    total, pictures = overlapping_loss_sum(logits, truth, known, kind="cross_entropy")
    assert float(pictures) == 1  # nothing is known of the other
    assert float(total) == pytest.approx(np.log(2) * 3 / 4)
    with_dice, _ = overlapping_loss_sum(logits, truth, known, kind="cross_entropy_dice")
    dice = (2 * 1 / (1.5 + 1), 2 * 0.5 / (1 + 1))
    assert float(with_dice - total) == pytest.approx(1 - np.mean(dice))


def test_what_the_loss_refuses(model: SegmentationModel):
    with pytest.raises(UsageError, match="loss.kind=focal: where classes overlap"):
        model.loss_sum(batch_of(), loss=LossSettings(kind="focal"))
    with pytest.raises(UsageError, match="classes that overlap all weigh the same"):
        model.loss_sum(batch_of(), loss=LossSettings(class_weights=(1.0, 2.0, 1.0)))
    strange = batch_of()
    strange.labels[1, 0, 0] = 3
    with pytest.raises(UsageError, match="a label is outside the 3 classes"):
        model.loss(strange)


def test_pixels_without_a_class_are_said_and_drawn():
    labels = torch.full((40, 56), 255, dtype=torch.uint8)
    labels[:10] = 1
    found = SegmentationPrediction(labels, ("cubes", "floor"), PICTURE)
    assert found.facts() == {"classes": [{"label": 1, "name": "floor", "share": 0.25}], "no_class": 0.75}
    picture = np.asarray(segmentation_picture(PICTURE, labels.numpy(), ("cubes", "floor")))
    legend = picture[40 * (256 // 56) :]
    assert (legend == UNKNOWN_COLOUR).all(axis=-1).any()
    assert found.to_coco()["annotations"][0]["category_id"] == 2
