import numpy as np
import pytest
from PIL import Image

from vpd.drawing.colours import class_colours, depth_colours
from vpd.drawing.overlays import (
    MASK_COLOUR,
    UNKNOWN_COLOUR,
    class_legend,
    colour_depth,
    colour_labels,
    contact_sheet,
    depth_picture,
    depth_range,
    mask_picture,
    segmentation_picture,
    tint_mask,
)
from vpd.drawing.text import caption_strip, font_px_for, legend_strip, one_line, scale_strip

WHITE = (255, 255, 255)


def test_class_colours_are_told_apart():
    colours = class_colours().astype(int)
    assert colours.shape == (256, 3)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1000 * np.eye(256)
    assert distances[:14, :14].min() > 50
    assert distances.min() > 10
    assert not (colours == UNKNOWN_COLOUR).all(axis=1).any()


def test_depth_colours_darken_evenly():
    grey = depth_colours() @ np.array([0.2126, 0.7152, 0.0722])
    steps = -np.diff(grey)
    assert grey[0] > 200
    assert grey[-1] < 50
    assert steps.min() > -0.5
    assert steps.max() < 3


def test_labels_have_their_colours_and_others_are_grey():
    labels = np.array([[0, 1, 255], [3, 2, 0]], np.uint8)
    pixels = np.asarray(colour_labels(labels, 3))
    assert pixels[0, 0].tolist() == class_colours()[0].tolist()
    assert pixels[1, 1].tolist() == class_colours()[2].tolist()
    assert tuple(pixels[0, 2]) == tuple(pixels[1, 0]) == UNKNOWN_COLOUR


def test_class_256_begins_again_at_the_first_colour():
    pixels = np.asarray(colour_labels(np.array([[256, 257]], np.int32), 300))
    assert pixels[0].tolist() == class_colours()[:2].tolist()


def test_segmentation_blends_and_adds_a_legend():
    image = Image.new("RGB", (300, 200), (100, 100, 100))
    labels = np.zeros((200, 300), np.uint8)
    labels[:, 150:] = 1
    picture = segmentation_picture(image, labels, ("sky", "tree", "car"))
    assert picture.width == 300
    expected = 0.6 * class_colours()[1] + 0.4 * 100
    assert np.abs(np.array(picture.getpixel((299, 199))) - expected).max() <= 1
    legend = np.asarray(picture)[200:].reshape(-1, 3)
    assert (legend == class_colours()[0]).all(axis=1).any()
    assert (legend == class_colours()[1]).all(axis=1).any()
    assert not (legend == class_colours()[2]).all(axis=1).any()  # not in the picture


def test_a_picture_of_nothing_known_says_so():
    picture = segmentation_picture(Image.new("RGB", (300, 300)), np.full((300, 300), 255, np.uint8), ("sky",))
    assert picture.width == 300 and picture.height > 300  # a legend: no class 100 %


def test_many_classes_are_summed_up():
    labels = np.arange(150, dtype=np.uint8).repeat(300).reshape(150, 300)
    image = Image.new("RGB", (300, 150))
    many = segmentation_picture(image, labels, [f"class {index}" for index in range(150)])
    assert many.height < 450  # 24 classes and one entry for the rest, not 150 rows


def test_long_class_names_are_cut():
    picture = segmentation_picture(Image.new("RGB", (300, 300)), np.zeros((300, 300), np.uint8), ["long " * 99])
    assert picture.width < 400


def test_mask_is_tinted_outlined_and_the_rest_darkened():
    image = Image.new("RGB", (400, 300), (100, 150, 200))
    mask = np.zeros((300, 400), bool)
    mask[100:200, 100:300] = True
    picture = mask_picture(image, mask, "the box")
    tinted = 0.65 * np.array([100, 150, 200]) + 0.35 * np.array(MASK_COLOUR)
    assert np.abs(np.array(picture.getpixel((200, 150))) - tinted).max() <= 1
    assert np.abs(np.array(picture.getpixel((20, 20))) - 0.65 * np.array([100, 150, 200])).max() <= 1
    assert picture.getpixel((100, 150)) == MASK_COLOUR
    assert WHITE in {picture.getpixel((x, 150)) for x in range(94, 100)}
    assert picture.height > 300


def test_a_mask_that_fills_the_picture_has_no_outline():
    picture = mask_picture(Image.new("RGB", (300, 300)), np.ones((300, 300), bool), "all of it")
    assert picture.getpixel((0, 0)) == picture.getpixel((150, 150)) != MASK_COLOUR


def test_depth_has_near_bright_far_dark_and_unknown_grey():
    depth_m = np.array([[1.0, 2.0, 3.0, 0.0, np.nan]], np.float32)
    pixels = np.asarray(colour_depth(depth_m, 1.0, 3.0))[0]
    assert pixels[0].tolist() == depth_colours()[0].tolist()
    assert pixels[1].tolist() == depth_colours()[128].tolist()
    assert pixels[2].tolist() == depth_colours()[255].tolist()
    assert tuple(pixels[3]) == tuple(pixels[4]) == UNKNOWN_COLOUR


@pytest.mark.parametrize("depth_m", [np.zeros((3, 3)), np.full((3, 3), 2.5), np.full((3, 3), 1e-4)])
def test_depth_without_a_range_still_has_a_picture(depth_m: np.ndarray):
    assert depth_picture(depth_m).width >= 200


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (97, 1000), (1000, 97), (7, 9), (600, 800)], ids=str)
def test_pictures_of_any_size_can_be_read(size: tuple[int, int]):
    image = Image.new("RGB", (size[1], size[0]), (80, 80, 80))
    words = "左の猫 слева 🐈 \x00\n" + "long " * 80
    pictures = [
        segmentation_picture(image, np.zeros(size, np.uint8), [words]),
        mask_picture(image, np.ones(size, bool), words),
        depth_picture(np.linspace(0.3, 9, size[0] * size[1]).reshape(size)),
    ]
    for picture in pictures:
        assert max(picture.size) >= 200
        assert picture.height > size[0]  # room for words below
        assert picture.width >= 10 * font_px_for(*size)


