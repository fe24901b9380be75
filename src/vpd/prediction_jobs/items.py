"""What goes through a prediction run: items in chunks, what was read of them, what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from vpd.config import Resize
from vpd.files.images import Picture
from vpd.inference.resize import Fitted
from vpd.prediction_jobs.source_state import SourceState
from vpd.tasks.predictions import Prediction


@dataclass(frozen=True, slots=True)
class Chunk:
    """Images that are read and predicted together."""

    items: tuple[Any, ...]
    """Neighbours in the list of all images. All run together even where some are finished, so that an image's
    prediction, to the last bit, does not depend on where a run was stopped or how it is shared out."""
    wanted: frozenset[str]
    """Sources of those whose outputs are missing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one image."""

    source: str
    """The image."""
    line: dict[str, Any] | None = None
    """Its line for the manifest, once its files are written."""
    error: str | None = None
    """Why it was skipped; none = done."""


class Read(NamedTuple):
    """An image that was read."""

    item: Any
    """The `Item`, or whatever else a chunk holds."""
    picture: Picture
    fitted: Fitted | None
    """The picture as the network takes it; none = it is fitted when its turn comes."""
    state: SourceState | None = None
    """What its file was."""


class Kind(Protocol):
    """How items of a kind are read, and what is written of them; each is done by threads."""

    def read(self, item: Any, *, fit: Resize, fit_now: bool) -> Read | Outcome:
        """An item, or what became of it where it cannot be read."""

    def write(self, read: Read, prediction: Prediction) -> Any:
        """Write what belongs to a prediction; what is returned is what `Predictor.run` yields."""
