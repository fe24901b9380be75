from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vpd.datasets.check import check_data
from vpd.datasets.folders import DepthFolder
from vpd.datasets.layouts import detect_format, open_data, splits_of
from vpd.errors import UsageError

DEPTH_MM = np.full((6, 8), 1500, dtype=np.uint16)


@pytest.fixture
def root(tmp_path, picture, grey) -> Path:
    """Two training pairs in folders, one of them of a recording, and one for validation."""
    folder = tmp_path / "rooms"
    for split, name in (("train", "seq/1"), ("train", "2"), ("val", "1")):
        picture(folder / "images" / split / f"{name}.jpg")
        grey(folder / "depth" / split / f"{name}.png", DEPTH_MM)
    return folder


@pytest.fixture
def table(tmp_path, picture, grey) -> Path:
    """Two pairs in a table that a spreadsheet wrote."""
    folder = tmp_path / "table"
    for name in ("a", "b"):
        picture(folder / f"rgb/{name}.png")
        grey(folder / f"d/{name}.tif", DEPTH_MM)
    lines = ["image,depth,scene,group", 'rgb/a.png,d/a.tif,kitchen,room 1\r\n"rgb/b.png", d/b.tif,,\r\n']
    (folder / "train.csv").write_text("\r\n".join(lines), encoding="utf-8-sig")
    return folder


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        DepthFolder(root, split, **options)
    return str(error.value)


def test_pairs_of_folders(root):
    samples = DepthFolder(root, "train")
    assert [(samples[place].name, samples[place].group) for place in range(2)] == [("2", None), ("seq/1", "seq")]
    assert (samples[0].depth_m == 1.5).all() and samples[0].scene is None
    assert samples.scenes == ("scene",), "one prompt for all, so that a model can be made"
    for name in ("odd.csv", "odd.jsonl"):
        (root / name).mkdir()
    assert splits_of(root, "depth_folder") == ["train", "val"] and detect_format(root, "depth") == "depth_folder"


def test_scale_and_range(root):
    samples = DepthFolder(root, "train", depth_scale=256, max_depth_m=5.0)
    assert samples.counted.max_depth_m == 5.0
    assert (samples[0].depth_m == 0).all(), "1500 / 256 = 5.9 m lies beyond the range"
    assert DepthFolder(root, "train", depth_scale=256)[0].depth_m[0, 0] == pytest.approx(1500 / 256)
    assert "depth_scale=0; it must be a number above 0" in refusal(root, depth_scale=0)


def test_numpy_files_hold_metres(root):
    (root / "depth/val/1.png").unlink()
    np.save(root / "depth/val/1.npy", np.full((6, 8), 2.25, dtype=np.float32))
    assert (DepthFolder(root, "val")[0].depth_m == 2.25).all()


def test_list_of_names(root):
    (root / "train.txt").write_text("2\n")
    assert len(DepthFolder(root, "train")) == 1


def test_wrong_folders(root, grey, picture, tmp_path):
    assert "no split 'dev'; there are: train, val" in refusal(root, "dev")
    assert "no folder images/ with a folder depth/; looked for depth, depths, " in refusal(tmp_path)
    picture(root / "images/val/lone.jpg")
    grey(root / "depth/val/orphan.png", DEPTH_MM)
    message = refusal(root, "val")
    assert "2 val samples lack a file. First: " in message
    assert "orphan: no images/val/orphan.png (or .jpg, .jpeg, " in message
    assert "lone: no depth/val/lone.png (or .tif, .tiff, .npy, .npz, .exr)" in message
    assert "set unpaired=skip" in message
    skipping = DepthFolder(root, "val", unpaired="skip")
    assert len(skipping) == 1 and len(skipping.unpaired) == 2
    for kind in ("images", "depth"):
        for path in (root / kind / "val").iterdir():
            path.unlink()
    assert "the val split has no sample with all its files" in refusal(root, "val")


