"""From image files to data files and pictures: what one worker of a prediction run does, in whatever process."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vpd.errors import UsageError
from vpd.files.atomic import atomic_write
from vpd.files.images import Picture, read_picture
from vpd.inference.memory import BudgetError
from vpd.inference.outputs import NOT_NUMBERS, OutputError
from vpd.optimising import found_options, optimise
from vpd.prediction_jobs.output_names import Item, path_below
from vpd.prediction_jobs.source_state import SourceState
from vpd.tasks.model import PerceptionModel
from vpd.tasks.predictions import Prediction

_JPEG_MAX_PX = 65_500
_THREADS = 8  # most of writing is waiting for the disk
_MOST_WAITING_PX = 8_000_000  # of pictures whose files are being written, for the sake of memory
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
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vpd-files")

    def run(self, chunks: Iterable[Chunk]) -> Iterator[Outcome]:
        """Predict chunks and write the files of the images that are wanted; yields each of these when it is done.

        The next chunk is read, and files are written, while the model runs, unless there is a budget of memory.
        """
        if self._fast is not None:
            self._model, self._fast = optimise(self._model, **self._fast), None
        waiting: deque[tuple[int, Future[Outcome]]] = deque()
        try:
            for chunk, readings in self._read_ahead(chunks):
                readable: list[_Read] = []
                for item, reading in zip(chunk.items, readings, strict=True):
                    try:
                        readable.append(reading.result())
                    except UsageError as error:
                        if item.source in chunk.wanted:
                            yield Outcome(item.source, error=str(error))
                predictions = self._predict([read.picture.image for read in readable])
                for read, prediction in zip(readable, predictions, strict=True):
                    source = read.item.source
                    if source not in chunk.wanted:
                        continue
                    if isinstance(prediction, str):
                        yield Outcome(source, error=f"{source}: {prediction}")
                    else:
                        pixels = read.picture.image.width * read.picture.image.height
                        waiting.append((pixels, self._threads.submit(self._write, read, prediction)))
                del readable, predictions  # or they would be there while the next are read
                most = 0 if self._is_frugal else max(_THREADS, len(chunk.items))
                while len(waiting) > most or sum(pixels for pixels, _ in waiting) > _MOST_WAITING_PX:
                    yield waiting.popleft()[1].result()
            while waiting:
                yield waiting.popleft()[1].result()
        finally:
            for _, writing in waiting:
                writing.cancel()

    def _read_ahead(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, list[Future[_Read]]]]:
        """Chunks with their pictures being read, those of the next one too."""
        started: deque[tuple[Chunk, list[Future[_Read]]]] = deque()
        for chunk in chunks:
            started.append((chunk, [self._threads.submit(_read, item, self._stretch) for item in chunk.items]))
            if len(started) > 1 or self._is_frugal:
                yield started.popleft()
        yield from started

    def _predict(self, images: Sequence[Image.Image]) -> Iterator[Prediction | str]:
        """Predictions of a chunk; where they cannot all be made, of one image after the other, or why there is none."""
        if not images:
            return
        if len(images) == 1 or not self._one_by_one:
            try:
                yield from self._model.predict(list(images), batch_size=len(images), **self._call_options)
                return
            except BudgetError as error:  # one of them is too big; chunks to come may hold none such
                reason = str(error)
            except OutputError:  # the others of the chunk may be as they should
                reason = f"{NOT_NUMBERS}: weights damaged, or --dtype overflows"
            except (MemoryError, RuntimeError) as error:
                # torch's on the CPU has no type of its own
                is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
                if not is_memory and "can't allocate memory" not in str(error):
                    raise
                reason = "not enough memory; give --memory or a smaller --size"
                if len(images) > 1:
                    logger.warning("not enough memory for %d images at once; going on one by one", len(images))
                    self._one_by_one = True
            if len(images) == 1:
                yield reason
                return
        for image in images:
            yield from self._predict([image])

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


def _read(item: Item, stretch: bool) -> _Read:
    """Read an image, and before it what the file is; where there is none, reading it will say so better."""
    try:
        state = SourceState.of_file(item.source)
    except OSError:
        state = SourceState(0)
    return _Read(item, state, read_picture(item.source, stretch=stretch))
