"""What a model answers about one image: pixels with their meaning, a data file, a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vpd.config import first_names, is_doubtful
from vpd.drawing.colours import depth_colours
from vpd.drawing.figures import side_by_side, with_scale
from vpd.drawing.overlays import (
    classes_key,
    colour_depth,
    depth_picture,
    depth_range,
    enlarge,
    mask_picture,
    percent,
    segmentation_picture,
    tint_classes,
    tint_mask,
)
from vpd.drawing.text import caption_strip, scale_strip
from vpd.errors import UsageError
from vpd.files.atomic import atomic_write
from vpd.files.images import DEPTH_SCALE_KEY
from vpd.tasks.conversions import Region, coco_data, detections, fiftyone_heatmap, fiftyone_objects, fiftyone_pixels

_LARGEST_16_BIT = 65535
_MILLIMETRES_TO_M = 65.0
Target = str | Path | BinaryIO
"""Where a data file goes: a path that ends in `.png`, or an open file."""


class Prediction(Protocol):
    """What `predict` returns for one image, whatever the task."""

    @property
    def image(self) -> Image.Image:
        """The input, RGB, upright."""

    @property
    def note(self) -> str:
        """What was done to stay within `memory` that changes the prediction; empty = nothing."""

    def save(self, path: Target) -> None:
        """Write the data file."""

    def overlay(self) -> Image.Image:
        """Something to look at."""

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it."""

    def numpy(self) -> NDArray[Any]:
        """Its pixels with their meaning, `(H, W)`."""

    def to_pil(self) -> Image.Image:
        """The pixels of the data file."""

    def plot(self) -> Any:
        """A figure of matplotlib."""


@dataclass(frozen=True, repr=False)
class SegmentationPrediction:
    """Class of each pixel, at the size of the input image."""

    labels: Tensor
    """`(H, W)` index into `classes`, uint8, or int32 with more than 255 of them; on the CPU. Where classes may overlap,
    the first that fits, and 255 (65,535 with more than 255 classes) where none does."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
    image: Image.Image
    """The input, RGB, upright."""
    scores: Tensor | None = None
    """`(n, H, W)` probabilities, where they were asked for; of classes that may overlap, each by itself."""
    note: str = ""
    """What was done to stay within `memory` that changes the prediction, such as windows; empty = nothing."""
    frame: int | None = None
    """Its number in a clip, from 0."""
    time_s: float | None = None
    """Seconds since the clip began."""

    def __repr__(self) -> str:
        found = [f"{each['name']} {percent(each['share'])}" for each in self.facts()["classes"]]
        return _line(self, first_names(found))

    def save(self, path: Target) -> None:
        """Write the labels as a PNG of 8 bits, or 16 with more than 255 classes; the names stand in its text.

        Raises:
            UsageError: If a path does not end in `.png`, or there are more classes than 16 bits hold.
        """
        _save_png(path, self.to_pil(), {"classes": json.dumps(self.classes, ensure_ascii=False)})

    def numpy(self) -> NDArray[Any]:
        """`labels` as an array."""
        return self.labels.numpy()

    def to_pil(self) -> Image.Image:
        """The labels in 8 bits, or 16 with more than 255 classes.

        Raises:
            UsageError: If there are more classes than 16 bits hold.
        """
        if len(self.classes) > _LARGEST_16_BIT:
            raise UsageError(f"{len(self.classes)} classes do not fit 16 bits; take `labels`, or numpy().")
        return Image.fromarray(self.numpy().astype(np.uint8 if len(self.classes) <= 255 else np.uint16))

    def to_coco(self, *, file_name: str = "", image_id: int = 1) -> dict[str, Any]:
        """A COCO data set of this picture: a mask for each class in it, with a score where it has `scores`."""
        size = self.image.size
        return coco_data(self.regions(), self.classes, size, file_name=file_name, image_id=image_id)

    def to_supervision(self) -> Any:
        """`supervision.Detections`: a mask for each class in the picture.

        Raises:
            UsageError: If supervision is not installed.
        """
        return detections(self.regions())

    def plot(self) -> Any:
        """A figure of matplotlib: picture, and the classes on it.

        Raises:
            UsageError: If matplotlib is not installed.
        """
        found = first_names([f"{each['name']} {percent(each['share'])}" for each in self.facts()["classes"]])
        return side_by_side(self.image, tint_classes(self.image, self.numpy(), len(self.classes)), found)

    def to_fiftyone(self) -> Any:
        """`fiftyone.Segmentation`; its values are the numbers of the classes plus 1, as 0 means nothing there.

        Raises:
            UsageError: If FiftyOne is not installed.
        """
        return fiftyone_pixels(self.numpy(), len(self.classes))

    def regions(self) -> list[Region]:
        """The classes in the picture, largest first."""
        labels, regions = self.numpy(), []
        for each in self.facts()["classes"]:
            mask, number = labels == each["label"], each["label"]
            score = None if self.scores is None else float(self.scores[number].numpy()[mask].mean())
            regions.append(Region(each["name"], number, mask, score))
        return regions

    def tinted(self) -> Image.Image:
        """The image in the colours of the classes, without words."""
        return enlarge(tint_classes(self.image, self.numpy(), len(self.classes)))

    def key(self, others: Sequence[SegmentationPrediction], width: int, font_px: int) -> Image.Image:
        """What the colours mean, in this and other pictures of a clip."""
        found = {each["label"] for prediction in (self, *others) for each in prediction.facts()["classes"]}
        return classes_key(sorted(found), self.classes, width, font_px)

    def overlay(self) -> Image.Image:
        """The image in the colours of the classes, above a legend with each class's share of the pixels."""
        return segmentation_picture(self.image, self.labels.numpy(), self.classes)

    def facts(self) -> dict[str, Any]:
        """Classes in the image with their label and share, largest first, and how much has none, for the manifest."""
        labels = self.labels.numpy()
        known = labels[labels < len(self.classes)]
        counts, without = np.bincount(known, minlength=len(self.classes)), 1 - known.size / labels.size
        present = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
        return {
            "classes": [
                {
                    "label": label,
                    "name": self.classes[label],
                    "share": round(float(counts[label] / self.labels.numel()), 6),
                }
                for label in present
            ],
            **({"no_class": round(without, 6)} if without else {}),
            **_note(self.note),
        }


