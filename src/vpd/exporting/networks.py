"""What of a model is exported: the graph, the inputs it is traced with, and others that it is tried with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim

from vpd.errors import UsageError
from vpd.optimising import optimise
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.model import PerceptionModel

Prompts = Literal["constant", "input"]
Target = Literal["torch", "onnx", "openvino"]
Inputs = tuple[Tensor, ...]
Trial = tuple[str, Inputs]
"""Inputs and what they are in words."""

MAX_BATCH = 63  # diffusers' upsampling takes another path from 64 images on, which no graph can hold beside this one
_SIZES = ((1, 2, 2), (3, 3, 2), (1, 4, 5), (2, 1, 1))  # images, then height and width in steps; traced at 2, 3, 5
TEXTS = ("the zebra on the left", "a", "Ünï-cödé, 3 times!", "the small red ball behind the big green box " * 10)


@dataclass(frozen=True)
class Network:
    """One graph to export."""

    name: str
    """Of its file, without suffix."""
    module: nn.Module
    """What is traced."""
    original: Callable[..., Tensor]
    """What it must equal, for the same inputs."""
    inputs: tuple[str, ...]
    """Names of its inputs."""
    output: str
    """Name of its output."""
    example: Inputs
    """What it is traced with."""
    dynamic: tuple[dict[int, Any], ...]
    """For each input, axes that may have other sizes."""
    trials: Callable[[], Iterator[Trial]]
    """Inputs of other sizes, numbers and prompts than the example's."""


class _TextGraph(nn.Module):
    """Token ids -> one embedding a token, or the embedding at the end-of-text token."""

    def __init__(self, model: nn.Module, *, pooled: bool) -> None:
        super().__init__()
        self.model, self.pooled = model, pooled

    def forward(self, token_ids: Tensor) -> Tensor:
        """`(b, k)` -> `(b, k, d)` or `(b, d)`."""
        found = self.model(token_ids)
        return found.pooler_output if self.pooled else found.last_hidden_state


def find_prompts(model: PerceptionModel, prompts: Prompts | None) -> Prompts:
    """Whether prompts are constants or an input; none = constants, except for referring.

    Raises:
        UsageError: If the words are others, or a referring model's prompts shall be constants.
    """
    if prompts not in (None, "constant", "input"):
        raise UsageError(f"prompts={prompts!r}: choose constant or input.")
    if model.constant_prompts() is not None:
        return prompts or "constant"
    if prompts == "constant":
        raise UsageError(
            "A referring model has no prompt of its own to make a constant of: every expression is another. "
            "Export it with prompts=input, and with its text encoder to turn expressions into that input."
        )
    return "input"


def image_step_px(model: PerceptionModel, target: Target) -> int:
    """What height and width of images must be multiples of in the exported graph.

    A depth model cuts what it fused from padding off before it decodes, in steps of the fused map; the graph does the
    same only if it pads from those steps on itself. Graphs of torch hold either with or without such a cut: theirs take
    whole steps of the coarsest map, where there is none.
    """
    return model.output_multiple_px if target == "torch" else model.export_multiple_px


def least_steps(target: Target) -> int:
    """Least height and width of images, in steps: torch.export takes axes of length 1 for another kind of axis."""
    return 2 if target == "torch" else 1


def image_network(model: PerceptionModel, prompts: Prompts, *, target: Target) -> Network:
    """Images, and prompts where they are an input, -> what the model's `forward` gives.

    The graph is that of `vpd.optimise` in float32, on the CPU: its error counts in the comparison with the model.
    """
    fast = optimise(model, dtype="float32").to("cpu")
    fast.text_encoder = None
    step = image_step_px(model, target)
    batch = Dim("batch", max=MAX_BATCH)
    height, width = (step * Dim(name, min=2) for name in ("height_steps", "width_steps"))
    draw = torch.Generator().manual_seed(0)

    def images(number: int, rows: int, columns: int) -> Tensor:
        return torch.rand(number, 3, rows * step, columns * step, generator=draw) * 2 - 1

    def text(number: int) -> Inputs:
        return () if prompts == "constant" else (model.example_prompts(number),)

    def trials() -> Iterator[Trial]:
        side = -(-(model.config.fit.window_px or model.config.fit.size_px) // step)  # as `predict` runs it
        for number, rows, columns in dict.fromkeys((*_SIZES, (1, side, side))):
            if min(rows, columns) < least_steps(target):
                continue
            inputs = (images(number, rows, columns), *text(number))
            words = f"{number} x {rows * step}x{columns * step} px"
            yield words + ("" if len(inputs) == 1 else f", prompts {'x'.join(map(str, inputs[1].shape))}"), inputs

    of_text: dict[int, Any] = {
        "images": {0: batch},
        "classes": {0: Dim("classes", min=2)},
        "fixed": {},
    }[model.prompt_axis]
    example = (images(2, 3, 5), *text(2))
    return Network(
        name="model",
        module=fast,
        original=lambda *given: model(*(part.to(model.device) for part in given)),
        inputs=("images", "text_embeds")[: len(example)],
        output=model.output,
        example=example,
        dynamic=({0: batch, 2: height, 3: width}, of_text)[: len(example)],
        trials=trials,
    )


def text_network(model: PerceptionModel) -> Network:
    """Token ids `(b, k)` -> what the model takes for prompts; see `token_length`.

    Raises:
        UsageError: If the model has no text encoder.
    """
    encoder, length, pooled = model.text_encoder, token_length(model), not model.reads_tokens
    if encoder is None:
        raise UsageError(
            f"This {model.task} model was saved without text encoder, so none can be exported. "
            "Referring models have one, and segmentation models with the open head."
        )

    original = _TextGraph(encoder.model, pooled=pooled)

    def trials() -> Iterator[Trial]:
        for number in (1, 3):
            yield f"{number} x {length} tokens", (token_ids(encoder, TEXTS[-number:], length),)

    return Network(
        name="text_encoder",
        module=copy.deepcopy(original).to("cpu"),
        original=lambda ids: original(ids.to(model.device)),
        inputs=("token_ids",),
        output="text_embeds",
        example=(token_ids(encoder, TEXTS[:2], length),),
        dynamic=({0: Dim("texts")},),
        trials=trials,
    )


def token_length(model: PerceptionModel) -> int:
    """Tokens of a text: as many as a referring model reads, or all that CLIP does."""
    return model.config.token_length if model.reads_tokens else 77


def token_ids(encoder: TextEncoder, texts: Sequence[str], length: int) -> Tensor:
    """Ids of texts, padded and cut as `TextEncoder.tokens` does, `(b, length)`."""
    options = {"padding": "max_length", "max_length": length, "truncation": True}
    return encoder.tokenizer(list(texts), **options, return_tensors="pt").input_ids
