"""Classes of a segmentation model and other ones: whether data fit, what is asked for, how a model gets others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpd.config import first_names, unique_names
from vpd.data.sample import SampleSet
from vpd.errors import UsageError
from vpd.heads.fpn import FPNHead
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.names import embed_names
from vpd.tensors import IGNORE_LABEL

MOST_LABELLED = IGNORE_LABEL
"""Classes that labels of 8 bits hold, beside the ignored ones."""


def class_names(given: Sequence[str] | None, samples: SampleSet) -> tuple[str, ...]:
    """Class names in the order of the labels: those of the settings, else those of the data.

    Raises:
        UsageError: If there are none or more than labels hold, or the settings name another number of them than the
            data has.
    """
    names, of_data = tuple(given or samples.classes), samples.classes
    if not names:
        raise UsageError("The data names no classes: set classes=[road, sky, ...] in the order of the labels.")
    if of_data and len(of_data) != len(names):
        raise UsageError(f"classes names {len(names)} classes, but the data has {len(of_data)}: {', '.join(of_data)}.")
    if names != tuple(of_data) and set(names) == set(of_data):
        raise UsageError(
            f"classes names the data's classes in another order, {', '.join(names)}, but labels are numbers in the "
            f"data's: {', '.join(of_data)}. Leave classes out, or name them in that order."
        )
    check_number(names)
    return names


def check_number(classes: Sequence[str]) -> None:
    """Refuse to train or measure on labels that cannot hold the classes.

    Raises:
        UsageError: If there are more than `MOST_LABELLED`.
    """
    if len(classes) > MOST_LABELLED:
        raise UsageError(
            f"There are {len(classes)} classes, and labels hold {MOST_LABELLED}: a model of more can predict, but be "
            "neither trained nor measured. Merge rare classes, or train fewer with the open head and name others in "
            "`predict`."
        )


def asked_classes(model: Any, classes: Sequence[str] | None) -> tuple[Tensor | None, tuple[str, ...], Tensor | None]:
    """What a segmentation model must be run with for these classes.

    Returns:
        Text embeddings `(n, d)` (none = the model's own), names of the result, logits to keep (none = all).

    Raises:
        UsageError: If the model cannot predict one.
    """
    own = model.config.classes
    if classes is None:
        return None, own, None
    wanted, number_of = unique_names(classes), {name: number for number, name in enumerate(own)}
    unknown = [name for name in wanted if name not in number_of]
    if not unknown:
        return None, wanted, torch.tensor([number_of[name] for name in wanted], device=model.device)
    if model.config.head == "fpn":
        raise UsageError(
            f"This model's head was made for its {len(own)} classes and cannot predict {first_names(unknown, 20)}. "
            f"It knows: {first_names(own, 20)}. Choose among these, train on "
            'with the new classes, or train a model with the "open" head.'
        )
    if model.text_encoder is None:
        raise UsageError(
            f"This model was saved without text encoder, so it cannot make prompts for {first_names(unknown, 20)}."
        )
    return embed_names(model.text_encoder, wanted, templates=model.config.templates), wanted, None


def with_classes(model: Any, classes: Sequence[str], *, diffusion: str | Path | None = None) -> Any:
    """A model for other classes to train on; weights and prompts of classes that both have are taken over.

    With the published head, a new class starts with an unused attention map and a fresh row in the last layer. Backbone
    and adapter are shared with the old model, which should not be used afterwards.

    Args:
        model: A `SegmentationModel`.
        classes: All classes of the new model, in the order of its labels.
        diffusion: Where to take the text encoder for new prompts from; none = the model's own, or the diffusion model
            it was made from.

    Raises:
        UsageError: If new prompts are needed and there is no text encoder, or the model was optimised.
    """
    model.check_plain()
    names, known = unique_names(classes), model.config.classes
    number_of = {name: number for number, name in enumerate(known)}
    old = [number_of.get(name) for name in names]
    config = model.config.model_copy(update={"classes": names})
    changed = type(model)(config, backbone=model.backbone, text_encoder=model.text_encoder)
    changed.to(device=model.device, dtype=model.dtype).train(model.training)
    changed.adapter = model.adapter
    embeds = dict(zip(known, model.class_embeddings, strict=True))
    if added := [name for name in names if name not in number_of]:
        prompts = _new_prompts(model, added, templates=config.templates, diffusion=diffusion)
        embeds |= zip(added, prompts.to(model.class_embeddings), strict=True)
    changed.class_embeddings.copy_(torch.stack([embeds[name] for name in names]))
    if isinstance(model.head, FPNHead):
        state = _head_for_classes(model.head.state_dict(), changed.head.state_dict(), model.backbone.channels, old)
        changed.head.load_state_dict(state)
    elif model.config.head == "open":
        changed.head = model.head
    else:
        raise UsageError(f"{type(model.head).__name__} is a head for its own classes: make a new model for others.")
    return changed


def _new_prompts(model: Any, names: list[str], *, templates: tuple[str, ...], diffusion: str | Path | None) -> Tensor:
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
    encoder.check_fit(model.backbone.text_dim, diffusion or model.config.backbone.source)
    return embed_names(encoder, names, templates=templates)


def _head_for_classes(
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
