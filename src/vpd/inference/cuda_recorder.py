"""CUDA graphs as `graphs.py` wants them: all that is CUDA's own. Not run on a GPU by its tests, which have none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from vpd.inference.graphs import Graphs, Recording

_CAPTURING = threading.Lock()  # torch records one graph at a time in a process


class CudaRecorder:
    """Records CUDA graphs on a stream of its own, with one memory pool for all of them.

    The graphs may share the pool, so that one's intermediates lie where another's do and all take little more than the
    largest: they are never replayed two at a time, and all that must outlive a replay, its output, is copied before
    the next. A pool gives memory back when the last of its graphs is gone.
    """

    def __init__(self) -> None:
        self._stream: Any = None
        self._pool: Any = None
        self._last: Any = None
        """What the next replay waits for."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy begins anew."""
        return CudaRecorder, ()

    def can_record(self, images: Tensor) -> bool:
        """Whether they are on a GPU; not under autocast, whose copies of weights go away, nor in another's graph."""
        if not images.is_cuda or torch.is_autocast_enabled("cuda"):
            return False
        return not torch.cuda.is_current_stream_capturing()

    def free_bytes(self, device: torch.device) -> int:
        """What the device has, and what torch keeps without use."""
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)

    def record(self, run: Callable[[], Tensor], device: torch.device) -> Recording:
        """Run a function once, so that libraries choose and compile their kernels, and record it."""
        with _CAPTURING, torch.cuda.device(device):
            if self._stream is None:
                self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
            current = torch.cuda.current_stream()
            with torch.cuda.stream(self._stream):  # the thread gets its own stream back, also if recording fails
                self._stream.wait_stream(current)
                run()  # by this thread and on this stream: handles and workspaces of libraries belong to both
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
                before = torch.cuda.memory_reserved()
                graph, output = self._capture(run)
            current.wait_stream(self._stream)
            return Recording(graph.replay, output, max(0, torch.cuda.memory_reserved() - before))

    def _capture(self, run: Callable[[], Tensor]) -> tuple[Any, Tensor]:
        graph, reason = torch.cuda.CUDAGraph(), None
        try:
            # Other threads may allocate memory meanwhile, as those do that read pictures ahead: "global" forbids it.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                try:
                    output = run()
                except Exception as error:
                    reason = error
                    raise
        except Exception as error:  # ending a recording that failed fails too, and would hide why
            with suppress(Exception):  # then torch would think that it goes on, and never give back memory again
                torch._C._cuda_endAllocateToPool(self._stream.device.index, self._pool)
                torch._C._cuda_releasePool(self._stream.device.index, self._pool)
            raise (reason or error) from None
        finally:
            del reason  # it holds what the network made so far
        return graph, output

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let the current stream wait for the last replay, which another thread may have launched on another one."""
        stream = torch.cuda.current_stream(self._stream.device)
        if self._last is not None:
            stream.wait_event(self._last)
        try:
            yield
        finally:
            self._last = self._last or torch.cuda.Event()
            self._last.record(stream)

    def settle(self) -> None:
        """Wait for the device: memory that is given back must not be in use."""
        if self._stream is not None:
            torch.cuda.synchronize(self._stream.device)

    def forget(self) -> None:
        """Give the pool's memory back; the next recording begins another, as torch takes no pool up again."""
        if self._stream is not None:
            with torch.cuda.device(self._stream.device), suppress(RuntimeError):  # after a recording that failed
                torch.cuda.empty_cache()
        self._stream = self._pool = self._last = None


def graphs_on(device: torch.device) -> Graphs | None:
    """For a model on a device; none where there are no CUDA graphs."""
    return Graphs(CudaRecorder()) if device.type == "cuda" else None
