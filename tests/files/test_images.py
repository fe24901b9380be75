from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vpd.errors import UsageError
from vpd.files.find_images import search_images
from vpd.files.images import pad_to_multiple, read_depth, read_image, read_labels, resize_short, to_tensor
from vpd.tasks.predictions import DepthPrediction

RED = (250, 20, 10)


def read_labels_error(path: Path) -> str:
    with pytest.raises(UsageError) as error:
        read_labels(path)
    return str(error.value)


# Labels and depth


def test_palette_labels_are_indices(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, 0, 0, 255, 9, 9, 9] + [0] * 759)
    image.putdata([2, 255, 0])
    image.save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png").tolist() == [[2, 255, 0]]


def test_16_bit_labels(tmp_path):
    Image.fromarray(np.array([[0, 149, 255]], dtype=np.uint16)).save(tmp_path / "a.png")
    labels = read_labels(tmp_path / "a.png")
    assert labels.dtype == np.uint8 and labels.tolist() == [[0, 149, 255]]
    Image.fromarray(np.array([[0, 256]], dtype=np.uint16)).save(tmp_path / "b.png")
    assert "0..256; they must be 0..255" in read_labels_error(tmp_path / "b.png")


def test_colour_labels_and_lossy_labels_are_refused(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    assert "one channel" in read_labels_error(tmp_path / "a.png")
    Image.new("L", (2, 2)).save(tmp_path / "a.jpg")
    assert "holds JPEG, whose values are not kept" in read_labels_error(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "b.png")
    assert "holds JPEG though it is named .png, whose values are not kept" in read_labels_error(tmp_path / "b.png")


def test_depth_in_metres(tmp_path):
    Image.fromarray(np.array([[0, 1500, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert read_depth(tmp_path / "a.png")[0].tolist() == pytest.approx([0, 1.5, 65.535])
    assert read_depth(tmp_path / "a.png", 256)[0, 1] == pytest.approx(1500 / 256)
    Image.fromarray(np.array([[np.nan, np.inf, -1, 2.5]], dtype=np.float32)).save(tmp_path / "b.tif")
    assert read_depth(tmp_path / "b.tif", 1).tolist() == [[0, 0, 0, 2.5]]
    Image.new("L", (2, 2)).save(tmp_path / "c.png")
    with pytest.raises(UsageError, match=r"c\.png: depth needs one channel of 16 bits or float.*of 8 bits .*uint16"):
        read_depth(tmp_path / "c.png")


@pytest.mark.parametrize("max_depth_m", [10.0, 80.0])
def test_depth_that_we_predicted_is_read_at_its_own_scale(tmp_path, max_depth_m):
    depth_m = torch.full((4, 6), 0.9 * max_depth_m)
    DepthPrediction(depth_m, max_depth_m, None, Image.new("RGB", (6, 4))).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_depth(tmp_path / "a.png"), depth_m, rtol=1e-3)
    own, other = (1000, 256) if max_depth_m == 10 else (256, 1000)
    np.testing.assert_allclose(read_depth(tmp_path / "a.png", own), depth_m, rtol=1e-3)
    with pytest.raises(UsageError, match=rf"a\.png: .*metres_per_step=.*{own} units.*depth_scale={other}"):
        read_depth(tmp_path / "a.png", other)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "much", ""])
def test_a_scale_in_a_file_that_is_none_is_passed_over(tmp_path, text):
    info = PngInfo()
    info.add_text("metres_per_step", text)
    Image.fromarray(np.array([[1500]], dtype=np.uint16)).save(tmp_path / "a.png", pnginfo=info)
    assert read_depth(tmp_path / "a.png").tolist() == [[1.5]]


# Tensors and sizes


def test_to_tensor_range():
    tensor = to_tensor(Image.fromarray(np.array([[[0, 127, 255]]], dtype=np.uint8)))
    assert tensor.shape == (1, 3, 1, 1) and tensor.dtype == torch.float32
    assert tensor.flatten().tolist() == pytest.approx([-1, -1 / 255, 1])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16))
def test_pad_to_multiple(height, width, multiple):
    images = torch.ones(1, 3, height, width)
    padded, (h, w) = pad_to_multiple(images, multiple)
    assert (h, w) == (height, width)
    assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple and padded.shape[-1] - width < multiple
    assert padded.sum() == images.sum() and torch.equal(padded[..., :h, :w], images)


def test_resize_short_equals_mmseg(golden):
    for case in golden.json("procedures/seg.json")["rescale_512"]:
        assert resize_short(tuple(case["hw"]), 512, 2048) == tuple(case["new_hw"])


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_resize_short_limits(height, width):
    h, w = resize_short((height, width), 512, 2048)
    assert min(h, w) >= 1 and min(h, w) <= 512 and max(h, w) <= 2048
    assert min(h, w) == 512 or max(h, w) == 2048


def test_real_photos(test_data):
    photos = search_images([str(test_data / "photos")])
    assert len(photos) == 14
    assert all(read_image(photo).mode == "RGB" for photo in photos[:4])
