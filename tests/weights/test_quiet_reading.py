"""Reading and writing local files draws no bars of other packages, and leaves their settings alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging as transformers_logging

from vpd.prompts.encoder import TextEncoder


@pytest.fixture(autouse=True)
def bars_as_before() -> Iterator[None]:
    was_on, hub_was_off = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    yield
    (transformers_logging.enable_progress_bar if was_on else transformers_logging.disable_progress_bar)()
    (disable_progress_bars if hub_was_off else enable_progress_bars)()


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("is_hub_on", [True, False])
def test_no_bars_and_the_setting_comes_back(
    is_on: bool, is_hub_on: bool, tiny_diffusion: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (transformers_logging.enable_progress_bar if is_on else transformers_logging.disable_progress_bar)()
    (enable_progress_bars if is_hub_on else disable_progress_bars)()
    TextEncoder.from_pretrained(tiny_diffusion).save(tmp_path)
    assert capfd.readouterr().err == ""
    assert transformers_logging.is_progress_bar_enabled() == is_on
    assert are_progress_bars_disabled() != is_hub_on
