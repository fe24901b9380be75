"""Networks replayed instead of run: their kernels recorded for a shape of inputs, then launched all at once.

What a GPU computes for one picture is done before Python has launched its hundreds of kernels one by one; a recording
(a CUDA graph) launches them together. It is of fixed shapes and fixed addresses. This file keeps the books: what is
recorded when, how long it is kept, and when a network just runs. `cuda_recorder.py` beside it knows CUDA.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vpd.errors import first_line
from vpd.inference.cache import FrozenCaches

SHARE = 0.25
"""Of the device's free memory at the first recording: what all recordings of a model may take together."""
MOST = 16
"""Recordings of a model: the driver keeps memory for every kernel of each, which torch does not count."""
_REMEMBERED = 1024  # shapes; a folder of photographs may bring thousands
_MOST_WANTED = 256  # runs
_MOST_FAILURES = 3  # an operation that cannot be recorded fails at every shape

logger = logging.getLogger(__name__)


class Recording(NamedTuple):
    """What a recorder made of a function."""

    replay: Callable[[], Any]
    """Launches it, on the stream of who calls."""
    output: Tensor
    """Where each replay leaves its result."""
    taken_bytes: int
    """Memory that it added to what the recordings before it hold."""


class Recorder(Protocol):
    """Who records; all of its recordings share memory, and are replayed one after the other."""

    def can_record(self, images: Tensor) -> bool:
        """Whether a network of these inputs can be recorded here and now."""

    def free_bytes(self, device: torch.device) -> int:
        """Memory that is to be had."""

    def record(self, run: Callable[[], Tensor], device: torch.device) -> Recording:
        """Record a function of nothing, whose inputs stay in their places; it runs as often as that takes."""

    def turn(self) -> AbstractContextManager[None]:
        """Within, what is launched comes after what was launched within before, whatever the threads and streams."""

    def settle(self) -> None:
        """Wait until everything that was launched is done."""

    def forget(self) -> None:
        """Give all memory back; no recording is left."""


class _Recorded(NamedTuple):
    """A recording, and where it looks for its inputs."""

    images: Tensor
    text: Tensor | None
    recording: Recording

    def replay(self, images: Tensor, text: Tensor | None) -> Tensor:
        self.images.copy_(images)
        if self.text is not None and text is not None:
            self.text.copy_(text)
        self.recording.replay()
        return self.recording.output.clone()  # the next replay, of this or another shape, overwrites it


@dataclass
class _Shape:
    """What is known of inputs of one shape, type and memory order."""

    runs: int = 0
    """That went well, since its recording was dropped if it had one."""
    wanted: int = 1
    """Runs before it is recorded. Twice as many each time it was dropped, so that shapes that push one another out do
    not cost a recording at every other call."""
    is_refused: bool = False
    """Whether it always runs, as its recording fails or is too big."""
    recorded: _Recorded | None = None


