"""The text inputs of the published models, as their authors made them: classes of ADE20K, scenes of NYU."""

from __future__ import annotations

import json
from importlib.resources import as_file, files

from safetensors.torch import load_file
from torch import Tensor

from vpd.errors import UsageError

_SETS = {"ade20k": "ade20k_classes.json", "nyu": "nyu_scenes.json"}


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
