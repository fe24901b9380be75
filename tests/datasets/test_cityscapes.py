import json

import numpy as np
import pytest
from PIL import Image

from data_layouts import write_cityscapes
from vpd.datasets.cityscapes import Cityscapes, cityscapes_classes
from vpd.errors import UsageError

AACHEN = "gtFine/train/aachen/aachen_000000_000019_gtFine"


@pytest.fixture
def root(tmp_path):
    return write_cityscapes(tmp_path / "cityscapes")


def test_label_ids_become_train_ids(root):
    train = Cityscapes(root, "train")
    assert [pair.name for pair in train.pairs] == [
        f"{city}_000000_{frame:06d}" for city in ("aachen", "bochum") for frame in (19, 20)
    ]
    labels, raw = train[0].labels, np.asarray(Image.open(root / f"{AACHEN}_labelIds.png"))
    assert labels is not None and labels.dtype == np.uint8 and labels.shape == (128, 256)
    for value in np.unique(raw):
        expected = train.label_values.index(value) if value in train.label_values else 255
        assert (labels[raw == value] == expected).all()
    assert (labels[:2] == 255).all()  # licence plate
    assert len(Cityscapes(root, "val")) == 2


def test_table_is_the_published_one(test_data):
    published = json.loads((test_data / "formats/cityscapes19.json").read_text())
    assert list(cityscapes_classes().items()) == [
        (entry["name"], entry["labelId"]) for entry in sorted(published, key=lambda entry: entry["trainId"])
    ]


def test_groups_are_sequences(root):
    train = Cityscapes(root, "train")
    assert [train[n].group for n in range(4)] == ["aachen_000000"] * 2 + ["bochum_000000"] * 2


def test_train_ids_are_read_where_label_ids_are_missing(root, grey):
    before = Cityscapes(root, "train")[0].labels
    grey(root / f"{AACHEN}_labelTrainIds.png", before)
    (root / f"{AACHEN}_labelIds.png").unlink()
    assert (Cityscapes(root, "train")[0].labels == before).all()
    grey(root / f"{AACHEN}_labelTrainIds.png", np.full((128, 256), 19, np.uint8))
    with pytest.raises(UsageError, match=r"labelTrainIds\.png: value 19 at row 0, column 0; there are 0\.\.18 and 255"):
        Cityscapes(root, "train")[0]


def refusal(root, split, **options):
    with pytest.raises(UsageError) as error:
        Cityscapes(root, split, **options)
    return str(error.value)


def test_wrong_requests(root, tmp_path):
    assert "the test labels of Cityscapes are dummies" in refusal(root, "test")
    assert "no split 'dev'; there are: train, val" in refusal(root, "dev")
    assert "no folder leftImg8bit/train/, which Cityscapes has" in refusal(tmp_path, "train")


def test_bad_labels(root, grey):
    train = Cityscapes(root, "train")
    wrong = np.zeros((128, 256), np.uint8)
    wrong[5, 6] = 34
    grey(root / f"{AACHEN}_labelIds.png", wrong)
    with pytest.raises(UsageError, match=r"labelIds\.png: value 34 at row 5, column 6; there are 0\.\.33 and 255"):
        train[0]
    grey(root / f"{AACHEN}_labelIds.png", np.zeros((64, 128), np.uint8))
    with pytest.raises(UsageError, match="label size 128x64 differs from the image's 256x128"):
        train[0]


def test_files_without_partner(root):
    (root / f"{AACHEN}_labelIds.png").unlink()
    (root / "leftImg8bit/train/bochum/bochum_000000_000020_leftImg8bit.png").unlink()
    message = refusal(root, "train")
    assert "aachen_000000_000019_leftImg8bit.png: no labels" in message
    assert "bochum_000000_000020_gtFine_labelIds.png: no image" in message
    assert len(Cityscapes(root, "train", unpaired="skip")) == 2
