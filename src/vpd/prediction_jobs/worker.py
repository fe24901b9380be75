"""From image files to data files and pictures: what one worker of a prediction run does, in whatever process."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice, tee
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vpd.config import Resize
from vpd.errors import UsageError
from vpd.files.atomic import atomic_write
from vpd.files.images import Picture, read_picture
from vpd.inference.memory import BudgetError
from vpd.inference.outputs import NOT_NUMBERS, OutputError
from vpd.inference.overlapped import Room, Threads, overlapped, threads_for
from vpd.inference.plan import check_fitted_size
from vpd.inference.resize import Fitted
from vpd.optimising import found_options, optimise
from vpd.prediction_jobs.output_names import Item, path_below
from vpd.prediction_jobs.source_state import SourceState
from vpd.tasks.model import PerceptionModel
from vpd.tasks.predictions import Prediction

_JPEG_MAX_PX = 65_500
_THREADS, _MOST_WAITING_PX = 8, 8_000_000  # of writing, mostly waiting for the disk; the pixels for memory's sake
_NO_MEMORY = "not enough memory; give --memory or a smaller --size"
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Images that are read and predicted together."""

    items: tuple[Item, ...]
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


class _Read(NamedTuple):
    """An image that was read."""

    item: Item
    state: SourceState
    picture: Picture
    fitted: Fitted | None
    """The picture as the network takes it; none = it is fitted when its turn comes."""


