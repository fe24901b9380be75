"""A set of golden numbers: files of the original's results, with a manifest of what a partial set omits."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

COMPACT = Path(__file__).parent / "golden_compact"


class Golden:
    """Golden numbers of one set. What the set's manifest omits is skipped with a reason; else a gap fails."""

    def __init__(self, root: Path) -> None:
        self.root = root
        file = root / "manifest.json"
        manifest = json.loads(file.read_text()) if file.is_file() else {}
        self.omitted: dict[str, str] = manifest.get("omitted", {})
        self.aliases: dict[str, str] = manifest.get("aliases", {})
        self._read: dict[str, dict[str, torch.Tensor]] = {}

    def _skip_if_omitted(self, name: str) -> None:
        if name in self.omitted:
            pytest.skip(f"not in the golden set {self.root.name}: {name} ({self.omitted[name]})")

    def is_omitted(self, file: str, key: str) -> bool:
        """Whether a partial set says that it leaves out a tensor or its whole file."""
        return file in self.omitted or f"{file}:{key}" in self.omitted

    def contents(self, file: str) -> bytes:
        """A file, which the set may hold packed."""
        self._skip_if_omitted(file)
        if (self.root / f"{file}.xz").is_file():
            return lzma.decompress((self.root / f"{file}.xz").read_bytes())
        assert (self.root / file).is_file(), f"golden set {self.root} has no {file}, and no manifest that says why"
        return (self.root / file).read_bytes()

    def json(self, file: str) -> Any:
        return json.loads(self.contents(file))

    def entry(self, file: str, key: str) -> Any:
        """One top-level entry of a JSON file."""
        self._skip_if_omitted(f"{file}:{key}")
        return self.json(file)[key]

    def keys(self, file: str) -> list[str]:
        return list(self._stored(file))

    def tensor(self, file: str, key: str) -> torch.Tensor:
        self._skip_if_omitted(f"{file}:{key}")
        file, key = self.aliases.get(f"{file}:{key}", f"{file}:{key}").split(":", 1)
        stored = self._stored(file)
        assert key in stored, f"{file} of golden set {self.root} has no {key}"
        return stored[key].clone()

    def sampled(self, file: str, key: str) -> tuple[torch.Tensor, int]:
        """Every n-th row and column of a tensor, and n: 1 in a full set, more where the set says `key@n`."""
        for name, value in self._stored(file).items():
            if name.startswith(f"{key}@"):
                return value.clone(), int(name.removeprefix(f"{key}@"))
        return self.tensor(file, key), 1

    def tensors(self, file: str) -> Tensors:
        """All tensors of a file; taking one that the set omits skips the test."""
        return Tensors(self._stored(file), lambda key: self._skip_if_omitted(f"{file}:{key}"))

    def _stored(self, file: str) -> dict[str, torch.Tensor]:
        if file not in self._read:
            self._read[file] = load(self.contents(file))
        return self._read[file]


class Tensors(dict[str, torch.Tensor]):
    """Tensors by key; what a partial set leaves out skips, any other gap is an error."""

    def __init__(self, found: dict[str, torch.Tensor], skip_if_omitted: Callable[[str], None]) -> None:
        super().__init__(found)
        self._skip_if_omitted = skip_if_omitted

    def __missing__(self, key: str) -> torch.Tensor:
        self._skip_if_omitted(key)
        raise KeyError(key)
