"""The pictures of docs/architecture.md are those of the code as it is."""

from __future__ import annotations

import pytest

from architecture_page import FOLDER, PICTURES


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_a_picture_is_as_the_imports_are(name: str) -> None:
    drawn = (FOLDER / name).read_text(encoding="utf-8")
    assert drawn == PICTURES[name](), "draw it anew: python tests/architecture_page.py"