def test_files_that_are_no_depth(root, grey):
    grey(root / "depth/val/1.png", np.zeros((6, 8), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"val/1\.png: depth needs one channel of 16 bits .* channel of 8 bits"):
        DepthFolder(root, "val")[0]
    grey(root / "depth/val/1.png", np.zeros((6, 7), dtype=np.uint16))
    with pytest.raises(UsageError, match=r"1\.png: depth size 7x6 differs from the image's 8x6 \(.*1\.jpg\)"):
        DepthFolder(root, "val")[0]


def test_table(table):
    samples = DepthFolder(table, "train")
    assert [samples[place].name for place in range(2)] == ["rgb/a", "rgb/b"]
    assert [samples[place].scene for place in range(2)] == ["kitchen", None]
    assert [samples[place].group for place in range(2)] == ["room 1", None]
    assert samples.scenes == ("kitchen",) and (samples[1].depth_m == 1.5).all()
    assert splits_of(table, "depth_folder") == ["train"] and detect_format(table) == "depth_folder"
    assert "no split 'val'; there are: train" in refusal(table, "val")


def test_a_table_goes_before_folders_of_its_name(root):
    (root / "train.csv").write_text("image,depth\nimages/val/1.jpg,depth/val/1.png\n")
    assert [pair.name for pair in DepthFolder(root, "train").pairs] == ["images/val/1"]
    assert splits_of(root, "depth_folder") == ["train", "val"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: the first line must name the columns, each once: image,depth"),
        ("rgb/a.png,d/a.tif\n", r"line 1: the first line must name the columns.* It is: rgb/a\.png,d/a\.tif"),
        (
            "photo;depth\nrgb/a.png;d/a.tif\n",
            "It is: photo;depth. Known for the picture: image, .*option.* image_column",
        ),
        ("image,depth,image\n", "It is: image,depth,image"),
        ("image,depth\n", "the table has no line below its first; the train split is empty"),
        ("image,depth\nrgb/a.png\n", "line 2: 1 values for the 2 columns image,depth"),
        ("image,depth\n\nrgb/a.png,d/a.tif,x\n", "line 3: 3 values for the 2 columns"),
        ("image,depth\nrgb/a.png,\n", "line 2: '' is no path"),
        ("image,depth\n/etc/a.png,d/a.tif\n", "line 2: '/etc/a.png' leads out of the data folder"),
        ("image,depth\nrgb/a.png,../a.tif\n", r"line 2: '\.\./a\.tif' leads out"),
        ("image,depth\nrgb/a.png,d/a.tif\nrgb/a.png,d/b.tif\n", "line 3: rgb/a stands in line 2 already"),
        ('image,depth\n"rgb/a.png,d/a.tif\n', "line 2: not a table with commas"),
        ("image,depth\nrgb/\xff.png,d/a.tif\n", "not UTF-8 text"),
    ],
)
def test_wrong_tables(table, content, message):
    (table / "train.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=rf"train\.csv.*{message}"):
        DepthFolder(table, "train")


def test_line_of_a_missing_file_is_named(table):
    (table / "train.csv").write_text("image,depth\n\nrgb/gone.png,d/a.tif\nrgb/a.png,d/gone.npy\n")
    samples = DepthFolder(table, "train")
    for place, (line, name) in enumerate(((3, r"rgb/gone\.png"), (4, r"d/gone\.npy"))):
        with pytest.raises(UsageError, match=rf"train\.csv, line {line}: .*{name}: no such file"):
            samples[place]


def test_files_elsewhere_need_trust(table, tmp_path, picture):
    picture(tmp_path / "elsewhere/a.png")
    (table / "train.csv").write_text(f"image,depth\n{tmp_path}/elsewhere/a.png,d/a.tif\n../elsewhere/a.png,d/b.tif\n")
    assert "set allow_absolute=true" in refusal(table)
    samples = DepthFolder(table, "train", allow_absolute=True)
    assert [samples[place].name for place in range(2)] == ["a_2", "a_3"], "names lead nowhere"


def test_check_and_open(root, table):
    assert check_data("depth_folder", root).problems == []
    Image.new("L", (8, 6)).save(root / "depth/val/1.png")
    (problem,) = check_data("depth_folder", root).problems
    assert "depth/val/1.png: depth needs one channel of 16 bits" in problem
    assert len(open_data(table, "depth")) == 2
    with pytest.raises(UsageError, match="no data set for segment"):
        open_data(table, "segment")
