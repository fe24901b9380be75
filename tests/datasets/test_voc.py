import numpy as np
import pytest
from exports import CLASSES, COLOURS, START, labels_of, save, write_cvat_masks, write_voc

from vpd.datasets.check import check_data
from vpd.datasets.layouts import detect_format, splits_of
from vpd.datasets.voc import VOC_CLASSES, VocData, voc_colours
from vpd.errors import UsageError


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        VocData(root, split, **options)
    return str(error.value)


@pytest.mark.parametrize("palette", [True, False])
def test_masks_of_cvat(palette, tmp_path):
    write_cvat_masks(tmp_path, palette=palette)
    assert detect_format(tmp_path) == "voc" and splits_of(tmp_path, "voc") == ["train"]
    samples = VocData(tmp_path, "train")
    assert samples.classes == CLASSES
    assert all(np.array_equal(samples[place].labels, labels_of(place)) for place in range(2))
    assert check_data("voc", tmp_path).problems == []


def test_voc_itself(tmp_path):
    write_voc(tmp_path)
    samples = VocData(tmp_path, "train")
    assert samples.classes == VOC_CLASSES and len(samples) == 2 and samples.unpaired == []
    labels = samples[0].labels
    assert (labels[START - 1, START] == 255) and labels[START, START] == 5 and labels[0, 0] == 0
    assert VocData(tmp_path, "train", classes=[f"c{n}" for n in range(21)]).classes[20] == "c20"
    (tmp_path / "classes.txt").write_text("\n".join(["background", *"abcde"]))
    assert VocData(tmp_path, "val").classes == ("background", *"abcde")


def test_voc_in_colours(tmp_path):
    """The published palette, its border's colour included."""
    assert voc_colours(21)[:3] == [(0, 0, 0), (128, 0, 0), (0, 128, 0)] and voc_colours(21)[20] == (0, 64, 128)
    write_voc(tmp_path)
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[2:4], pixels[4] = (192, 128, 128), (224, 224, 192)
    from PIL import Image

    save(Image.fromarray(pixels), tmp_path / "SegmentationClass/im0.png")
    labels = VocData(tmp_path, "train")[0].labels
    assert labels[:6, 0].tolist() == [0, 0, VOC_CLASSES.index("person"), VOC_CLASSES.index("person"), 255, 0]


def test_the_tree_of_labelme2voc(tmp_path):
    write_voc(tmp_path)
    (tmp_path / "SegmentationClass").rename(tmp_path / "SegmentationClassPNG")
    (tmp_path / "SegmentationClass").mkdir()
    (tmp_path / "class_names.txt").write_text("_background_\n" + "\n".join("abcdef"))
    samples = VocData(tmp_path, "train")
    assert samples.classes == ("background", *"abcdef") and samples[0].labels[START, START] == 5


def test_without_lists_what_has_labels_counts(tmp_path):
    write_voc(tmp_path)
    for path in (tmp_path / "ImageSets/Segmentation").iterdir():
        path.unlink()
    assert len(VocData(tmp_path, "train")) == 4
    (tmp_path / "JPEGImages/im0.jpg").unlink()
    assert "1 train samples lack a file. First: im0: no JPEGImages/im0.jpg" in refusal(tmp_path)
    assert len(VocData(tmp_path, "train", unpaired="skip")) == 3
    assert "no split 'val'; there are: train" in refusal(tmp_path, "val")


def test_the_colour_list_counts(tmp_path):
    write_cvat_masks(tmp_path)
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\nmug:250,50,83::\n")
    with pytest.raises(UsageError, match=r"im1\.png: colour \(51, 221, 255\) at row 10, column 10 means no class"):
        VocData(tmp_path, "train")[1]
    assert VocData(tmp_path, "train", classes=["a", "b"]).classes == ("a", "b")
    assert COLOURS["plate"] == (51, 221, 255)
