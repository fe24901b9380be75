"""What `predict` takes from Python is one picture, in whatever form; all else is refused with a message of ours."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tiny import CLASSES
from vpd import DepthModel, ReferringModel, SegmentationModel, UsageError
from vpd.config import Resize
from vpd.inference.inputs import list_sources, read_source, source_name

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(PIXELS).permute(2, 0, 1)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


FORMS: dict[str, Callable[[Path], Any]] = {
    "text": str,
    "path": lambda path: path,
    "PIL": Image.open,
    "uint8": lambda _: PIXELS,
    "uint16": lambda _: PIXELS.astype(np.uint16) * 257,
    "big endian": lambda _: (PIXELS.astype(np.uint16) * 257).astype(">u2"),
    "float32": lambda _: PIXELS.astype(np.float32) / 255,
    "float64": lambda _: PIXELS / 255,
    "opaque": lambda _: np.dstack([PIXELS, np.full((6, 8, 1), 255, np.uint8)]),
    "tensor": lambda _: TENSOR,
    "float tensor": lambda _: TENSOR / 255,
    "of a graph": lambda _: (TENSOR / 255).requires_grad_(),
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "file": lambda path: path.open("rb"),
    "stream": lambda path: io.BytesIO(path.read_bytes()),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_picture(form: str, photo: Path) -> None:
    sources, is_list = list_sources(FORMS[form](photo))
    assert (len(sources), is_list) == (1, False)
    assert np.array_equal(np.asarray(read_source(sources[0], "it")), PIXELS)


@pytest.mark.parametrize("grey", [PIXELS[..., 0], PIXELS[..., :1], TENSOR[:1], TENSOR[0], TENSOR[:1].half() / 255])
def test_grey_pictures(grey: Any) -> None:
    pixels = np.asarray(read_source(grey, "it"))
    assert np.abs(pixels.astype(int) - PIXELS[..., :1]).max() <= 1  # as fine as half precision is


@pytest.mark.parametrize(
    "several",
    [
        [PIXELS, TENSOR],
        (PIXELS, TENSOR),
        deque([PIXELS, TENSOR]),
        (part for part in (PIXELS, TENSOR)),
        np.stack([PIXELS, PIXELS]),
        torch.stack([TENSOR, TENSOR]),
    ],
)
def test_several_are_a_list(several: Any) -> None:
    sources, is_list = list_sources(several)
    assert is_list
    assert all(np.array_equal(np.asarray(read_source(source, "it")), PIXELS) for source in sources)
    assert len(sources) == 2


def closed(path: Path) -> Image.Image:
    image = Image.open(path)
    image.close()
    return image


def read_up(path: Path) -> io.BytesIO:
    stream = io.BytesIO(path.read_bytes())
    stream.read()
    return stream


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "none": (lambda _: None, "An image is a path.*got None"),
    "number": (lambda _: 3, "got int"),
    "dict": (lambda _: {"image": PIXELS}, "got dict"),
    "set": (lambda path: {path}, "got set"),
    "object": (lambda _: object(), "got object"),
    "nested": (lambda _: [[PIXELS]], "the image: .*got list"),
    "one of a list": (lambda _: [PIXELS, None], "image 2 of 2: .*got None"),
    "channels first": (lambda _: PIXELS.transpose(2, 0, 1), "uint8 (3, 6, 8).*channels come first.*moveaxis"),
    "channels last": (lambda _: torch.from_numpy(PIXELS), "uint8 (6, 8, 3).*channels come last.*permute(2, 0, 1)"),
    "two channels": (lambda _: PIXELS[..., :2], "an image is (H, W), (H, W, 3)"),
    "0 to 255": (lambda _: PIXELS.astype(np.float32), "in [0, 1], none NaN. Divide by 255"),
    "-1 to 1": (lambda _: TENSOR / 127.5 - 1, "floats must be in [0, 1].*(image + 1) / 2"),
    "NaN": (lambda _: np.full((2, 2), np.nan), "from nan to nan"),
    "infinity": (lambda _: torch.full((3, 2, 2), torch.inf), "floats must be in [0, 1]"),
    "int64": (lambda _: PIXELS.astype(np.int64), "int64.*values must be uint8"),
    "bool": (lambda _: PIXELS > 9, "bool.*values must be uint8"),
    "complex": (lambda _: TENSOR.to(torch.complex64), "complex64.*values must be uint8"),
    "objects": (lambda path: np.array([path], dtype=object), "an image is (H, W)"),
    "empty": (lambda _: np.zeros((0, 3, 3), np.uint8), "no pixels"),
    "without data": (lambda _: torch.zeros(3, 4, 4, device="meta"), "values cannot be read"),
    "sparse": (lambda _: torch.zeros(3, 4, 4).to_sparse(), "values cannot be read"),
    "closed picture": (closed, "photo.png: .*closed"),
    "closed file": (lambda path: (file := path.open("rb")).close() or file, "cannot be read.*open(path, 'rb')"),
    "read up": (read_up, "nothing left to read; file.seek(0)"),
    "text file": (lambda path: path.open(encoding="latin-1"), "str instead of bytes.*'rb'"),
    "no picture": (lambda _: b"hello", "not an image that can be read here"),
    "no bytes": (lambda _: b"", "the file is empty"),
    "no file": (lambda _: "nowhere.png", "nowhere.png: no such file"),
    "folder": (lambda path: path.parent, "not a file"),
}


@pytest.mark.parametrize("form", WRONG)
def test_what_is_no_picture_is_refused(form: str, photo: Path) -> None:
    import re

    make, message = WRONG[form]
    with pytest.raises(UsageError, match=re.sub(r"[()+\[\]]", r"\\\g<0>", message)):
        sources, _ = list_sources(make(photo))
        for number, source in enumerate(sources):
            read_source(source, source_name(source, number, len(sources)))


def test_names_in_messages(photo: Path) -> None:
    assert (
        source_name(photo, 0, 1) == source_name(str(photo), 0, 9) == source_name(Image.open(photo), 0, 1) == str(photo)
    )
    with photo.open("rb") as file:
        assert source_name(file, 0, 1) == str(photo)
    assert source_name(PIXELS, 1, 3) == "image 2 of 3"
    assert source_name(TENSOR, 0, 1) == "the image"


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path) -> dict[str, Any]:
    fit = Resize(size_px=64)
    small = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    return {
        "segment": SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=8, fit=fit),
        "refer": ReferringModel.from_diffusion(tiny_diffusion, token_length=8, head_channels=8, fit=fit),
        "depth": DepthModel.from_diffusion(tiny_diffusion, scenes=["kitchen"], fit=fit, **small),
    }


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("segment", {"size": "x"}, "size='x': give a whole number of pixels"),
        ("segment", {"size": 1.5}, "size=1.5: give"),
        ("segment", {"size": -3}, "size=-3: give .*1 to 10954"),
        ("segment", {"size": 10**9}, "size=1000000000: give"),
        ("segment", {"size": 10**5000}, "size=...: give"),
        ("segment", {"size": 10000}, r"image 1 of 2: 8x6 px would be run at 13333x10000 px; the limit is 120 mega"),
        ("segment", {"batch_size": 0}, "batch_size=0: give a whole number, 1 or more"),
        ("segment", {"batch_size": True}, "batch_size=True: give"),
        ("segment", {"caches": 3}, "caches=3"),
        ("segment", {"classes": "sky,road"}, "Names must be a list, not one string"),
        ("segment", {"classes": 3}, "Names must be a list of texts"),
        ("segment", {"classes": ["sky", 1]}, "Names must be a list of texts"),
        ("segment", {"classes": {"sky", "road"}}, "Names must be a list of texts, in the order"),
        ("segment", {"classes": [f"class {n}" for n in range(70_000)]}, "70000 names; 16-bit labels hold 65535"),
        ("segment", {"scores": "no"}, "scores='no': give True or False"),
        ("refer", {"text": 3}, "text=3: give one text, or a list"),
        ("refer", {"text": b"a dog"}, "got bytes"),
        ("refer", {"text": ["a dog", 3]}, "text: number 2 of 2 is int"),
        ("refer", {"text": {"a": "dog"}}, "got dict"),
        ("refer", {"text": "a dog", "fitted": 1}, "fitted=1: give True or False"),
        ("depth", {"scene": 3}, "scene=3: give one text"),
        ("depth", {"scene": [None, 3]}, "scene: number 2 of 2 is int"),
        ("depth", {"scene": "beach"}, "does not know the scene 'beach'"),
    ],
)
def test_wrong_words_and_numbers(task: str, options: dict[str, Any], message: str, models: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=message):
        models[task].predict([PIXELS, PIXELS], **options)


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_prompts_of_another_width(task: str, models: dict[str, Any]) -> None:
    for network in (models[task], models[task].backbone):
        with pytest.raises(UsageError, match=r"text_embeds is \(1, 3, 99\); this model needs .*16\)"):
            network(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 99))