@dataclass(frozen=True, repr=False)
class MaskPrediction:
    """Pixels of the object that an expression names, at the size of the input image."""

    mask: Tensor
    """`(H, W)` bool; on the CPU."""
    probability: Tensor
    """`(H, W)` float32 in [0, 1] that a pixel belongs to the object."""
    text: str
    """The expression."""
    image: Image.Image
    """The input, RGB, upright."""
    note: str = ""
    """What was done to stay within `memory` that changes the prediction, such as windows; empty = nothing."""
    fitted_mask: Tensor | None = None
    """`(h, w)` bool at the size that the network sees, where it was asked for."""
    presence: float | None = None
    """Score in [0, 1] that the text fits anything in the picture, from the probabilities."""
    presence_is_calibrated: bool = False
    """Whether the score is a probability, fitted on validation data where half of the texts fit; else it is raw, and
    higher for texts that fit, no more."""
    frame: int | None = None
    """Its number in a clip, from 0."""
    time_s: float | None = None
    """Seconds since the clip began."""

    def __repr__(self) -> str:
        share = f"{percent(float(self.mask.float().mean()))} of the picture" if self.mask.any() else "nothing found"
        return _line(self, f"{self.text!r}, {share}")

    def save(self, path: Target) -> None:
        """Write the mask as an 8-bit PNG, 0 or 255; the expression stands in its text.

        Raises:
            UsageError: If a path does not end in `.png`.
        """
        _save_png(path, self.to_pil(), {"text": self.text})

    def numpy(self) -> NDArray[Any]:
        """`mask` as an array."""
        return self.mask.numpy()

    def to_pil(self) -> Image.Image:
        """The mask in 8 bits, 0 or 255."""
        return Image.fromarray(self.numpy().astype(np.uint8) * np.uint8(255))

    def to_coco(self, *, file_name: str = "", image_id: int = 1) -> dict[str, Any]:
        """A COCO data set of this picture: the mask, if it is not empty, of the category that the expression names."""
        return coco_data(self.regions(), [self.text], self.image.size, file_name=file_name, image_id=image_id)

    def to_supervision(self) -> Any:
        """`supervision.Detections`: the mask, if it is not empty, named by the expression.

        Raises:
            UsageError: If supervision is not installed.
        """
        return detections(self.regions())

    def plot(self) -> Any:
        """A figure of matplotlib: picture, and the object in it.

        Raises:
            UsageError: If matplotlib is not installed.
        """
        return side_by_side(self.image, tint_mask(self.image, self.numpy()), f"“{self.text}”")

    def to_fiftyone(self) -> Any:
        """`fiftyone.Detections`: the mask, if it is not empty, named by the expression.

        Raises:
            UsageError: If FiftyOne is not installed.
        """
        return fiftyone_objects(self.regions())

    def regions(self) -> list[Region]:
        """The object, if there is one."""
        mask = self.numpy()
        return [Region(self.text, 0, mask, float(self.probability.numpy()[mask].mean()))] if mask.any() else []

    def tinted(self) -> Image.Image:
        """The image with the object tinted and outlined, without words."""
        return tint_mask(self.image, self.numpy())

    def key(self, others: Sequence[MaskPrediction], width: int, font_px: int) -> Image.Image:
        """The expression."""
        return caption_strip(f"“{self.text}”", width, font_px)

    def overlay(self) -> Image.Image:
        """The image with the object tinted and outlined, above the expression and any doubt that it is there."""
        is_doubted = is_doubtful(self.presence, is_calibrated=self.presence_is_calibrated) and bool(self.mask.any())
        doubt = "probably not there" if is_doubted else ""
        return mask_picture(self.image, self.mask.numpy(), self.text, doubt=doubt)

    def facts(self) -> dict[str, Any]:
        """The expression, the object's share and box `[left, top, right, bottom]`, and presence, for the manifest."""
        rows, columns = np.nonzero(self.mask.numpy())
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if rows.size else []
        return {
            "text": self.text,
            "share": round(rows.size / self.mask.numel(), 6),
            "box": [int(edge) for edge in box] or None,
            **self._presence(),
            **_note(self.note),
        }

    def _presence(self) -> dict[str, Any]:
        if self.presence is None:
            return {}
        return {"presence": round(self.presence, 4), "presence_is_calibrated": self.presence_is_calibrated}


