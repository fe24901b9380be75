"""Masks as regions of Label Studio: read back by our own reader, and by its own library where that is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_side import BRUSH, EXPRESSION, POLYGON
from numpy.typing import NDArray

from integrations.label_studio.label_config import read_label_config
from integrations.label_studio.regions import encode_brush, label_regions
from vpd.datasets.label_studio import LabelStudioData, decode_brush
from vpd.errors import UsageError
from vpd.tasks.conversions import Region, polygons


def masks() -> list[NDArray[np.bool_]]:
    """Noise, all, nothing, one pixel, and runs of every length that is packed another way."""
    draw = np.random.default_rng(0)
    runs = np.repeat(
        np.arange(18) % 2 == 0, [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1, 3, 16383, 16384, 16385, 40000, 2]
    )
    found = [draw.random((13, 17)) > 0.5, np.ones((300, 400), bool), np.zeros((5, 7), bool), np.ones((1, 1), bool)]
    return [*found, runs[None], runs[:, None], ~runs[None], draw.random((200, 300)) > 0.9]


def blob(height: int = 120, width: int = 160) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:height, :width]
    return ((rows - 60) / 40) ** 2 + ((columns - 70) / 60) ** 2 < 1


@pytest.mark.parametrize("number", range(8))
def test_brush_masks_are_read_back(number: int) -> None:
    mask = masks()[number]
    packed = encode_brush(mask)
    assert json.loads(json.dumps(packed)) == packed and all(type(byte) is int for byte in packed)
    np.testing.assert_array_equal(decode_brush(packed, mask.shape, "it"), mask)


@pytest.mark.parametrize("number", range(8))
def test_label_studios_own_library_reads_them(number: int) -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="not installed: label-studio-sdk")
    mask = masks()[number]
    pixels = brush.decode_rle(encode_brush(mask)).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(pixels, np.repeat(mask[..., None], 4, axis=2) * 255)
    theirs = brush.mask2rle(mask.astype(np.uint8) * 255)
    np.testing.assert_array_equal(decode_brush(theirs, mask.shape, "it"), mask)
    assert len(encode_brush(mask)) <= len(theirs)


def test_polygons_follow_the_mask() -> None:
    cv2 = pytest.importorskip("cv2", reason="not installed: opencv-python-headless (extra `video`)")
    mask = blob()
    mask[5:9, 140:150] = True
    mask[100, 140] = True  # a speck
    outlines = polygons(mask)
    assert len(outlines) == 2 and all(5 < len(outline) < 60 for outline in outlines[:1])
    painted = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(painted, [(outline - 0.5).round().astype(np.int32) for outline in outlines], 1)
    assert (painted.astype(bool) & mask).sum() / (painted.astype(bool) | mask).sum() > 0.98
    assert outlines[0][:, 0].max() < 131 and outlines[0][:, 1].max() < 101, "x comes first"
    assert polygons(mask & False) == [] and polygons(mask, least_share=0.5) == []


def test_polygons_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(UsageError, match="Polygons need OpenCV .* pip install opencv-python-headless"):
        polygons(blob())


@pytest.mark.parametrize("config", [BRUSH, POLYGON])
def test_what_a_model_drew_can_be_trained_on(config: str, tmp_path: Path) -> None:
    """Label Studio exports accepted predictions as annotations with the same regions."""
    if config == POLYGON:
        pytest.importorskip("cv2", reason="not installed: opencv-python-headless (extra `video`)")
    from PIL import Image

    mask = blob()
    Image.fromarray(np.zeros((*mask.shape, 3), np.uint8)).save(tmp_path / "a.png")
    (control,) = read_label_config(config).controls
    result = list(label_regions(control, control.labels[1], Region("road", 0, mask, 0.75)))
    tasks = [{"id": 1, "data": {"image": "/data/upload/1/1a2b3c4d-a.png"}, "annotations": [{"result": result}]}]
    (tmp_path / "project.json").write_text(json.dumps(tasks))
    samples = LabelStudioData(tmp_path, "train")
    labels = samples[0].labels
    assert labels is not None and samples.classes == ("background", "tree")
    assert ((labels == 1) & mask).sum() / ((labels == 1) | mask).sum() > (0.999 if config == BRUSH else 0.97)


def test_configurations_are_read() -> None:
    config = read_label_config(EXPRESSION)
    assert (config.image_field, config.text_fields) == ("image", ("caption",))
    assert config.text_of({"caption": " the red cube "}) == "the red cube" and config.text_of({"caption": " "}) is None
    assert [label.name for _, label in config.drawn()] == ["cube", "ball"]
    ((control, road), (_, tree)) = read_label_config(BRUSH).drawn()
    assert (control.name, control.kind, control.to_name) == ("tag", "brushlabels", "photo")
    assert (road.name, road.shown, tree.name, tree.shown) == ("Road", "Road", "tree", "Tree")
    both = BRUSH.replace("</View>", POLYGON.split("/>", 1)[1].replace('"tag"', '"outline"'))
    assert [control.kind for control, _ in read_label_config(both).drawn()] == ["brushlabels"] * 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("<View>", "no XML"),
        ("", "no XML"),
        ('<!DOCTYPE v [<!ENTITY a "aaaa">]><View>&a;</View>', "document type"),
        ('<?a <!-- ?><!DOCTYPE v [<!ENTITY a "aaaa">]><?b --> ?><View>&a;</View>', "document type"),
        ("<View><!-- a --><Image name='a' value='$a'/></View>", "nothing to predict"),
        (BRUSH.replace('toName="photo"', 'toName="other"'), "nothing to predict"),
        (BRUSH.replace('value="$image"', 'valueList="$images"'), "must take one picture"),
        (BRUSH.replace("$image", "http://x/$image"), "must take one picture"),
    ],
)
def test_configurations_without_use_are_refused(source: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_label_config(source)


def test_label_studios_own_library_reads_configurations_alike() -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason="not installed: label-studio-sdk")
    for source in (BRUSH, POLYGON, EXPRESSION):
        theirs: Any = interface.LabelInterface(source)
        for control in read_label_config(source).controls:
            tag = theirs.get_control(control.name)
            assert (tag.tag.lower(), tag.to_name) == (control.kind, [control.to_name])
            assert sorted(tag.labels) == sorted(label.name for label in control.labels)
