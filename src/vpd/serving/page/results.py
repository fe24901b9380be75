"""Answers that a browser is looking at: kept in memory for a while, and handed out part by part."""

from __future__ import annotations

import io
import math
import secrets
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from fastapi import APIRouter, HTTPException, Response
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import FileResponse, JSONResponse

from vpd.drawing.colours import class_colours, depth_colours
from vpd.drawing.overlays import MASK_COLOUR, depth_range
from vpd.errors import UsageError
from vpd.serving.answers import as_answer, as_file
from vpd.serving.point_cloud import point_cloud
from vpd.serving.served import Answered
from vpd.tasks.predictions import DepthPrediction, read_shown_range

VIEW_PX = 1280
"""Longest side of what is drawn in the browser; files have the picture's own size."""
_MOST_BYTES, _KEPT_S = 200_000_000, 900.0
_MOST_DEPTH_STEPS = 65_535


class Kept(NamedTuple):
    """An answer, or a file, and when it was made."""

    answered: Answered | None
    model: str
    file: Path | None
    size_bytes: int
    made_s: float


class Results:
    """The last answers, each under a name that cannot be guessed.

    Args:
        most_bytes: Of all that is kept, or of the newest alone where it has more; the oldest goes first.
        kept_s: How long, seconds.
    """

    def __init__(self, *, most_bytes: int = _MOST_BYTES, kept_s: float = _KEPT_S) -> None:
        self._most_bytes, self._kept_s = most_bytes, kept_s
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = Lock()

    def add(self, answered: Answered, model: str) -> str:
        """Keep an answer; gives its name."""
        prediction: Any = answered.prediction
        size = 3 * prediction.image.width * prediction.image.height + sum(
            4 * one.attention.numel() for one in answered.words
        )
        size += _pixels(prediction).nbytes + (prediction.mask.nbytes if hasattr(prediction, "mask") else 0)
        return self._add(Kept(answered, model, None, size, time.monotonic()))

    def add_file(self, file: Path) -> str:
        """Hand out a file, as long as it is there."""
        return self._add(Kept(None, "", file, 0, time.monotonic()))

    def _add(self, kept: Kept) -> str:
        name = secrets.token_urlsafe(18)
        with self._lock:
            self._kept[name] = kept
            self._drop_old()
            total = sum(each.size_bytes for each in self._kept.values())
            for old in list(self._kept):
                if old != name and total > self._most_bytes:
                    total -= self._kept.pop(old).size_bytes
        return name

    def sweep(self, now_s: float | None = None) -> None:
        """Let go of what is older than it is kept."""
        with self._lock:
            self._drop_old(now_s)

    def _drop_old(self, now_s: float | None = None) -> None:
        now_s = time.monotonic() if now_s is None else now_s
        for name, kept in list(self._kept.items()):
            if now_s - kept.made_s > self._kept_s:
                del self._kept[name]

    def get(self, name: str) -> Kept:
        """What is kept under a name.

        Raises:
            LookupError: If there is nothing, or nothing any more.
        """
        with self._lock:
            self._drop_old()
            kept = self._kept.get(name)
            if kept is None:
                raise LookupError("This result is not kept any more: run the picture again.")
            return kept


