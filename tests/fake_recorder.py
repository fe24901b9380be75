"""CUDA graphs without CUDA: what they do to memory, on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vpd.inference.graphs import Recording


class FakeRecorder:
    """Records functions, and replays them into one place each; a replay spoils what other recordings left in theirs.

    Args:
        free: Bytes that are to be had.
        taken: Bytes that a recording takes, of the numbers of its shape.
    """

    def __init__(self, *, free: int = 10**9, taken: Callable[[int], int] = lambda numbers: numbers) -> None:
        self.free, self.taken = free, taken
        self.fails: Exception | None = None
        self.log: list[str] = []
        self.outputs: list[Tensor] = []
        self._turn = threading.Lock()

    def can_record(self, images: Tensor) -> bool:
        return images.device.type == "cpu"

    def free_bytes(self, device: torch.device) -> int:
        return self.free

    def record(self, run: Callable[[], Tensor], device: torch.device) -> Recording:
        self.log.append("record")
        if self.fails is not None:
            raise self.fails
        output = torch.full_like(run(), torch.nan)
        self.outputs.append(output)

        def replay() -> None:
            assert self._turn.locked()
            self.log.append("replay")
            for other in self.outputs:
                other.fill_(torch.nan)
            output.copy_(run())

        return Recording(replay, output, self.taken(output.numel()))

    @contextmanager
    def turn(self) -> Iterator[None]:
        assert self._turn.acquire(blocking=False), "two replays at a time"
        yield
        self._turn.release()

    def settle(self) -> None:
        self.log.append("settle")

    def forget(self) -> None:
        self.log.append("forget")
        self.outputs.clear()

    def __reduce__(self) -> tuple:
        return FakeRecorder, ()
