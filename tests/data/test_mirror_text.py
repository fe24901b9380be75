import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpd.data.geometric import mirror_text


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("the zebra on the left", "the zebra on the right"),
        ("leftmost cup", "rightmost cup"),
        ("Left man, far RIGHT side", "Right man, far LEFT side"),
        ("bottomright picleft", "bottomleft picright"),
        ("right-most, left's", "left-most, right's"),
        ("bright upright leftover on the left", "bright upright leftover on the right"),
        ("the dog", "the dog"),
        ("", ""),
        ("the chair right behind the table", None),
        ("cup left of the plate", "cup right of the plate"),
        ("bottle right in front", None),
        ("person in right in white", "person in left in white"),
        ("upleft corner", None),
    ],
)
def test_mirroring(text, mirrored):
    assert mirror_text(text) == mirrored


WORDS = st.sampled_from(
    [
        "left",
        "right",
        "leftmost",
        "Right",
        "bright",
        "upleft",
        "leftover",
        "behind",
        "in",
        "front",
        "cup",
        "on",
        "u",
        "-",
    ]
)


@given(st.lists(WORDS).map(" ".join) | st.lists(WORDS).map("".join) | st.text())
def test_twice_gives_the_text_back(text):
    mirrored = mirror_text(text)
    if mirrored is not None:
        assert mirror_text(mirrored) == text


def test_real_expressions(test_data):
    """Of those with a side, nearly all can be mirrored; those without stay."""
    content = json.loads((test_data / "refer/refcoco_expressions_val.json").read_text())
    rows = content if isinstance(content, list) else next(iter(content.values()))
    kinds: Counter[str] = Counter()
    for *_, text in rows:
        has_side = "left" in text.lower() or "right" in text.lower().replace("bright", "")
        mirrored = mirror_text(text)
        kinds["unsure" if mirrored is None else "same" if mirrored == text else "mirrored"] += has_side
        assert has_side or mirrored == text
    assert kinds["mirrored"] > 0.95 * kinds.total() > 4000 and kinds["same"] < 5
