"""The figures of docs/concepts are those of the code as it is."""

from __future__ import annotations

import pytest

from concept_figures import FOLDER, PICTURES, lora_values, sized
from vpd.config import LoraSettings


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_a_figure_is_as_the_code_is(name: str) -> None:
    drawn = (FOLDER / name).read_text(encoding="utf-8")
    assert drawn == PICTURES[name](), "draw it anew: python tests/concept_figures.py"


def test_what_lora_adds_is_counted_as_peft_makes_it() -> None:
    pytest.importorskip("peft")
    sized.cache_clear()
    unet = sized().model.backbone.unet
    expected = lora_values(unet)
    sized().model.backbone.add_lora(LoraSettings())
    sized.cache_clear()
    assert sum(weight.numel() for weight in unet.parameters() if weight.requires_grad) == expected
