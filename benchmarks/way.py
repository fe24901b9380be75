"""One way from images to features: what it consists of, and the names of those that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpd.errors import UsageError
from vpd.tensors import Features

WAYS = {
    "reference": "the reference's way, restated: every attention matrix, forced checkpointing, float32, NCHW",
    "diffusers": "plain diffusers: its own forward of UNet and VAE, hooks, an attention processor that collects",
    "exact": "this library as it comes",
    "fast-float32": "vpd.optimise(model, dtype='float32')",
    "fast": "vpd.optimise(model)",
    "small-encoder": "vpd.optimise(model, encoder=...), TAESD's architecture with random weights",
    "merged": "vpd.optimise(model, merge_above=4096): as fast up to 512 x 512 with Stable Diffusion",
    "compiled": "vpd.optimise(model, compile_mode='reduce-overhead'): CUDA graphs on a GPU",
    "exported": "ONNX Runtime on two exported graphs, encoder and UNet, in float32",
}
"""Name of each way and what it is."""
HEAP = "+heap"
"""After a name: freed memory is kept (`vpd.inference.heap.keep_heap`), as `--fast` does."""
DEFAULT = ("reference", "diffusers", "exact", "fast", "fast+heap", "exported")
FIRST = "reference"
"""What errors are measured against."""


@dataclass(frozen=True)
class Way:
    """One way from images to features."""

    name: str
    encode: Callable[[Tensor], Tensor]
    """Images in [-1, 1], in its type -> latents."""
    prepare: Callable[[Tensor], Any]
    """Text embeddings `(1, k, d)` in float32 -> what `features` takes; not timed, as it is done once for fixed text."""
    features: Callable[[Tensor, Any], tuple[Tensor, ...]]
    """Latents and prepared text -> maps, finest first, then attention, finer first."""
    dtype: torch.dtype
    device: torch.device

    @property
    def keeps_heap(self) -> bool:
        """Whether freed memory is kept while it runs."""
        return self.name.endswith(HEAP)

    @property
    def has_random_weights(self) -> bool:
        """Whether part of it is random: then time and memory are true, and its features are not the model's."""
        return self.name.startswith("small-encoder")

    @property
    def is_spared_work(self) -> bool:
        """Whether it gains by fewer operations, for which it must not be counted as quick at them."""
        return self.name.startswith(("small-encoder", "merged"))

    @property
    def is_torch(self) -> bool:
        """Whether torch does the work, so that its memory can be seen by torch's profiler."""
        return not self.name.startswith("exported")


def check_names(names: Sequence[str]) -> None:
    """Make sure that all ways are known.

    Raises:
        UsageError: If one is not, or there is none, or one stands twice.
    """
    unknown = [name for name in names if name.removesuffix(HEAP) not in WAYS]
    if unknown or not names or len(set(names)) < len(names):
        wrong = f"Unknown way {unknown[0]!r}." if unknown else f"Ways are none or stand twice: {list(names)}."
        raise UsageError(f"{wrong} Choose among: {', '.join(WAYS)}; {HEAP} after a name keeps freed memory.")


def in_order(features: Features) -> tuple[Tensor, ...]:
    """Maps, finest first, then attention, finer first."""
    return (*features.maps, *(features.attention[stride] for stride in sorted(features.attention)))
