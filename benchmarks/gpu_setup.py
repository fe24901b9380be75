"""What `gpu.py` measures on: models with random weights, pictures, and how much time is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from random_models import random_config
from torch import Tensor

from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig
from vpd.bench.measuring import with_random_weights
from vpd.optimising import optimise

CLASSES = 150
WAYS: dict[str, dict[str, Any] | None] = {
    "exact": None,
    "exact, TF32": None,
    "fast, eager": {"graphs": False},
    "fast": {},
    "small encoder": {},
}
"""Way -> arguments of `vpd.optimise`; none = the model as it is."""


class OutOfTimeError(RuntimeError):
    """What is left of the time is not enough."""


@dataclass
class Setup:
    """What is measured, on what, and until when."""

    device: torch.device
    size: str
    px: int
    batches: tuple[int, ...]
    pictures: int
    steps: int
    ends_s: float
    """Of `time.monotonic`."""
    results: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def exact(self) -> Any:
        """The model as it is, random weights."""
        torch.manual_seed(0)
        return with_random_weights(random_config("segment", self.size, CLASSES), device=self.device)

    def model(self, way: str) -> Any:
        """The model that runs in a way."""
        arguments = WAYS[way]
        if arguments is None:
            return self.exact
        if way == "small encoder":
            backbone = self.exact.backbone
            channels = backbone.vae.config.latent_channels
            config = TinyEncoderConfig.for_vae(latent_stride=backbone.latent_stride, latent_channels=channels)
            arguments = {"encoder": TinyEncoder(config)}
        return optimise(self.exact, **arguments)

    def images(self, batch: int, dtype: torch.dtype) -> Tensor:
        """Random pictures in [-1, 1]."""
        drawn = torch.rand(batch, 3, self.px, self.px, generator=torch.Generator().manual_seed(1))
        return (drawn * 2 - 1).to(self.device, dtype)

    def check_time(self, needed_s: float = 0.0) -> None:
        """Raise where the time is over."""
        if (left := self.ends_s - time.monotonic()) < needed_s:
            raise OutOfTimeError(f"{max(left, 0):.0f} s are left, {needed_s:.0f} are needed")

    def peak_tflops(self, dtype: str = "bfloat16") -> float | None:
        """What products of this card reach, if they were measured."""
        rate = self.results.get("peak", {}).get(dtype, {}).get("matrix")
        return None if rate is None else rate / 1000


def tried(points: dict[str, Any], name: str, measure: Callable[[], Any], setup: Setup) -> None:
    """Add a point, or why there is none: a card may be too small for one and not for the next."""
    setup.check_time()
    try:
        points[name] = measure()
    except torch.OutOfMemoryError as error:
        points[name] = {"error": f"out of memory: {str(error).splitlines()[0][:200]}"}
        if setup.device.type == "cuda":
            torch.cuda.empty_cache()


def short(timed: dict[str, Any], batch: int) -> dict[str, Any]:
    """Milliseconds and pictures a second of a timed run of a batch."""
    clock = "device_s" if "device_s" in timed else "wall_s"
    seconds = timed[clock]["median"]
    found = {"ms": 1000 * seconds, "waited_for_ms": 1000 * timed["wall_s"]["median"], "images_per_s": batch / seconds}
    return {**found, "runs": timed["runs"], "peak_mib": timed["peak_mib"]}