@dataclass(frozen=True, repr=False)
class DepthPrediction:
    """Depth at the size of the input image."""

    depth_m: Tensor
    """`(H, W)` float32, metres, in (0, max_depth_m]; on the CPU."""
    max_depth_m: float
    """Largest value the model can output, metres (10 for NYU)."""
    scene: str | None
    """Scene the model was told, or what it took instead."""
    image: Image.Image
    """The input, RGB, upright."""
    note: str = ""
    """What was done to stay within `memory` that changes the prediction, such as windows; empty = nothing."""
    shown_m: tuple[float, float] | None = None
    """Depths of the first and the last colour of pictures, metres; none = those of this picture."""
    frame: int | None = None
    """Its number in a clip, from 0."""
    time_s: float | None = None
    """Seconds since the clip began."""

    def __repr__(self) -> str:
        near_m, far_m = float(self.depth_m.min()), float(self.depth_m.max())
        return _line(self, f"{near_m:.2f} to {far_m:.2f} m" + (f", {self.scene}" if self.scene else ""))

    @property
    def metres_per_step(self) -> float:
        """What one step of a pixel means in the data file; see `metres_per_step`."""
        return metres_per_step(self.max_depth_m)

    def save(self, path: Target) -> None:
        """Write the depth as a 16-bit PNG, 0 = none; `metres_per_step` stands in its text.

        Raises:
            UsageError: If a path does not end in `.png`.
        """
        _save_png(path, self.to_pil(), {DEPTH_SCALE_KEY: str(self.metres_per_step)})

    def numpy(self) -> NDArray[Any]:
        """`depth_m` as an array."""
        return self.depth_m.numpy()

    def to_pil(self) -> Image.Image:
        """The depth in 16 bits, in steps of `metres_per_step`, 0 = none."""
        depth_m = self.numpy().astype(np.float64)
        is_known = np.isfinite(depth_m) & (depth_m > 0)
        steps = (np.where(is_known, depth_m, 0) / self.metres_per_step).round().clip(1, _LARGEST_16_BIT)
        return Image.fromarray(np.where(is_known, steps, 0).astype(np.uint16))

    def to_fiftyone(self) -> Any:
        """`fiftyone.Heatmap` of metres, from 0 to what the model can output.

        Raises:
            UsageError: If FiftyOne is not installed.
        """
        return fiftyone_heatmap(self.numpy(), self.max_depth_m)

    def tinted(self) -> Image.Image:
        """The depth in colours, without their scale."""
        return enlarge(colour_depth(self.numpy(), *(self.shown_m or depth_range(self.numpy()))))

    def key(self, others: Sequence[DepthPrediction], width: int, font_px: int) -> Image.Image:
        """The scale of the colours, in metres."""
        return scale_strip(depth_colours(), *(self.shown_m or depth_range(self.numpy())), width, font_px)

    def overlay(self) -> Image.Image:
        """The depth in colours, above a scale in metres."""
        return depth_picture(self.numpy(), self.shown_m)

    def plot(self) -> Any:
        """A figure of matplotlib: picture and depth, with its scale.

        Raises:
            UsageError: If matplotlib is not installed.
        """
        return with_scale(self.image, self.numpy(), *(self.shown_m or depth_range(self.numpy())))

    def facts(self) -> dict[str, Any]:
        """Scale of the data file, range and scene, for the manifest."""
        return {
            DEPTH_SCALE_KEY: self.metres_per_step,
            "max_depth_m": self.max_depth_m,
            "nearest_m": round(float(self.depth_m.min()), 4),
            "farthest_m": round(float(self.depth_m.max()), 4),
            "scene": self.scene,
            **_note(self.note),
        }


