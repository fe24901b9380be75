"""From image files to data files and pictures: what one worker of a prediction run does, in whatever process."""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice, tee
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vpd.inference.memory import BudgetError
from vpd.inference.outputs import NOT_NUMBERS, OutputError
from vpd.inference.overlapped import Room, overlapped, threads_for
from vpd.inference.resize import Fitted
from vpd.optimising import found_options, optimise
from vpd.prediction_jobs.image_files import ImageFiles
from vpd.prediction_jobs.items import Chunk, Kind, Outcome, Read
from vpd.tasks.model import PerceptionModel
from vpd.tasks.predictions import Prediction

_THREADS, _MOST_WAITING_PX = 8, 8_000_000  # of writing, mostly waiting for the disk; the pixels for memory's sake
_NO_MEMORY = "not enough memory; give --memory or a smaller --size"
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

logger = logging.getLogger(__name__)


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
        self.out = Path(out)
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
        self.model, self.call_options = model.for_words(given)
        """Who predicts, and the arguments of its `predict`."""
        asked = {name: value for name, value in self.call_options.items() if name in self.model.words}
        self.model.predict([], **self.call_options)  # refuses what it cannot do before anything is listed or written
        self.model.prompts(1, **asked).text([0], None)
        self._one_by_one = False
        self._is_frugal = "memory" in given
        self._at_once, self._room, self._more = 0, Room(0), dict[str, Any]()
        self._image_files: Kind = ImageFiles(self.out, self.origin, stretch=stretch)

    def run(
        self, chunks: Iterable[Chunk], kind: Kind | None = None, *, is_live: bool = False, **more: Any
    ) -> Iterator[Any]:
        """Predict chunks and write the files of the images that are wanted; yields each of these when it is done.

        Args:
            chunks: What to predict.
            kind: What their items are; none = image files.
            is_live: Whether what waits grows old: then nothing is read ahead.
            more: Further arguments of the model's `predict`; with a `smoother`, one chunk after the other.

        Pictures are read ahead, and files are written, by threads while the model runs, and a GPU is given the next
        chunk before it is done with one; with a budget of memory, all is done one after the other. What was predicted
        before an error is written and yielded first.
        """
        if self._fast is not None:
            self.model, self._fast = optimise(self.model, **self._fast), None
        limits, how = threads_for(self.model), self._image_files if kind is None else kind
        self._more, is_ordered = more, more.get("smoother") is not None
        self._at_once = 0 if self._is_frugal or is_ordered or is_live else limits.network
        readers = 0 if self._is_frugal or is_live else limits.readers
        self._room = Room(self._at_once)
        waiting: deque[tuple[int, Future[Any]]] = deque()
        with (
            ThreadPoolExecutor(_THREADS, thread_name_prefix="vpd-files") as writers,
            closing(self._read_ahead(chunks, how, readers, limits.most_read_px)) as read,
            closing(overlapped(self._predicted, read, threads=self._at_once, device=self.model.device)) as done,
        ):
            try:
                for chunk, found, predictions in done:
                    yield from self._begin_to_write(chunk, found, predictions, writers, how, waiting)
                    most = 0 if self._is_frugal else max(_THREADS, len(chunk.items))
                    del found, predictions  # or they would be there while the next are read
                    while waiting and (
                        waiting[0][1].done()
                        or len(waiting) > most
                        or sum(pixels for pixels, _ in waiting) > _MOST_WAITING_PX
                    ):
                        yield waiting.popleft()[1].result()
                while waiting:
                    yield waiting.popleft()[1].result()
            except Exception:
                yield from (writing.result() for _, writing in waiting if writing.exception() is None)
                raise
            finally:
                for _, writing in waiting:
                    writing.cancel()

    def _begin_to_write(
        self,
        chunk: Chunk,
        found: Sequence[Read | Outcome],
        predictions: Iterable[Prediction | str],
        writers: ThreadPoolExecutor,
        kind: Kind,
        waiting: deque[tuple[int, Future[Any]]],
    ) -> Iterator[Outcome]:
        """Hand a chunk's predictions to those who write, with their pixels; yields what was skipped."""
        yield from (each for each in found if isinstance(each, Outcome) and each.source in chunk.wanted)
        readable = [each for each in found if isinstance(each, Read)]
        for read, prediction in zip(readable, predictions, strict=True):
            source, image = read.item.source, read.picture.image
            if source not in chunk.wanted:
                continue
            if isinstance(prediction, str):
                yield Outcome(source, error=f"{source}: {prediction}")
            else:
                waiting.append((image.width * image.height, writers.submit(kind.write, read, prediction)))

    def _read_ahead(
        self, chunks: Iterable[Chunk], kind: Kind, readers: int, most_px: int
    ) -> Generator[tuple[Chunk, list[Read | Outcome]], None, None]:
        """Chunks with their pictures, or what became of those that cannot be read."""
        fit = self.model.fit_at(self.call_options.get("size"))
        ahead, own = tee(chunks)
        pictures = overlapped(
            partial(kind.read, fit=fit, fit_now=not self._is_frugal),
            (item for chunk in ahead for item in chunk.items),
            threads=readers,
            cost=_pixels,
            most_cost=most_px,
        )
        with closing(pictures):
            for chunk in own:
                yield chunk, list(islice(pictures, len(chunk.items)))
            next(pictures, None)  # an error of the chunks, which came to who reads ahead

    def _predicted(
        self, read: tuple[Chunk, list[Read | Outcome]]
    ) -> tuple[Chunk, list[Read | Outcome], Iterable[Prediction | str]]:
        """A chunk, and what is predicted for those of its pictures that were read."""
        chunk, found = read
        predictions = self._predict([each.fitted or each.picture.image for each in found if isinstance(each, Read)])
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
        options = {**self.call_options, **self._more}
        with self._room.taken(alone=alone):
            try:
                made: list[Prediction] = self.model.predict(list(images), batch_size=len(images), **options)
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


def model_fingerprint(config: str, weights: Mapping[str, Tensor]) -> str:
    """16 letters that change with a model's configuration and weights; quick, and no protection against intent."""
    digest = hashlib.sha256(config.encode())
    for name, tensor in sorted(weights.items()):
        total = int(tensor.view(_BITS[tensor.element_size()]).sum(dtype=torch.int64))
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {total}\n".encode())
    return digest.hexdigest()[:16]


def _pixels(read: Read | Outcome) -> int:
    """What is kept of an image that was read, 3 bytes each."""
    return read.fitted.pixels if isinstance(read, Read) and read.fitted else 0
