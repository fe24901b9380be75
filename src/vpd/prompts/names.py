"""Prompts made from the names of classes and scenes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import torch
from torch import Tensor

from vpd.errors import UsageError
from vpd.prompts.encoder import TextEncoder

PLAIN_TEMPLATE = ("a photo of a {}.",)


@lru_cache(maxsize=1)
def imagenet_templates() -> tuple[str, ...]:
    """CLIP's 80 templates for zero-shot classification; the published NYU scene prompts average over them."""
    return tuple(json.loads((files("vpd.prompts") / "clip" / "imagenet_templates.json").read_text(encoding="utf-8")))


def embed_names(
    encoder: TextEncoder, names: tuple[str, ...] | list[str], *, templates: tuple[str, ...] | None = None
) -> Tensor:
    """One prompt embedding a name, the mean of the pooled text embeddings over templates, not normalised.

    Args:
        encoder: Text encoder of the diffusion model.
        names: Names of classes or scenes; underscores are read as blanks.
        templates: Sentences with `{}` for the name; none = CLIP's 80.

    Returns:
        `(n, dim)`, float32.

    Raises:
        UsageError: If there is no name, or one is empty.
    """
    words = [" ".join(name.replace("_", " ").split()) for name in names]
    if not words or not all(words):
        raise UsageError(f"Names to make prompts from must not be empty: got {list(names)}.")
    templates = templates or imagenet_templates()
    rows = [encoder.pooled([template.format(word) for template in templates]).mean(dim=0) for word in words]
    return torch.stack(rows).float()


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, stripped.

    Raises:
        UsageError: If there is none, or one is empty or stands twice.
    """
    stripped = tuple(name.strip() for name in names)
    doubled = sorted({name for name in stripped if stripped.count(name) > 1})
    if not stripped or not all(stripped) or doubled:
        raise UsageError(f"Class names must be given, non-empty and different: got {list(names)}, twice: {doubled}.")
    return stripped
