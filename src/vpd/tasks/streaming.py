"""Predictions for the frames of a clip or stream, as they come, with a bounded number of them in memory."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from PIL import Image

from vpd.config import Resize
from vpd.errors import UsageError
from vpd.inference.inputs import whole_number
from vpd.inference.memory import Memory
from vpd.inference.outputs import OutputError
from vpd.inference.overlapped import overlapped, threads_for
from vpd.inference.plan import check_fitted_size
from vpd.inference.resize import Fitted
from vpd.inference.smoothing import Smoother
from vpd.video.arriving import arriving
from vpd.video.frames import MOST_FRAMES, Frame
from vpd.video.opening import open_clip

logger = logging.getLogger(__name__)

Read = tuple[Frame, Fitted | Image.Image | UsageError]
"""A frame, and its picture or why there is none."""


def stream(
    model: Any,
    source: Any,
    *,
    smooth: int | None,
    fps: float | None,
    frames: int | None,
    size: int | None,
    batch_size: int,
    memory: Memory | None,
    **words: Any,
) -> Iterator[Any]:
    """What `PerceptionModel.stream` does, for a model."""
    most = MOST_FRAMES if frames is None else whole_number(frames, "frames")
    batch_size = whole_number(batch_size, "batch_size")
    smoother = Smoother(smooth) if smooth is not None else None
    prepared, options = model.for_words({"size": size, "memory": memory, **words})
    prepared.predict([], **options)  # refuses what it cannot do before anything is opened
    return _predictions(prepared, source, fps, most, batch_size, {**options, "smoother": smoother})


def _predictions(
    model: Any, source: Any, fps: float | None, most: int, batch_size: int, options: dict[str, Any]
) -> Iterator[Any]:
    limits = threads_for(model)
    is_free = options["memory"] is None  # within a budget, one after the other

    def predicted(chunk: list[Read]) -> list[Any]:
        return _predict(model, chunk, options)

    with ExitStack() as stack:
        clip = stack.enter_context(open_clip(source, fps=fps))
        is_ahead = is_free and not clip.is_live  # a live frame that waited would not be the newest any more
        frames = stack.enter_context(closing(arriving(clip, most=most)))
        read = overlapped(
            partial(read_frame, fit=model.fit_at(options["size"]), fit_now=is_free),
            frames,
            threads=limits.readers if is_ahead else 0,
            cost=_pixels,
            most_cost=limits.most_read_px,
        )
        chunks = _chunks(stack.enter_context(closing(read)), batch_size)
        network = limits.network if is_ahead and options["smoother"] is None else 0
        made = stack.enter_context(closing(overlapped(predicted, chunks, threads=network, device=model.device)))
        for predictions in made:
            yield from predictions
        if clip.note:
            logger.warning("%s", clip.note)


def _predict(model: Any, chunk: list[Read], options: dict[str, Any]) -> list[Any]:
    """Predictions for frames that go through the network together; what is no number is left out."""
    frames, pictures = [frame for frame, _ in chunk], [picture for _, picture in chunk]
    try:
        made = model.predict(pictures, batch_size=len(pictures), **options)
    except OutputError as error:
        if len(chunk) > 1:
            return [prediction for each in chunk for prediction in _predict(model, [each], options)]
        logger.warning("%s: %s", frames[0].name, error.reason)
        return []
    return [placed(prediction, frame) for frame, prediction in zip(frames, made, strict=True)]


def placed(prediction: Any, frame: Frame) -> Any:
    """A prediction that tells the number and time of its frame, where its type has fields for them."""
    if {"frame", "time_s"} <= {field.name for field in dataclasses.fields(prediction)}:
        return dataclasses.replace(prediction, frame=frame.number, time_s=frame.time_s)
    return prediction


def _chunks(read: Iterator[Read], size: int) -> Iterator[list[Read]]:
    """Frames that are whole, so many at a time; the others are named."""
    chunk: list[Read] = []
    for frame, picture in read:
        if isinstance(picture, UsageError):
            logger.warning("skipped %s", picture)
            continue
        chunk.append((frame, picture))
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def read_frame(frame: Frame, *, fit: Resize, fit_now: bool) -> Read:
    """A frame with its picture, fitted if it shall be."""
    try:
        image = frame.read()
        check_fitted_size(image, fit, frame.name)
    except UsageError as error:
        return frame, error
    return frame, Fitted.of(image, fit) if fit_now else image


def _pixels(read: Read) -> int:
    """Of all that is kept of a frame, 3 bytes each."""
    return read[1].pixels if isinstance(read[1], Fitted) else 0
