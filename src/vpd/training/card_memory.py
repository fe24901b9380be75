"""What a step of training takes on a GPU, by count: forward and backward pass run on tensors without data.

What is assumed: one process, `precision=bf16`, no accumulation. Every byte that operators make and hold is counted:
gradients (in 16 bits where `Gradients` keeps them so), what is kept for the backward pass, 16-bit copies of weights,
the largest transients. Norms and softmax are in float32, as autocast has them on a GPU, but for group norms of
channels-last maps (`channels_last=true`), which are those of the Triton kernel: it keeps the 16-bit map. Attention is
fused where no maps are wanted and explicit where they are. Convolutions may take a copy of all they read (cuDNN's
workspace), attention's backward pass its queries' gradient in float32. CUDA's own memory is `CUDA_BYTES`, and a tenth
of what grows with the batch is added for what an allocator cannot use. Nothing of it is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from vpd.backbones.without_data import GpuWithoutData
from vpd.config import TaskConfig
from vpd.inference.cache import FrozenCaches
from vpd.inference.memory import MARGIN, LiveBytes, convolution_scratch
from vpd.loading import build_model
from vpd.tasks.table import TaskKind
from vpd.training.config import OptimiserKind, TrainConfig
from vpd.training.gradients import Gradients
from vpd.training.optimisers import STATE_BYTES, build_optimiser, optimiser_groups
from vpd.training.step import LossOf, set_up

CUDA_BYTES = 2**30
"""Of a card, for CUDA's context (0.3 to 0.6 GiB), the libraries' own buffers and a desktop's; assumed."""
_WIDENED_BYTES = 2**30
"""Of gradients in float32, at most, when the optimiser steps."""
_BATCHES = 2, 3
"""That are counted; heads with BatchNorm refuse one value a channel."""
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    torch.ops.aten._scaled_dot_product_fused_attention_overrideable_backward.default,
}


class GpuAutocast(TorchFunctionMode):
    """What autocast computes in float32 on a GPU, and not on a CPU, of the functions that models use."""

    in_float32 = (F.group_norm, F.layer_norm, Tensor.softmax, Tensor.log)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Widen what goes in."""
        if func in self.in_float32:
            args, kwargs = tree_map(_widened, (args, kwargs))
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class StepMemory:
    """What a step takes on a GPU, as a function of the pictures that are together in it."""

    weight_bytes: int
    """Of all weights in float32, text encoder included."""
    num_trained: int
    """Trained values."""
    moments: tuple[tuple[int, int], ...]
    """At moments of forward and backward pass: bytes whatever the batch is, and for each picture."""

    def total_bytes(self, batch: int, optimiser: OptimiserKind) -> int:
        """Most at any moment, CUDA's own included."""
        passes = max(fixed + MARGIN * each * batch for fixed, each in self.moments)
        return int(self._resting(optimiser) + max(passes, self._stepping_bytes))

    def largest_batch(self, card_bytes: int, optimiser: OptimiserKind) -> int:
        """Most pictures that fit together; 0 = not even one."""
        left = card_bytes - self._resting(optimiser)
        if left < self._stepping_bytes or any(fixed > left for fixed, _ in self.moments):
            return 0
        return int(min((left - fixed) / (MARGIN * each) for fixed, each in self.moments if each > 0))

    @property
    def _stepping_bytes(self) -> int:
        return 2 * self.num_trained + min(4 * self.num_trained, _WIDENED_BYTES)

    def _resting(self, optimiser: OptimiserKind) -> int:
        return CUDA_BYTES + self.weight_bytes + STATE_BYTES[optimiser] * self.num_trained


def step_memory(model: TaskConfig, config: TrainConfig, *, task: TaskKind, text_encoder_bytes: int = 0) -> StepMemory:
    """Count what steps of training take: two passes of random pictures, a few seconds at Stable Diffusion's size.

    Args:
        model: What the model is, low-rank layers left out.
        config: How to train it, with `precision="bf16"`; batch size and accumulation are not looked at.
        task: Of the model.
        text_encoder_bytes: Of its text encoder, if it has one on the device.

    Raises:
        UsageError: If the model cannot be built or trained so, or PEFT is needed and not installed.
    """
    (resting, trained, two), (_, _, three) = (_course(model, config, task, batch) for batch in _BATCHES)
    same = -min(len(two), len(three))  # what tasks do picture by picture, small things, comes first
    moments = [(3 * small - 2 * large, large - small) for small, large in zip(two[same:], three[same:], strict=True)]
    return StepMemory(resting + text_encoder_bytes, trained, _outermost(moments))


def _course(config_of_model: TaskConfig, config: TrainConfig, task: TaskKind, batch: int) -> tuple[int, int, list[int]]:
    """Bytes of the weights, number of trained values, and bytes over the weights at each operator."""
    model = build_model(config_of_model, task)
    if config.mode == "lora":
        model.add_lora(config.lora)
    set_up(model.train(), config)  # the order of weights outlives the change of device
    with GpuWithoutData(allow_non_fake_inputs=True):
        model = model.to_empty(device="cpu")
        if model.reads_tokens:
            model.text_encoder = _Embedded(model.backbone.text_dim)
        optimiser = build_optimiser(optimiser_groups(model, config), kind="sgd")
        gradients = Gradients(optimiser, narrow=True)
        loss_of, samples = LossOf(model, config, FrozenCaches()), model.example_batch(batch, config.crop_px)
        with GpuAutocast(), LiveBytes(_scratch) as live:
            total, _ = loss_of(samples)
            torch.autograd.backward(total)  # Tensor.backward would leave the mode
        gradients.close()
    weights = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    return weights, sum(value.numel() for value in model.parameters() if value.requires_grad), live.course


class _Embedded(nn.Module):
    """Stands for a text encoder: gives texts that are embedded already."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def tokens(self, texts: list[str], *, length: int) -> Tensor:
        """`(b, length, d)`."""
        return torch.empty(len(texts), length, self.dim)


def _scratch(operator: Any, inputs: tuple[Any, ...]) -> int:
    if operator in _ATTENTION:
        return 4 * inputs[1].numel()
    return convolution_scratch(operator, inputs)


def _outermost(moments: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Those that may be the largest at some batch: what is fixed is more than at all that grow faster."""
    kept: list[tuple[int, int]] = []
    for fixed, each in sorted(set(moments), key=lambda moment: (-moment[1], -moment[0])):
        if not kept or fixed > kept[-1][0]:
            kept.append((fixed, each))
    return tuple(kept)


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