class Predictor:
    """A model with all that decides its predictions, and the folder they go to.

    Args:
        model: Of any task.
        out: Folder to write into; each file is written whole or not at all.
        model_name: What the manifest calls the model.
        options: Arguments of the model's `predict` (`text`, `classes`, `scene`, `size`, `memory`); none are left out.
            With `memory`, images are read, predicted and written one chunk after the other, not at the same time.
        fast: Arguments of `vpd.optimise`, which makes the model that runs, with `dtype`; none = the model as it is.
        stretch: Read pictures of more than 8 bits stretched, as `vpd.files.images.read_image` does.

    Raises:
        UsageError: If the model refuses the options, or `vpd.optimise` would.
    """

    def __init__(
        self,
        model: PerceptionModel[Any],
        out: str | Path,
        *,
        model_name: str,
        options: Mapping[str, Any],
        fast: Mapping[str, Any] | None = None,
        stretch: bool = False,
    ) -> None:
        self.out, self._stretch = Path(out), stretch
        given = {key: value for key, value in options.items() if value is not None}
        self._fast = None if fast is None else found_options(model, **fast)
        runs_in = model.dtype if self._fast is None else self._fast["dtype"]
        told = {**given, "dtype": str(runs_in).removeprefix("torch.")}
        if fast is not None and self._fast is not None:
            told["fast"] = str(fast.get("dtype", "auto"))
            told |= {name: value for name in ("merge_above", "compile_mode") if (value := fast.get(name))}
            if (encoder := self._fast["encoder"]) is not None:
                told["encoder"] = model_fingerprint(encoder.config.model_dump_json(), encoder.state_dict())
        if stretch:
            told["stretch"] = True
        self.origin = {
            "task": model.task,
            "model": model_name,
            "fingerprint": model_fingerprint(model.config.model_dump_json(), model.state_dict()),
            "options": told,
        }
        """What every manifest line says of how the prediction was made."""
        self._model, self._call_options = model.for_words(given)
        asked = {name: value for name, value in self._call_options.items() if name in self._model.words}
        self._model.predict([], **self._call_options)  # refuses what it cannot do before anything is listed or written
        self._model.prompts(1, **asked).text([0], None)
        self._one_by_one = False
        self._is_frugal = "memory" in given
        self._at_once, self._room = 0, Room(0)

    def run(self, chunks: Iterable[Chunk]) -> Iterator[Outcome]:
        """Predict chunks and write the files of the images that are wanted; yields each of these when it is done.

        Pictures are read ahead, and files are written, by threads while the model runs, and a GPU is given the next
        chunk before it is done with one; with a budget of memory, all is done one after the other.
        """
        if self._fast is not None:
            self._model, self._fast = optimise(self._model, **self._fast), None
        limits = threads_for(self._model)
        self._at_once = 0 if self._is_frugal else limits.network
        self._room = Room(self._at_once)
        waiting: deque[tuple[int, Future[Outcome]]] = deque()
        with (
            ThreadPoolExecutor(_THREADS, thread_name_prefix="vpd-files") as writers,
            closing(self._read_ahead(chunks, limits)) as read,
            closing(overlapped(self._predicted, read, threads=self._at_once, device=self._model.device)) as done,
        ):
            try:
                for chunk, found, predictions in done:
                    yield from self._begin_to_write(chunk, found, predictions, writers, waiting)
                    most = 0 if self._is_frugal else max(_THREADS, len(chunk.items))
                    del found, predictions  # or they would be there while the next are read
                    while len(waiting) > most or sum(pixels for pixels, _ in waiting) > _MOST_WAITING_PX:
                        yield waiting.popleft()[1].result()
                while waiting:
                    yield waiting.popleft()[1].result()
            finally:
                for _, writing in waiting:
                    writing.cancel()

    def _begin_to_write(
        self,
        chunk: Chunk,
        found: Sequence[_Read | Outcome],
        predictions: Iterable[Prediction | str],
        writers: ThreadPoolExecutor,
        waiting: deque[tuple[int, Future[Outcome]]],
    ) -> Iterator[Outcome]:
        """Hand a chunk's predictions to those who write, with their pixels; yields what was skipped."""
        yield from (each for each in found if isinstance(each, Outcome) and each.source in chunk.wanted)
        readable = [each for each in found if isinstance(each, _Read)]
        for read, prediction in zip(readable, predictions, strict=True):
            source, image = read.item.source, read.picture.image
            if source not in chunk.wanted:
                continue
            if isinstance(prediction, str):
                yield Outcome(source, error=f"{source}: {prediction}")
            else:
                waiting.append((image.width * image.height, writers.submit(self._write, read, prediction)))

    def _read_ahead(
        self, chunks: Iterable[Chunk], limits: Threads
    ) -> Generator[tuple[Chunk, list[_Read | Outcome]], None, None]:
        """Chunks with their pictures, or what became of those that cannot be read."""
        fit = self._model.fit_at(self._call_options.get("size"))
        ahead, own = tee(chunks)
        pictures = overlapped(
            partial(_read, stretch=self._stretch, fit=fit, fit_now=not self._is_frugal),
            (item for chunk in ahead for item in chunk.items),
            threads=0 if self._is_frugal else limits.readers,
            cost=_pixels,
            most_cost=limits.most_read_px,
        )
        with closing(pictures):
            for chunk in own:
                yield chunk, list(islice(pictures, len(chunk.items)))
            next(pictures, None)  # an error of the chunks, which came to who reads ahead

    def _predicted(
        self, read: tuple[Chunk, list[_Read | Outcome]]
    ) -> tuple[Chunk, list[_Read | Outcome], Iterable[Prediction | str]]:
        """A chunk, and what is predicted for those of its pictures that were read."""
        chunk, found = read
        predictions = self._predict([each.fitted or each.picture.image for each in found if isinstance(each, _Read)])
        return chunk, found, list(predictions) if self._at_once else predictions

    def _predict(self, images: Sequence[Image.Image | Fitted]) -> Iterator[Prediction | str]:
        """Predictions of a chunk; where they cannot all be made, of one image after the other, or why there is none."""
        if not images:
            return
        if len(images) == 1 or not self._one_by_one:
            made = self._together(images)
            if made is _NO_MEMORY and self._at_once > 1:  # another chunk may have taken it
                made = self._together(images, alone=True)
            if not isinstance(made, str):
                yield from made
                return
            if len(images) == 1:
                yield made
                return
            if made is _NO_MEMORY:
                logger.warning("not enough memory for %d images at once; going on one by one", len(images))
                self._one_by_one = True
        for image in images:
            yield from self._predict([image])

    def _together(self, images: Sequence[Image.Image | Fitted], *, alone: bool = False) -> Sequence[Prediction] | str:
        """Predictions of images that go through the network together, or why there are none.

        Args:
            images: At least one.
            alone: While no other thread predicts.
        """
        with self._room.taken(alone=alone):
            try:
                made: list[Prediction] = self._model.predict(list(images), batch_size=len(images), **self._call_options)
                return made
            except BudgetError as error:  # one of them is too big; chunks to come may hold none such
                return str(error)
            except OutputError:  # the others of the chunk may be as they should
                return f"{NOT_NUMBERS}: weights damaged, or --dtype overflows"
            except (MemoryError, RuntimeError) as error:
                # torch's on the CPU has no type of its own
                is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
                if not is_memory and "can't allocate memory" not in str(error):
                    raise
                return _NO_MEMORY

    def _write(self, read: _Read, prediction: Prediction) -> Outcome:
        """Write the files of an image."""
        item, picture = read.item, read.picture
        data = self.out / item.data
        data.parent.mkdir(parents=True, exist_ok=True)
        prediction.save(data)
        drawn = prediction.overlay()
        drawn.thumbnail((_JPEG_MAX_PX, _JPEG_MAX_PX))
        with atomic_write(self.out / item.picture) as temporary:
            drawn.save(temporary, format="JPEG", quality=90, subsampling=0)
        line = {
            "source": item.source,
            **read.state.fields(),
            **({} if item.below in ("", path_below(item.source, item.name)) else {"source_below": item.below}),
            **({"moved_from": item.moved_from} if item.moved_from else {}),
            "data": item.data,
            "picture": item.picture,
            "height": prediction.image.height,
            "width": prediction.image.width,
            **({"frames": picture.frames} if picture.frames > 1 else {}),
            **({"image_notes": picture.notes} if picture.notes else {}),
            **prediction.facts(),
            **self.origin,
        }
        return Outcome(item.source, line=line)


def model_fingerprint(config: str, weights: Mapping[str, Tensor]) -> str:
    """16 letters that change with a model's configuration and weights; quick, and no protection against intent."""
    digest = hashlib.sha256(config.encode())
    for name, tensor in sorted(weights.items()):
        total = int(tensor.view(_BITS[tensor.element_size()]).sum(dtype=torch.int64))
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {total}\n".encode())
    return digest.hexdigest()[:16]


def _read(item: Item, *, stretch: bool, fit: Resize, fit_now: bool) -> _Read | Outcome:
    """Read an image, and before it what the file is; where there is none, reading it will say so better."""
    try:
        state = SourceState.of_file(item.source)
    except OSError:
        state = SourceState(0)
    try:
        picture = read_picture(item.source, stretch=stretch)
        check_fitted_size(picture.image, fit, item.source)
    except UsageError as error:
        return Outcome(item.source, error=str(error))
    return _Read(item, state, picture, Fitted.of(picture.image, fit) if fit_now else None)


def _pixels(read: _Read | Outcome) -> int:
    """What is kept of an image that was read, 3 bytes each."""
    return read.fitted.pixels if isinstance(read, _Read) and read.fitted else 0
