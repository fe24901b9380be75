"""Image files of a prediction run: read with what they are, written as data file, picture and manifest line."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vpd.config import Resize
from vpd.drawing.overlays import save_jpeg
from vpd.errors import UsageError
from vpd.files.images import read_picture
from vpd.files.marks import write_marked
from vpd.inference.plan import check_fitted_size
from vpd.inference.resize import Fitted
from vpd.prediction_jobs.items import Outcome, Read
from vpd.prediction_jobs.output_names import Item, path_below
from vpd.prediction_jobs.source_state import SourceState
from vpd.tasks.predictions import Prediction


class ImageFiles:
    """How items that are image files are read and written.

    Args:
        out: Folder to write into.
        origin: What every manifest line says of how the prediction was made.
        stretch: Read pictures of more than 8 bits stretched.
    """

    def __init__(self, out: Path, origin: Mapping[str, Any], *, stretch: bool) -> None:
        self._out, self._origin, self._stretch = out, origin, stretch

    def read(self, item: Item, *, fit: Resize, fit_now: bool) -> Read | Outcome:
        """Read an image, and before it what the file is; where there is none, reading it will say so better."""
        try:
            state = SourceState.of_file(item.source)
        except OSError:
            state = SourceState(0)
        try:
            picture = read_picture(item.source, stretch=self._stretch)
            check_fitted_size(picture.image, fit, item.source)
        except UsageError as error:
            return Outcome(item.source, error=str(error))
        return Read(item, picture, Fitted.of(picture.image, fit) if fit_now else None, state)

    def write(self, read: Read, prediction: Prediction) -> Outcome:
        """Write the files of an image."""
        item, picture, state = read.item, read.picture, read.state or SourceState(0)
        data = self._out / item.data
        data.parent.mkdir(parents=True, exist_ok=True)
        write_marked(data, prediction.save)
        write_marked(self._out / item.picture, partial(save_jpeg, prediction.overlay()))
        line = {
            "source": item.source,
            **state.fields(),
            **({} if item.below in ("", path_below(item.source, item.name)) else {"source_below": item.below}),
            **({"moved_from": item.moved_from} if item.moved_from else {}),
            "data": item.data,
            "picture": item.picture,
            "height": prediction.image.height,
            "width": prediction.image.width,
            **({"frames": picture.frames} if picture.frames > 1 else {}),
            **({"image_notes": picture.notes} if picture.notes else {}),
            **prediction.facts(),
            **self._origin,
        }
        return Outcome(item.source, line=line)
