"""The published text inputs: there, in order, and refused where they do not fit."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
import torch

from golden_set import Golden
from vpd.errors import UsageError
from vpd.prompts.names import published_prompts


def names(list_file: str) -> tuple[str, ...]:
    return tuple(json.loads(files("vpd.data").joinpath(list_file).read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("list_file", "golden_name", "norm"),
    [("ade20k_classes.json", "ade20k", 28.270), ("nyu_scenes.json", "nyu", 22.543)],
)
def test_equal_to_the_published_file(golden: Golden, list_file: str, golden_name: str, norm: float) -> None:
    ours = published_prompts(names(list_file), dim=768)
    assert ours.shape == (len(names(list_file)), 768)
    assert float(ours.norm(dim=1).mean()) == pytest.approx(norm, abs=1e-3)
    stored = golden.tensor(f"real/{golden_name}_class_embeddings.safetensors", "class_embeddings")
    assert torch.equal(ours, stored)


def test_other_names_have_none() -> None:
    with pytest.raises(UsageError, match=r"150 classes of ADE20K and the 27 scenes of NYU.*got 2 names.*road, sky"):
        published_prompts(("road", "sky"), dim=768)
    with pytest.raises(UsageError, match="got 150 names"):
        published_prompts(names("ade20k_classes.json")[::-1], dim=768)


def test_another_width_is_refused() -> None:
    with pytest.raises(UsageError, match=r"have 768 channels.*needs 1024.*published_prompts=false"):
        published_prompts(names("nyu_scenes.json"), dim=1024)
