"""What a recipe decides of the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpd.config import Checkpointing, Recipe
from vpd.errors import UsageError

BACKBONE_OPTIONS = ("latent_scaling", "detach_maps", "map_scale", "timestep")
"""What of the backbone a recipe decides and settings can change."""


def recipe_backbone(
    kind: Any, source: str | Path, recipe: Recipe, gradient_checkpointing: Checkpointing, changes: Mapping[str, Any]
) -> Any:
    """The backbone as a recipe trains it: published = unscaled latents, maps as they are and without gradient.

    Args:
        kind: Its class, `StableDiffusionBackbone` or one like it.
        source: Stable Diffusion: folder, hub id or single file.
        recipe: `reference` or `default`.
        gradient_checkpointing: Recompute the UNet's blocks in the backward pass, or of them what is `cheap`.
        changes: `BACKBONE_OPTIONS` that are not as the recipe has them.

    Raises:
        UsageError: If a change is none of these.
    """
    reference = recipe == "reference"
    values = ("none" if reference else "scaled", reference, "probability" if reference else "log_ratio", 1)
    options = dict(zip(BACKBONE_OPTIONS, values, strict=True))
    if unknown := sorted(set(changes) - set(options)):
        raise UsageError(f"Unknown backbone options: {', '.join(unknown)}. Known: {', '.join(options)}.")
    return kind.from_pretrained(source, gradient_checkpointing=gradient_checkpointing, **{**options, **changes})
