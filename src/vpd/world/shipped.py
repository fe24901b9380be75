"""The small text-to-image model that comes with the package: `world`."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from vpd.errors import UsageError

WORLD = "world"
"""Its name, wherever a diffusion model is asked for."""
FOLDER = Path(__file__).parent / "weights"
HASHES = "sha256.json"


@lru_cache(maxsize=1)
def shipped_diffusion(folder: Path = FOLDER) -> Path:
    """The folder of the shipped model, in diffusers layout without a tokenizer, which is CLIP's.

    Args:
        folder: Where it lies.

    Raises:
        UsageError: If a file is missing or not the one that was shipped.
    """
    for name, expected in json.loads((folder / HASHES).read_text(encoding="utf-8")).items():
        path = folder / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if found != expected:
            raise UsageError(
                f"{path} of the shipped model is damaged: its SHA-256 is {found}, not {expected}. Install vpd again."
            )
    return folder
