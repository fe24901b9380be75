"""Prompts made from the names of classes and scenes, and those that the published models came with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import as_file, files

import torch
from safetensors.torch import load_file
from torch import Tensor

from vpd.errors import UsageError
from vpd.prompts.encoder import TextEncoder

PLAIN_TEMPLATE = ("a photo of a {}.",)
_SETS = {"ade20k": "ade20k_classes.json", "nyu": "nyu_scenes.json"}


@lru_cache(maxsize=1)
def imagenet_templates() -> tuple[str, ...]:
    """CLIP's 80 templates for zero-shot classification; the published NYU scene prompts average over them."""
    return tuple(json.loads((files("vpd.prompts") / "clip" / "imagenet_templates.json").read_text(encoding="utf-8")))


EmbedNames = Callable[[TextEncoder, Sequence[str]], Tensor]
"""A prompt provider: text encoder and names of classes or scenes -> their prompts `(n, d)`; `embed_names` is one."""


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
    templates = check_templates(templates) if templates else imagenet_templates()
    sentences = [[template.replace("{}", word) for template in templates] for word in words]
    return torch.stack([encoder.pooled(of_word).mean(dim=0) for of_word in sentences]).float()


def check_templates(templates: tuple[str, ...]) -> tuple[str, ...]:
    """The templates, if each is a sentence with one place for a name.

    Raises:
        UsageError: If one has no `{}`, or more than one.
    """
    if isinstance(templates, str):
        raise UsageError(f"Templates must be a list, not one string: [{templates!r}] instead of {templates!r}.")
    if wrong := [template for template in templates if template.count("{}") != 1]:
        raise UsageError(f"A template needs `{{}}` once, for the name: got {wrong[0]!r}.")
    return tuple(templates)


def published_prompts(names: tuple[str, ...], *, dim: int) -> Tensor:
    """The published embeddings of a benchmark's classes or scenes, `(n, dim)` float32.

    Args:
        names: The 150 classes of ADE20K or the 27 scenes of NYU, in their order.
        dim: Width of the text embeddings that the UNet was trained with.

    Raises:
        UsageError: If the names are neither, or the width is not that of Stable Diffusion 1.x.
    """
    for name, list_file in _SETS.items():
        listed = json.loads(files("vpd.data").joinpath(list_file).read_text(encoding="utf-8"))
        if tuple(listed) != tuple(names):
            continue
        with as_file(files("vpd.prompts").joinpath("published_embeddings", f"{name}.safetensors")) as path:
            embeddings: Tensor = load_file(path)["embeddings"]
        if embeddings.shape[1] != dim:
            raise UsageError(
                f"The published prompts have {embeddings.shape[1]} channels, those of Stable Diffusion 1.x; this model "
                f"needs {dim}. Set model_options.published_prompts=false to make prompts with its text encoder."
            )
        return embeddings
    raise UsageError(
        f"There are published prompts for the 150 classes of ADE20K and the 27 scenes of NYU, in their order; got "
        f"{len(names)} names beginning with {', '.join(names[:3])}. Set model_options.published_prompts=false."
    )
