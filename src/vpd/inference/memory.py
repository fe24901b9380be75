"""What a pass through a model takes in memory, counted on tensors without data instead of tried out."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig
from vpd.backbones.without_data import GpuWithoutData
from vpd.errors import UsageError

Memory = int | float | str
"""Bytes, or a text such as `4GB` or `512 MiB`."""

MARGIN = 1.1
"""Times what is counted: for what operators keep to themselves and what the C library cannot give back."""
ONCE_BYTES = 48 * 2**20
"""What the first passes of a process take for good: kernels made for the sizes they meet, buffers of threads."""

_UNITS = {"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_CONVOLUTIONS = {torch.ops.aten.convolution.default: (0, 1), torch.ops.aten.convolution_backward.default: (0, 1, 2)}
"""Operator -> the places of what it may copy: images and weight; gradient of the result, images and weight."""

_ASKING = torch.ops.prim.device.default


class BudgetError(UsageError, MemoryError):
    """A picture that cannot be predicted within the memory that was allowed."""


def parse_memory(memory: Memory) -> int:
    """Bytes of a budget.

    Args:
        memory: Bytes, or a number with a unit: KB, MB, GB count by 1000, KiB, MiB, GiB by 1024.

    Raises:
        UsageError: If it is no such text, or not more than 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?)([A-Z]*)", str(memory).replace(" ", "").upper())
    if found is None or found[2] not in _UNITS or float(found[1]) * _UNITS[found[2]] < 1:
        raise UsageError(f"memory={memory!r}: give bytes or a number with a unit, such as 4GB, 512MB or 2GiB.")
    return int(float(found[1]) * _UNITS[found[2]])


def format_memory(count_bytes: float) -> str:
    """Bytes as people read them: `3.2 GB`, `480 MB`."""
    return f"{count_bytes / 1e9:.1f} GB" if count_bytes >= 1e9 else f"{count_bytes / 1e6:.0f} MB"


class LiveBytes(TorchDispatchMode):
    """Counts what operators make and still holds; for use as a context, around tensors with or without data.

    Args:
        scratch: Bytes that an operator takes for itself while it runs, of its name and arguments.
    """

    peak = 0
    """Most bytes at once that were made since the context began."""

    def __init__(self, scratch: Callable[[Any, tuple[Any, ...]], int] = lambda operator, inputs: 0) -> None:
        super().__init__()
        self._scratch = scratch
        self._sizes: dict[int, int] = {}
        self._live = 0
        self.course: list[int] = []
        """Bytes at each operator, one after another."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is _ASKING:  # on which device a tensor is, which makes none
            return func(*args, **(kwargs or {}))
        for given in tree_leaves((args, kwargs)):  # weights and the like, of which operators make views
            if isinstance(given, Tensor):
                self._sizes.setdefault(given.untyped_storage()._cdata, 0)
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        self.course.append(self._live + self._scratch(func, args))
        self.peak = max(self.peak, self.course[-1])
        return made

    def _watch(self, storage: torch.UntypedStorage) -> None:
        place = storage._cdata
        if place not in self._sizes:
            self._sizes[place] = storage.nbytes()
            self._live += storage.nbytes()
            weakref.finalize(storage, self._forget, place)

    def _forget(self, place: int) -> None:
        self._live -= self._sizes.pop(place, 0)


def network_bytes(model: Any, images: tuple[int, int, int], text: tuple[int, ...] | None = None) -> int:
    """Most memory that `model(images, text)` takes over its weights and inputs, the float32 output included.

    Counted, a second at the size of Stable Diffusion, and kept for the next call of the same sizes.

    Args:
        model: Of any task; optimised ones too. One that was made within `GpuWithoutData` is counted as on a GPU.
        images: `(b, h, w)`.
        text: Shape of the text embeddings; none = the model's own prompts.
    """
    is_packed = any(type(module).__name__ == "PackedConv2d" for module in model.modules())
    config, small = model.config.model_dump_json(), getattr(model.backbone, "small_encoder", None)
    encoder, merge_above = None if small is None else small.config, getattr(model.backbone, "merge_above", None)
    kinds: tuple[Any, ...] = (type(model), type(model.config), type(model.backbone))
    weight = model.adapter.gamma
    is_gpu = isinstance(weight, FakeTensor) and isinstance(weight.fake_mode, GpuWithoutData)
    mode, is_gpu = (GpuWithoutData, True) if is_gpu else (FakeTensorMode, model.device.type == "cuda")
    is_half = model.dtype in (torch.bfloat16, torch.float16)
    order = torch.channels_last if is_gpu and is_half and model.is_optimised else torch.contiguous_format
    place = (model.dtype, model.device, mode, order)
    return _count(*kinds, config, encoder, merge_above, *place, is_packed, images, text)


@lru_cache(maxsize=4096)
def _count(
    kind: Any,
    config_kind: Any,
    backbone_kind: Any,
    config: str,
    encoder: TinyEncoderConfig | None,
    merge_above: int | None,
    dtype: torch.dtype,
    device: torch.device,
    mode: type[FakeTensorMode],
    order: torch.memory_format,
    is_packed: bool,
    images: tuple[int, int, int],
    text: tuple[int, ...] | None,
) -> int:
    batch, height, width = images
    with torch.no_grad():
        with torch.device("meta"):
            settings = config_kind.model_validate_json(config)
            twin = kind(settings, backbone=backbone_kind.from_config(settings.backbone))
        if encoder is not None:
            twin.backbone.use_small_encoder(TinyEncoder(encoder).to("meta"))
        twin.backbone.merge_above = merge_above
        twin = twin.to(dtype=dtype, memory_format=order).eval()
        with mode(allow_non_fake_inputs=True):  # of the real device: attention takes the kernel it has there
            twin = twin.to_empty(device=device)
            pixels = torch.empty(batch, 3, height, width, dtype=dtype, device=device)
            embeds = None if text is None else torch.empty(text, dtype=dtype, device=device)
            with LiveBytes(_no_scratch if is_packed else convolution_scratch) as live:
                twin(pixels, embeds).float()
    return live.peak


def convolution_scratch(operator: Any, inputs: tuple[Any, ...]) -> int:
    """Convolutions copy what goes in, and their weights, into the order of the CPU's kernels; GPUs take as much."""
    return sum(int(inputs[place].nbytes) for place in _CONVOLUTIONS.get(operator, ()))


def _no_scratch(operator: Any, inputs: tuple[Any, ...]) -> int:
    """Packed convolutions have their weights in that order and get images in it."""
    return 0
