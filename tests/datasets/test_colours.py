"""Label pictures in colours, by the lists that tools write."""

import json

import numpy as np
import pytest
from exports import CLASSES, COLOURS, in_colours, labels_of, save, write_tree
from PIL import Image

from vpd.datasets.folders import FolderData
from vpd.errors import UsageError

LISTS = {
    "classes.json": json.dumps({"classes": CLASSES, "colours": list(COLOURS.values())}),
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\nmug:250,50,83::\nplate:51,221,255:a,b:\n",
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\nmug,250,50,83\nplate,51,221,255\n",
    "label_colors.txt": "0 0 0\tbackground\n250 50 83\tmug\n51 221 255\t\tplate\n",
    "classes.txt": "background 0 0 0\nmug 250 50 83\nplate 51 221 255\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_colours(name, tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels", colours=True)
    (tmp_path / name).write_text(LISTS[name])
    samples = FolderData(tmp_path, "train")
    assert samples.classes == CLASSES
    save(in_colours(labels_of(1), palette=True), tmp_path / "labels/train/im1.png")
    assert all(np.array_equal(samples[place].labels, labels_of(place)) for place in range(2))


@pytest.fixture
def root(tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels", colours=True)
    (tmp_path / "class_dict.csv").write_text(LISTS["class_dict.csv"])
    return tmp_path


def refusal(root):
    with pytest.raises(UsageError) as error:
        FolderData(root, "train")[0]
    return str(error.value)


def test_colours_must_be_exact(root):
    pixels = np.asarray(in_colours(labels_of(0))).copy()
    pixels[3, 5] = (250, 50, 84)
    save(Image.fromarray(pixels), root / "labels/train/im0.png")
    message = refusal(root)
    assert (
        "labels/train/im0.png: colour (250, 50, 84) at row 3, column 5 means no class; known: background (0, 0, 0)"
        in message
    )
    assert "Colours must be exact" in message


def test_pictures_without_colours(root):
    opaque = in_colours(labels_of(0)).convert("RGBA")
    save(opaque, root / "labels/train/im0.png")
    assert np.array_equal(FolderData(root, "train")[0].labels, labels_of(0))
    opaque.putalpha(99)
    save(opaque, root / "labels/train/im0.png")
    assert "must not be transparent" in refusal(root)
    save(Image.fromarray(labels_of(0).astype(np.uint16)), root / "labels/train/im0.png")
    assert "labels in colours need 8-bit RGB; this picture has one channel of 16 bits" in refusal(root)


def test_ignored_colours_and_classes(root):
    (root / "classes.json").write_text(
        '{"classes": ["background", "plate"], "colors": [[0, 0, 0], [51, 221, 255]], "ignore_colors": [[250, 50, 83]]}'
    )
    assert np.unique(FolderData(root, "train")[0].labels).tolist() == [0, 255]
    (root / "classes.json").unlink()
    assert np.unique(FolderData(root, "train", ignore_index=1)[0].labels).tolist() == [0, 255]


def test_black_and_white(root):
    (root / "class_dict.csv").write_text("name,r,g,b\nbackground,0,0,0\nobject,255,255,255\n")
    save(Image.fromarray((labels_of(0) > 0).astype(np.uint8) * 255), root / "labels/train/im0.png")
    assert np.array_equal(FolderData(root, "train")[0].labels, labels_of(0))