def metres_per_step(max_depth_m: float) -> float:
    """What one step of a pixel means in a depth file: 1 mm, or 1/256 m where the range exceeds 65 m.

    A range beyond 255 m takes the next power of two that holds it.
    """
    if max_depth_m <= _MILLIMETRES_TO_M:
        return 0.001
    step_m = 1 / 256
    while max_depth_m > step_m * _LARGEST_16_BIT:
        step_m *= 2
    return step_m


def read_shown_range(near_m: Any, far_m: Any, max_depth_m: float) -> tuple[float, float] | None:
    """The depths that colours go from and to, of what the user gave of them; none = nothing.

    Raises:
        UsageError: If they are no depths, or the first is not the smaller.
    """
    if near_m is None and far_m is None:
        return None
    shown_m = (0.0 if near_m is None else near_m, max_depth_m if far_m is None else far_m)
    are_numbers = all(isinstance(end, (int, float)) and math.isfinite(end) for end in shown_m)
    if not are_numbers or not 0 <= shown_m[0] < shown_m[1]:
        raise UsageError(
            f"Colours cannot go from near_m={shown_m[0]} to far_m={shown_m[1]}: give metres, 0 or more, the nearer "
            "first."
        )
    return float(shown_m[0]), float(shown_m[1])


def _line(prediction: Prediction, found: str) -> str:
    """A prediction in one line."""
    note = f"; {prediction.note}" if prediction.note else ""
    return f"{type(prediction).__name__}({prediction.image.width}x{prediction.image.height} px: {found}{note})"


def _note(note: str) -> dict[str, str]:
    return {"note": note} if note else {}


def _save_png(path: Target, picture: Image.Image, texts: dict[str, str]) -> None:
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    if not isinstance(path, (str, Path)):
        picture.save(path, format="PNG", pnginfo=info)
        return
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"Predictions are saved as PNG, which loses nothing; {path.name!r} must end in .png.")
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=info)
