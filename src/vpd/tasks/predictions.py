"""What a model answers about one image: pixels with their meaning, a data file, a picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vpd.config import first_names
from vpd.drawing.overlays import depth_picture, mask_picture, percent, segmentation_picture
from vpd.errors import UsageError
from vpd.files.atomic import atomic_write
from vpd.files.images import DEPTH_SCALE_KEY

_LARGEST_16_BIT = 65535
_MILLIMETRES_TO_M = 65.0


class Prediction(Protocol):
    """What `predict` returns for one image, whatever the task."""

    @property
    def image(self) -> Image.Image:
        """The input, RGB, upright."""

    @property
    def note(self) -> str:
        """What was done to stay within `memory` that changes the prediction; empty = nothing."""

    def save(self, path: str | Path) -> None:
        """Write the data file."""

    def overlay(self) -> Image.Image:
        """Something to look at."""

    def facts(self) -> dict[str, Any]:
        """What the manifest says of it."""


@dataclass(frozen=True, repr=False)
class SegmentationPrediction:
    """Class of each pixel, at the size of the input image."""

    labels: Tensor
    """`(H, W)` index into `classes`, uint8, or int32 with more than 255 of them; on the CPU."""
    classes: tuple[str, ...]
    """Class names, in the order of the labels."""
    image: Image.Image
    """The input, RGB, upright."""
    scores: Tensor | None = None
    """`(n, H, W)` probabilities, where they were asked for."""
    note: str = ""
    """What was done to stay within `memory` that changes the prediction, such as windows; empty = nothing."""

    def __repr__(self) -> str:
        found = [f"{each['name']} {percent(each['share'])}" for each in self.facts()["classes"]]
        return _line(self, first_names(found))

    def save(self, path: str | Path) -> None:
        """Write the labels as a PNG of 8 bits, or 16 with more than 255 classes; the names stand in its text.

        Raises:
            UsageError: If the name does not end in `.png`, or there are more classes than 16 bits hold.
        """
        if len(self.classes) > _LARGEST_16_BIT:
            raise UsageError(f"{len(self.classes)} classes do not fit a 16-bit PNG; keep `labels` as an array.")
        pixels = self.labels.numpy().astype(np.uint8 if len(self.classes) <= 255 else np.uint16)
        _save_png(path, pixels, {"classes": json.dumps(self.classes, ensure_ascii=False)})

    def overlay(self) -> Image.Image:
        """The image in the colours of the classes, above a legend with each class's share of the pixels."""
        return segmentation_picture(self.image, self.labels.numpy(), self.classes)

    def facts(self) -> dict[str, Any]:
        """Classes in the image with their label and share, largest first, for the manifest."""
        counts = np.bincount(self.labels.numpy().ravel(), minlength=len(self.classes))
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

    def __repr__(self) -> str:
        share = f"{percent(float(self.mask.float().mean()))} of the picture" if self.mask.any() else "nothing found"
        return _line(self, f"{self.text!r}, {share}")

    def save(self, path: str | Path) -> None:
        """Write the mask as an 8-bit PNG, 0 or 255; the expression stands in its text.

        Raises:
            UsageError: If the name does not end in `.png`.
        """
        _save_png(path, self.mask.numpy().astype(np.uint8) * np.uint8(255), {"text": self.text})

    def overlay(self) -> Image.Image:
        """The image with the object tinted and outlined, above the expression."""
        return mask_picture(self.image, self.mask.numpy(), self.text)

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

    def __repr__(self) -> str:
        near_m, far_m = float(self.depth_m.min()), float(self.depth_m.max())
        return _line(self, f"{near_m:.2f} to {far_m:.2f} m" + (f", {self.scene}" if self.scene else ""))

    @property
    def metres_per_step(self) -> float:
        """What one step of a pixel means in the data file; see `metres_per_step`."""
        return metres_per_step(self.max_depth_m)

    def save(self, path: str | Path) -> None:
        """Write the depth as a 16-bit PNG, 0 = none; `metres_per_step` stands in its text.

        Raises:
            UsageError: If the name does not end in `.png`.
        """
        depth_m = self.depth_m.numpy().astype(np.float64)
        is_known = np.isfinite(depth_m) & (depth_m > 0)
        steps = (np.where(is_known, depth_m, 0) / self.metres_per_step).round().clip(1, _LARGEST_16_BIT)
        _save_png(path, np.where(is_known, steps, 0).astype(np.uint16), {DEPTH_SCALE_KEY: str(self.metres_per_step)})

    def overlay(self) -> Image.Image:
        """The depth in colours, above a scale in metres."""
        return depth_picture(self.depth_m.numpy())

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


def _line(prediction: Prediction, found: str) -> str:
    """A prediction in one line."""
    note = f"; {prediction.note}" if prediction.note else ""
    return f"{type(prediction).__name__}({prediction.image.width}x{prediction.image.height} px: {found}{note})"


def _note(note: str) -> dict[str, str]:
    return {"note": note} if note else {}


def _save_png(path: str | Path, pixels: NDArray[Any], texts: dict[str, str]) -> None:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"Predictions are saved as PNG, which loses nothing; {path.name!r} must end in .png.")
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    with atomic_write(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info)
