"""A set of golden numbers: files of the original's results, with a manifest of what a partial set omits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

COMPACT = Path(__file__).parent / "golden_compact"


class Golden:
    """Golden numbers of one set. What the set's manifest omits is skipped with a reason; else a gap fails."""

    def __init__(self, root: Path) -> None:
        self.root = root
        manifest = root / "manifest.json"
        self.omitted: dict[str, str] = json.loads(manifest.read_text())["omitted"] if manifest.is_file() else {}

    def omits(self, name: str) -> bool:
        """Whether the manifest says that a file, or an entry `file:key`, is not in this set."""
        return name in self.omitted

    def _skip_if_omitted(self, name: str) -> None:
        if name in self.omitted:
            pytest.skip(f"not in the golden set {self.root.name}: {name} ({self.omitted[name]})")

    def path(self, file: str) -> Path:
        self._skip_if_omitted(file)
        assert (self.root / file).is_file(), f"golden set {self.root} has no {file}, and no manifest that says why"
        return self.root / file

    def json(self, file: str) -> Any:
        return json.loads(self.path(file).read_text())

    def entry(self, file: str, key: str) -> Any:
        """One top-level entry of a JSON file."""
        self._skip_if_omitted(f"{file}:{key}")
        return self.json(file)[key]

    def keys(self, file: str) -> list[str]:
        with safe_open(self.path(file), "pt") as tensors:
            return list(tensors.keys())

    def tensor(self, file: str, key: str) -> torch.Tensor:
        self._skip_if_omitted(f"{file}:{key}")
        with safe_open(self.path(file), "pt") as tensors:
            assert key in tensors.keys(), f"{file} of golden set {self.root} has no {key}"  # noqa: SIM118
            return tensors.get_tensor(key)

    def tensors(self, file: str) -> Tensors:
        """All tensors of a file; taking one that the set omits skips the test."""
        with safe_open(self.path(file), "pt") as tensors:
            found = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
        return Tensors(found, lambda key: self._skip_if_omitted(f"{file}:{key}"))


class Tensors(dict[str, torch.Tensor]):
    """Tensors by key; what a partial set leaves out skips, any other gap is an error."""

    def __init__(self, found: dict[str, torch.Tensor], skip_if_omitted: Callable[[str], None]) -> None:
        super().__init__(found)
        self._skip_if_omitted = skip_if_omitted

    def __missing__(self, key: str) -> torch.Tensor:
        self._skip_if_omitted(key)
        raise KeyError(key)
