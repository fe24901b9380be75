"""The golden set that ships: small, and its manifest tells the truth."""

from __future__ import annotations

import pytest
import torch

from golden_set import COMPACT, Golden


def test_the_compact_set_stays_small() -> None:
    assert sum(file.stat().st_size for file in COMPACT.rglob("*") if file.is_file()) <= 2_950_000


def test_what_the_manifest_omits_is_not_there() -> None:
    golden = Golden(COMPACT)
    for name in golden.omitted:
        file, _, key = name.partition(":")
        if not key:
            assert not (COMPACT / file).exists()
            assert not (COMPACT / f"{file}.xz").exists()
        elif file.endswith(".safetensors"):
            assert key not in golden.keys(file)


def test_aliases_and_samples() -> None:
    golden = Golden(COMPACT)
    assert golden.aliases
    for name, other in golden.aliases.items():
        assert torch.equal(golden.tensor(*name.split(":", 1)), golden.tensor(*other.split(":", 1)))
    logits, step = golden.sampled("seg/golden.safetensors", "logits")
    assert (tuple(logits.shape), step) == ((2, 7, 32, 32), 8)
    with pytest.raises(pytest.skip.Exception, match="only every 8th row"):
        golden.tensor("seg/golden.safetensors", "logits")
    with pytest.raises(AssertionError, match="no surprise"):
        golden.tensor("seg/golden.safetensors", "surprise")
