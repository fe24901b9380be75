"""Going on with a segmentation model on other classes: what it knows of the common ones is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vpd.errors import UsageError
from vpd.heads.fpn import FPNHead
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.names import PLAIN_TEMPLATE, embed_names
from vpd.tasks.segmentation import SegmentationModel, unique_names


def change_classes(
    model: SegmentationModel, classes: Sequence[str], *, diffusion: str | Path | None = None
) -> SegmentationModel:
    """A model for `classes`; weights and prompts of classes that `model` has too are taken over by name.

    With the published head, a new class starts with an unused attention map and a fresh row in the last
    layer. The backbone is shared with `model`, which should not be used afterwards.

    Args:
        model: The model to go on from.
        classes: All classes of the new model, in the order of its labels.
        diffusion: Where to take the text encoder for new prompts from; none = the model's own, or the
            diffusion model it was made from.

    Raises:
        UsageError: If new prompts are needed and there is no text encoder.
    """
    names, known = unique_names(classes), list(model.config.classes)
    old = [known.index(name) if name in known else None for name in names]
    config = model.config.model_copy(update={"classes": names})
    changed = SegmentationModel(config, backbone=model.backbone, text_encoder=model.text_encoder)
    changed.to(device=model.device, dtype=model.dtype).train(model.training)
    changed.adapter = model.adapter
    added = [name for name, index in zip(names, old, strict=True) if index is None]
    embeds = dict(zip(known, model.class_embeddings, strict=True))
    if added:
        embeds |= zip(added, _prompts(model, added, diffusion).to(model.class_embeddings), strict=True)
    changed.class_embeddings.copy_(torch.stack([embeds[name] for name in names]))
    if not isinstance(model.head, FPNHead):
        changed.head = model.head
        return changed
    state = {key: value.detach().clone() for key, value in model.head.state_dict().items()}
    fresh = changed.head.state_dict()
    for level, width in enumerate(model.backbone.channels):
        key = f"laterals.{level}.weight"
        if state[key].shape[1] > width:  # features, then one attention map a class
            attention = _take(state[key][:, width:], old, torch.zeros_like(fresh[key][:, width:]), dim=1)
            state[key] = torch.cat([state[key][:, :width], attention], dim=1)
    for key in ("classifier.weight", "classifier.bias"):
        state[key] = _take(state[key], old, fresh[key], dim=0)
    changed.head.load_state_dict(state)
    return changed


def _prompts(model: SegmentationModel, names: list[str], diffusion: str | Path | None) -> Tensor:
    """Prompt embeddings of new classes, made as the model's own were."""
    encoder = model.text_encoder
    if encoder is None:
        source = diffusion or model.config.backbone.source
        try:
            encoder = TextEncoder.from_pretrained(source)
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
    return embed_names(encoder, names, templates=PLAIN_TEMPLATE if model.config.recipe == "reference" else None)


def _take(values: Tensor, old: list[int | None], fresh: Tensor, *, dim: int) -> Tensor:
    """Slices of `values` in the order of `old`, slices of `fresh` where there is no old one."""
    parts = [fresh.select(dim, i) if index is None else values.select(dim, index) for i, index in enumerate(old)]
    return torch.stack(parts, dim=dim)