def test_letters_grow_with_the_picture():
    assert font_px_for(1, 1) == 13
    assert font_px_for(4000, 3000) == 76


def test_long_captions_end():
    short, long = caption_strip("a dog", 200, 13), caption_strip("a dog " * 100, 200, 13)
    assert short.height < long.height <= 4 * short.height
    assert short.width == long.width == 200


def test_a_legend_entry_is_never_cut():
    assert legend_strip([((1, 2, 3), "a class with a very long name")], 20, 13).width > 150


def test_ticks_stand_at_round_numbers():
    strip = np.asarray(scale_strip(np.zeros((256, 3), np.uint8), 0.0, 4.0, 440, 20))
    row = strip[10 + 20 + 5]  # between bar and numbers
    ticks = np.flatnonzero((row < 128).all(axis=1))
    centres = [group.mean() for group in np.split(ticks, np.flatnonzero(np.diff(ticks) > 1) + 1)]
    assert centres == pytest.approx([20, 20 + 399 / 4, 20 + 399 / 2, 20 + 399 * 3 / 4, 419], abs=1.5)


def test_words_lose_line_breaks_and_control_characters():
    assert one_line(" a\tdog\x1b[31m\nhere ") == "a dog [31m here"


def test_contact_sheet_keeps_every_picture_in_its_place():
    red, blue, green = (
        Image.new("RGB", size, colour) for size, colour in (((8, 8), "red"), ((8, 4), "blue"), ((600, 300), "green"))
    )
    sheet = contact_sheet([[red, blue], [green, red]], ["image", "truth"], cell_px=128, caption="mIoU 41.2 %")
    pixels = np.asarray(sheet)
    counts = {
        name: (pixels == colour).all(axis=-1).sum()
        for name, colour in {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 128, 0)}.items()
    }
    assert counts == {"red": 2 * 128 * 128, "blue": 128 * 64, "green": 128 * 64}
    bare = contact_sheet([[red, blue], [green, red]], ["image", "truth"], cell_px=128)
    assert (pixels[-bare.height :] == np.asarray(bare)).all()  # the caption stands above


def test_a_sheet_says_what_its_colours_mean():
    cell = Image.new("RGB", (256, 128), "white")
    plain = contact_sheet([[cell], [cell]])
    legend = class_legend(np.array([[0, 0, 0, 2, 255]]), ("sky", "tree", "car"))
    words = contact_sheet([[cell], [cell]], words=["", "second"], scales_m=[(1.0, 3.0), None], legend=legend)
    assert words.height > plain.height + 3 * 13  # a line, a scale, the legend
    pixels = np.asarray(words).reshape(-1, 3)
    for colour in (class_colours()[0], class_colours()[2], UNKNOWN_COLOUR, depth_colours()[255]):
        assert (pixels == colour).all(axis=1).any()
    assert not (pixels == class_colours()[1]).all(axis=1).any()


def test_a_legend_counts_pixels_and_what_is_no_class():
    labels = np.array([[[0, 0, 2]], [[2, 255, 3]]])
    legend = class_legend(labels, ("sky", "tree", "car"))
    sky, car = (tuple(class_colours()[label].tolist()) for label in (0, 2))
    assert legend == {(sky, "sky"): 2, (car, "car"): 2, (UNKNOWN_COLOUR, "no class"): 2}


def test_a_sheet_of_many_classes_names_the_largest():
    cell = Image.new("RGB", (256, 128))
    legends = [class_legend(np.arange(count), [f"class {label}" for label in range(count)]) for count in (48, 250)]
    few, many = (contact_sheet([[cell, cell]], legend=legend) for legend in legends)
    assert few.height <= many.height < few.height + 40


def test_a_tinted_mask_has_no_words():
    image = Image.new("RGB", (300, 200))
    assert tint_mask(image, np.zeros((200, 300), bool)).size == (300, 200)


def test_depth_range_leaves_out_outliers_and_what_is_unknown():
    depth_m = np.concatenate([np.linspace(2, 4, 1000), [0, np.nan, 90]])
    assert depth_range(depth_m) == pytest.approx((2.02, 3.98), abs=0.01)
    assert depth_range(np.zeros(3))[1] > 0


def test_a_sheet_needs_rows_of_one_length():
    cell = Image.new("RGB", (4, 4))
    for extra in ({"words": ["one"]}, {"scales_m": [None]}):
        with pytest.raises(ValueError, match="2 rows"):
            contact_sheet([[cell], [cell]], **extra)
    for rows, titles in (([[cell], [cell, cell]], []), ([[cell]], ["image", "truth"]), ([], [])):
        with pytest.raises(ValueError, match="rows of one length"):
            contact_sheet(rows, titles)


def test_image_and_prediction_must_agree_in_size():
    image = Image.new("RGB", (4, 3))
    with pytest.raises(ValueError, match="image is 3x4 but its prediction 4x4"):
        segmentation_picture(image, np.zeros((4, 4), np.uint8), ["sky"])
    with pytest.raises(ValueError, match="image is 3x4 but its prediction 4x4"):
        mask_picture(image, np.zeros((4, 4), bool), "a dog")
