"""What frozen parts made of inputs that come again: latents of images, embeddings of texts.

An entry is found by the content of its input, and what is kept was computed for this input alone, not as one of a
batch: a result does not depend on what came before, on the size of the cache, or on where a run was resumed. (Against
a whole batch, kernels round the last bits of one image otherwise: by 1e-6 of latents in float32.)
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import RLock

import torch
from torch import Tensor


class TensorCache:
    """Tensors in main memory, up to so many bytes; what was not asked for longest goes first.

    A cache belongs to one model, whose frozen parts must not change. Threads take turns, so that what several ask for
    is computed once.

    Args:
        max_bytes: Most bytes to keep.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        """Bytes kept now."""
        self.hits = self.misses = 0
        """How often an input was found, and how often it was not."""
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._turn = RLock()

    def rows(self, keys: Sequence[bytes], compute: Callable[[int], Tensor], *, device: torch.device) -> Tensor:
        """One tensor for each key, stacked.

        Args:
            keys: Of the inputs.
            compute: Place among the keys -> its tensor, all of one shape; called for what is not kept.
            device: Where the result shall lie.
        """
        found = []
        with self._turn:
            for index, key in enumerate(keys):
                value = self._kept.get(key)
                if value is None:
                    self.misses += 1
                    value = compute(index)
                    self._keep(key, value.detach().cpu())
                else:
                    self.hits += 1
                    self._kept.move_to_end(key)
                found.append(value.to(device))
        return torch.stack(found)

    def _keep(self, key: bytes, value: Tensor) -> None:
        if value.nbytes > self.max_bytes:
            return
        self._kept[key] = value
        self.num_bytes += value.nbytes
        while self.num_bytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.num_bytes -= oldest.nbytes


@dataclass(frozen=True)
class FrozenCaches:
    """Which results of frozen parts to keep, handed through a forward pass; the two may be the same cache."""

    latents: TensorCache | None = None
    """Of fitted images. No use where images are augmented at random: no two are the same."""
    texts: TensorCache | None = None
    """Token embeddings of expressions."""


def image_key(image: Tensor) -> bytes:
    """Key of the latents of an image: its pixels, its type, and the precision of the computation."""
    digest = hashlib.sha256(f"{tuple(image.shape)} {image.dtype} {_precision(image.device)}".encode())
    digest.update(image.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


def text_key(text: str, length: int, device: torch.device) -> bytes:
    """Key of the embeddings of a text at so many tokens."""
    return hashlib.sha256(f"{length} {_precision(device)} {text}".encode()).digest()


def _precision(device: torch.device) -> str:
    """What autocast makes of a computation on a device."""
    return str(torch.get_autocast_dtype(device.type)) if torch.is_autocast_enabled(device.type) else "as it is"
