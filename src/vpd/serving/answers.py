"""Predictions in the forms in which they leave the service."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vpd.drawing.overlays import save_jpeg
from vpd.errors import UsageError
from vpd.serving.point_cloud import point_cloud
from vpd.serving.schemas import Answer, DepthAnswer, FoundClass, ReferAnswer, Rle, SegmentAnswer
from vpd.serving.served import Answered
from vpd.tasks.conversions import run_lengths
from vpd.tasks.predictions import Prediction


class File(NamedTuple):
    """A file to send."""

    content: bytes
    kind: str
    """Media type."""
    name: str
    """What a browser saves it as."""


def data_file(prediction: Any) -> bytes:
    """The PNG that `vpd predict` writes."""
    buffer = io.BytesIO()
    prediction.save(buffer)
    return buffer.getvalue()


def array_file(prediction: Any) -> bytes:
    """The pixels in NumPy's format: labels, probabilities, or metres."""
    for name in ("labels", "probability", "depth_m"):
        if hasattr(prediction, name):
            buffer = io.BytesIO()
            np.save(buffer, getattr(prediction, name).numpy(), allow_pickle=False)
            return buffer.getvalue()
    raise UsageError(f"{type(prediction).__name__} has no pixels to send.")


def overlay_file(prediction: Any) -> bytes:
    """The picture that `vpd predict` draws."""
    buffer = io.BytesIO()
    save_jpeg(prediction.overlay(), buffer)
    return buffer.getvalue()


def as_file(prediction: Prediction, kind: str, *, fov_deg: float | None = None) -> File:
    """A prediction as `png`, `npy`, `overlay` or `ply`.

    Raises:
        UsageError: If points are asked for without a field of view.
    """
    if kind == "ply":
        if fov_deg is None:
            raise UsageError("format=ply needs fov_deg, the camera's field of view in degrees, such as fov_deg=65.")
        depth: Any = prediction  # no other has points
        near_m, far_m = depth.shown_m or (0.0, math.inf)
        points = point_cloud(depth.numpy(), depth.image, fov_deg=fov_deg, near_m=near_m, far_m=far_m)
        return File(points, "application/ply", "points.ply")
    make, media, name = _FILES[kind]
    return File(make(prediction), media, name)


_FILES: dict[str, tuple[Callable[[Any], bytes], str, str]] = {
    "png": (data_file, "image/png", "prediction.png"),
    "npy": (array_file, "application/x-npy", "prediction.npy"),
    "overlay": (overlay_file, "image/jpeg", "overlay.jpg"),
}


def as_answer(answered: Answered, model: str) -> Answer:
    """A prediction as one of the typed answers."""
    prediction: Any = answered.prediction
    facts = prediction.facts()
    notes = [*answered.notes, *([f"run {note}"] if (note := facts.pop("note", "")) else [])]
    common = {"model": model, "height": prediction.image.height, "width": prediction.image.width, "notes": notes}
    if hasattr(prediction, "labels"):
        labels = prediction.labels.numpy()
        found = [FoundClass(**each, rle=to_rle(labels == each["label"])) for each in facts["classes"]]
        return SegmentAnswer(**common, classes=found)
    if hasattr(prediction, "mask"):
        return ReferAnswer(**common, **facts, rle=to_rle(prediction.mask.numpy()))
    return DepthAnswer(**common, **facts)


def to_rle(mask: NDArray[np.bool_]) -> Rle:
    """A mask `(H, W)` in COCO's code."""
    return Rle(**run_lengths(mask))