class Graphs:
    """The recordings of one model, by shape, the least recently used dropped first; threads may share it.

    A shape's first call runs the network, the second records it, those that follow replay it: pictures that are all of
    different sizes are never recorded. The network just runs where gradients are wanted, in training mode, with caches
    of latents, under autocast and while compiling or exporting. Hooks of layers do not run in a replay, and settings
    of torch such as TF32 stay as they were when it was recorded.

    Args:
        recorder: Who records.
        share: Of the free memory at the first recording that all may take together.
        most: Recordings at once.
    """

    def __init__(self, recorder: Recorder, *, share: float = SHARE, most: int = MOST) -> None:
        self._recorder, self._share, self._most = recorder, share, most
        self._lock = threading.Lock()
        self._shapes: OrderedDict[Hashable, _Shape] = OrderedDict()
        self._weights: list[tuple[dict[str, Any], str, int]] = []
        self._limit_bytes: int | None = None
        self._failures = 0
        self.held_bytes = 0
        """Memory that the recordings hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles take no recordings with them: these are of one model's memory in one process."""
        return partial(Graphs, share=self._share, most=self._most), (self._recorder,)

    def run(
        self, network: nn.Module, images: Tensor, text: Tensor | None = None, *, caches: FrozenCaches | None = None
    ) -> Tensor:
        """`network(images, text, caches=caches)`, in memory of its own.

        Args:
            network: Always the same one.
            images: `(b, 3, h, w)`.
            text: What it is prompted with; none = its own prompts.
            caches: Where results of the frozen parts are kept, if anywhere.
        """
        keeps_latents = caches is not None and caches.latents is not None
        wants_python = torch.is_grad_enabled() or network.training or torch.compiler.is_compiling()
        if keeps_latents or wants_python or not self._recorder.can_record(images):
            return network(images, text, caches=caches)
        key = (_form(images), None if text is None else _form(text))
        try:
            replayed = self._replayed(key, network, images, text)
            if replayed is not None:
                return replayed
            output: Tensor = network(images, text, caches=caches)
        except torch.OutOfMemoryError:
            with self._lock:
                if not self._drop_all():
                    raise
        else:
            self._count(key)
            return output
        return network(images, text, caches=caches)  # only here: the error held what the network had made so far

    def drop(self) -> None:
        """Drop all recordings, give their memory back, and begin anew."""
        with self._lock:
            self._begin_anew()

    def _count(self, key: Hashable) -> None:
        """One more run that went well."""
        with self._lock:
            self._shapes.setdefault(key, _Shape()).runs += 1
            self._shapes.move_to_end(key)
            if len(self._shapes) > _REMEMBERED:
                del self._shapes[next(other for other, known in self._shapes.items() if known.recorded is None)]

    def _replayed(self, key: Hashable, network: nn.Module, images: Tensor, text: Tensor | None) -> Tensor | None:
        """The output, by a recording that is made now if it is time; or none."""
        with self._lock:
            if any((tensor := held.get(name)) is None or tensor.data_ptr() != was for held, name, was in self._weights):
                self._begin_anew()  # recordings read the weights where they were
            shape = self._shapes.get(key)
            if shape is None:
                return None
            self._shapes.move_to_end(key)
            if shape.recorded is None:
                if shape.runs >= shape.wanted and not shape.is_refused and self._failures < _MOST_FAILURES:
                    self._record(shape, network, images, text)
                if shape.recorded is None:
                    return None
            with self._recorder.turn():
                return shape.recorded.replay(images, text)

    def _record(self, shape: _Shape, network: nn.Module, images: Tensor, text: Tensor | None) -> None:
        if self._limit_bytes is None:
            self._limit_bytes = int(self._share * self._recorder.free_bytes(images.device))
        recorded = self._attempt(network, images, text)
        if recorded is None and self._drop_all():  # what recordings share is given back as a whole or not at all
            recorded = self._attempt(network, images, text)
        if recorded is None:
            shape.is_refused = True
            self._drop_all()
            return
        shape.recorded = recorded
        self._weights = self._weights or _places(network)
        self.held_bytes += recorded.recording.taken_bytes
        known = [other for other in self._shapes.values() if other.recorded is not None]
        for other in known[: -self._most]:
            _drop(other)

    def _attempt(self, network: nn.Module, images: Tensor, text: Tensor | None) -> _Recorded | None:
        """A recording, or none if it cannot be made or takes too much beside the others."""
        try:
            with torch.inference_mode(False), torch.no_grad():  # or its inputs could not be written to later
                static, words = images.clone(), None if text is None else text.clone()
                recording = self._recorder.record(lambda: network(static, words, caches=None), images.device)
        except torch.OutOfMemoryError:
            return None
        except Exception as error:  # whatever a driver, or an operation that cannot be recorded, says
            if not self._failures:
                logger.warning("the network runs without a CUDA graph, as recording fails: %s", first_line(error))
            self._failures += 1
            return None
        is_small = self.held_bytes + recording.taken_bytes <= (self._limit_bytes or 0)
        return _Recorded(static, words, recording) if is_small else None

    def _begin_anew(self) -> None:
        self._drop_all()
        self._shapes.clear()
        self._limit_bytes = None

    def _drop_all(self) -> bool:
        """Drop all recordings, if there are any, and give their memory back."""
        self._recorder.settle()
        known = [shape for shape in self._shapes.values() if shape.recorded is not None]
        for shape in known:
            _drop(shape)
        self._weights.clear()
        self.held_bytes = 0
        self._recorder.forget()
        return bool(known)


def _form(tensor: Tensor) -> tuple[Any, ...]:
    """What a recording is made for: shape, type, place and memory order; of a part of a larger tensor, its order."""
    return tensor.shape, torch.empty_like(tensor, device="meta").stride(), tensor.dtype, tensor.device


def _places(network: nn.Module) -> list[tuple[dict[str, Any], str, int]]:
    """Where each weight is; looked up by name, as converting a model may replace what has the name."""
    holders = [held for module in network.modules() for held in (module._parameters, module._buffers)]
    return [(held, name, tensor.data_ptr()) for held in holders for name, tensor in held.items() if tensor is not None]


def _drop(shape: _Shape) -> None:
    shape.recorded, shape.runs, shape.wanted = None, 0, min(2 * shape.wanted, _MOST_WANTED)