def results_router(results: Results) -> APIRouter:
    """Paths under which the viewer asks for the parts of a result."""
    router = APIRouter(prefix="/page/results", include_in_schema=False)

    def kept(name: str) -> Any:
        try:
            return results.get(name)
        except LookupError as error:
            raise HTTPException(404, str(error)) from None

    def answered(name: str) -> Answered:
        found = kept(name).answered
        if found is None:
            raise HTTPException(404, "This is no prediction.")
        answer: Answered = found
        return answer

    @router.get("/{name}")
    def describe(name: str) -> JSONResponse:
        return JSONResponse(describe_view(answered(name)))

    @router.get("/{name}/base.jpg")
    def base(name: str) -> Response:
        image = answered(name).prediction.image
        buffer = io.BytesIO()
        view = image.resize(_view_size(image), Image.Resampling.BILINEAR)
        view.save(buffer, format="JPEG", quality=92, subsampling=0)
        return Response(buffer.getvalue(), media_type="image/jpeg")

    @router.get("/{name}/values")
    def values(name: str) -> Response:
        return Response(_view_values(answered(name).prediction).tobytes(), media_type="application/octet-stream")

    @router.get("/{name}/word-{number}")
    def word(name: str, number: int) -> Response:
        words = answered(name).words
        if not 0 <= number < len(words):
            raise HTTPException(404, "There is no such word.")
        attention = words[number].attention
        low, high = float(attention.min()), float(attention.max())
        share = (attention - low) / max(high - low, 1e-12) * 255
        return Response(share.round().byte().numpy().tobytes(), media_type="application/octet-stream")

    @router.get("/{name}/points.ply")
    def points(name: str, fov_deg: float, near_m: float = 0.0, far_m: float = math.inf) -> Response:
        prediction: Any = answered(name).prediction
        if not hasattr(prediction, "depth_m") or not 0 < fov_deg < 180:
            raise HTTPException(422, "Points need depth, and a field of view between 0 and 180 degrees.")
        made = point_cloud(prediction.depth_m.numpy(), prediction.image, fov_deg=fov_deg, near_m=near_m, far_m=far_m)
        return _attachment(made, "application/ply", "points.ply")

    @router.get("/{name}/answer.json")
    def answer(name: str) -> Response:
        found = kept(name)
        content = as_answer(answered(name), found.model).model_dump_json(indent=1).encode()
        return _attachment(content, "application/json", "prediction.json")

    @router.get("/{name}/file/{kind}")
    def file(name: str, kind: str, near_m: float | None = None, far_m: float | None = None) -> Response:
        if kind not in ("png", "npy", "overlay"):
            raise HTTPException(404, "There is no such file.")
        prediction = answered(name).prediction
        if isinstance(prediction, DepthPrediction):  # in the colours that the viewer shows
            try:
                shown_m = read_shown_range(near_m, far_m, prediction.max_depth_m)
            except UsageError as error:
                raise HTTPException(422, str(error)) from None
            prediction = replace(prediction, shown_m=shown_m)
        made = as_file(prediction, kind)
        return _attachment(made.content, made.kind, made.name)

    @router.get("/{name}/predictions.zip")
    def archive(name: str) -> FileResponse:
        found = kept(name).file
        if found is None or not found.is_file():
            raise HTTPException(404, "This archive is not kept any more: run the pictures again.")
        return FileResponse(found, media_type="application/zip", filename="predictions.zip")

    return router


def describe_view(answered: Answered) -> dict[str, Any]:
    """What the viewer needs to know to draw a prediction; parts of it come from paths below its own."""
    prediction: Any = answered.prediction
    width, height = _view_size(prediction.image)
    facts = prediction.facts()
    view: dict[str, Any] = {
        "width": width,
        "height": height,
        "full": [prediction.image.width, prediction.image.height],
        "bytes_each": _view_values(prediction).dtype.itemsize,
        "notes": [*answered.notes, *([facts["note"]] if facts.get("note") else [])],
        "words": [
            {"word": one.word, "width": one.attention.shape[1], "height": one.attention.shape[0]}
            for one in answered.words
        ],
    }
    if hasattr(prediction, "labels"):
        colours = class_colours().tolist()
        classes = [{**found, "colour": colours[found["label"] % 256]} for found in facts["classes"]]
        return {**view, "kind": "classes", "classes": classes}
    if hasattr(prediction, "mask"):
        told = {name: facts.get(name) for name in ("text", "share", "presence", "presence_is_calibrated")}
        return {**view, "kind": "mask", "colour": list(MASK_COLOUR), **told}
    near_m, far_m = depth_range(prediction.depth_m.numpy())
    return {
        **view,
        "kind": "depth",
        "near_m": round(near_m, 2),
        "far_m": round(far_m, 2),
        "metres_per_step": _view_step_m(prediction),
        "colours": depth_colours().tolist(),
        "scene": facts["scene"],
    }


def _pixels(prediction: Any) -> NDArray[Any]:
    for name in ("labels", "probability", "depth_m"):
        if hasattr(prediction, name):
            return np.asarray(getattr(prediction, name).numpy())
    raise TypeError(f"{type(prediction).__name__} has no pixels.")


def _view_size(image: Image.Image) -> tuple[int, int]:
    scale = min(1.0, VIEW_PX / max(image.size))
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def _view_step_m(prediction: Any) -> float:
    return float(prediction.max_depth_m) / _MOST_DEPTH_STEPS


def _view_values(prediction: Any) -> NDArray[Any]:
    """Numbers at the view's size: labels, probability in percent plus 128 in the mask, or steps of depth."""
    width, height = _view_size(prediction.image)
    pixels = _pixels(prediction)
    rows = ((np.arange(height) + 0.5) * pixels.shape[0] / height).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * pixels.shape[1] / width).astype(np.int64)
    pixels = pixels[rows[:, None], columns[None]]
    if hasattr(prediction, "labels"):
        return pixels.astype("<u2") if len(prediction.classes) > 255 else pixels.astype(np.uint8)
    if hasattr(prediction, "mask"):
        inside = prediction.mask.numpy()[rows[:, None], columns[None]]
        return (pixels * 100).round().astype(np.uint8) + np.uint8(128) * inside
    known = np.isfinite(pixels) & (pixels > 0)
    steps = np.where(known, pixels / _view_step_m(prediction), 0).round().clip(0, _MOST_DEPTH_STEPS)
    return steps.astype("<u2")


def _attachment(content: bytes, kind: str, name: str) -> Response:
    return Response(content, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})
