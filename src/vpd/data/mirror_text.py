"""What a mirrored picture does to the words about it."""

from __future__ import annotations

import re

_WITH_SIDE = re.compile(r"[a-z]*(?:left|right)[a-z]*", re.IGNORECASE)
_SIDE = re.compile(r"left|right", re.IGNORECASE)
_NO_SIDE = re.compile(
    r"bright|upright|alright|outright|copyright|forthright|downright|birthright|righteous|rightful|leftover"
    r"|\b(?:fright|wright|playwright|aright|cleft)",
    re.IGNORECASE,
)
_MAYBE_NO_SIDE = re.compile(
    r"\b(?:left|right)\s+(?:above|against|at|behind|below|beneath|beside|by|in front|near|next|on|over|under)\b",
    re.IGNORECASE,
)
_OTHER = {"left": "right", "right": "left"}


def mirror_text(text: str) -> str | None:
    """The expression for the mirrored picture: left and right change places, also inside `leftmost`, `topright`.

    Words such as `bright`, `upright`, `leftover` stay. Applying it twice gives the text back.

    Returns:
        The new text; or none where a side may not be meant (`the cup right behind the vase`), so that the
        picture had better not be mirrored.
    """
    if _MAYBE_NO_SIDE.search(text):
        return None
    mirrored = _WITH_SIDE.sub(_mirror_word, text)
    # "upleft" would become "upright", which is no side
    return mirrored if _WITH_SIDE.sub(_mirror_word, mirrored) == text else None


def _mirror_word(match: re.Match[str]) -> str:
    word = match.group()
    return word if _NO_SIDE.search(word) else _SIDE.sub(_other_side, word)


def _other_side(match: re.Match[str]) -> str:
    side = match.group()
    other = _OTHER[side.lower()]
    return other.upper() if side.isupper() else other.capitalize() if side[0].isupper() else other
