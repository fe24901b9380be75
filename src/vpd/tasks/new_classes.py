"""Going on with a segmentation model on other classes: its prompts and its head."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vpd.errors import UsageError
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.names import embed_names
from vpd.tasks.model import PerceptionModel


def new_prompts(
    model: PerceptionModel, names: list[str], *, templates: tuple[str, ...], diffusion: str | Path | None
) -> Tensor:
    """Prompt embeddings of new classes, `(n, d)`, made as the model's own were.

    Args:
        model: The model that learns the classes.
        names: The new classes.
        templates: Prompt sentences that the model's own classes were put into.
        diffusion: Where to take the text encoder from; none = the model's own, or that of its diffusion model.

    Raises:
        UsageError: If there is no text encoder, or one of another width.
    """
    encoder = model.text_encoder
    if encoder is None:
        try:
            encoder = TextEncoder.from_pretrained(diffusion or model.config.backbone.source)
        except UsageError as error:
            raise UsageError(
                f"New classes ({', '.join(names)}) need the text encoder of the diffusion model that this model was "
                f"made from, and it was not found: {error}"
            ) from None
    if encoder.dim != model.backbone.text_dim:
        raise UsageError(
            f"The text encoder's embeddings have {encoder.dim} channels; this model needs {model.backbone.text_dim}. "
            "Take the diffusion model it was made from."
        )
    return embed_names(encoder, names, templates=templates)


def head_for_classes(
    state: dict[str, Tensor], fresh: dict[str, Tensor], channels: tuple[int, ...], old: list[int | None]
) -> dict[str, Tensor]:
    """Weights of a published head for other classes.

    Args:
        state: Weights of the trained head.
        fresh: Weights of a new head for the new classes.
        channels: Channels of the backbone's maps, finest first; the laterals take attention maps after them.
        old: For each new class its number in the trained head, or none.

    Returns:
        Weights for the new head: what belongs to old classes is kept, attention maps of new ones are unused.
    """
    state = {key: value.detach().clone() for key, value in state.items()}
    for level, width in enumerate(channels):
        key = f"laterals.{level}.weight"
        if state[key].shape[1] > width:
            attention = _take(state[key][:, width:], old, torch.zeros_like(fresh[key][:, width:]), dim=1)
            state[key] = torch.cat([state[key][:, :width], attention], dim=1)
    for key in ("classifier.weight", "classifier.bias"):
        state[key] = _take(state[key], old, fresh[key], dim=0)
    return state


def _take(values: Tensor, old: list[int | None], fresh: Tensor, *, dim: int) -> Tensor:
    """Slices of `values` in the order of `old`, slices of `fresh` where there is no old one."""
    parts = [fresh.select(dim, i) if index is None else values.select(dim, index) for i, index in enumerate(old)]
    return torch.stack(parts, dim=dim)
