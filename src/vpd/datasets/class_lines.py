"""What lines of a class list say: names, names with numbers, names with colours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vpd.datasets.classes import IGNORE_NAME, ClassList, ColourList
from vpd.errors import UsageError

_NAME = r"(?P<name>\S.*?)"
_NUMBER = r"[\"']?(?P<number>-?\d+)[\"']?"
_COLOUR = r"(?P<r>\d{1,3})[\s,]+(?P<g>\d{1,3})[\s,]+(?P<b>\d{1,3})"
_FORMS = tuple(
    re.compile(form)
    for form in (
        rf"{_NAME}:(?P<r>\d+),(?P<g>\d+),(?P<b>\d+):[^:]*:[^:]*",  # CVAT
        rf"{_COLOUR}[\s,]+{_NAME}",
        rf"{_NAME}[\s,:]+{_COLOUR}",
        rf"{_NUMBER}(?:\s*[:,;=.)]\s*|\s+-\s+|\s+){_NAME}",
        rf"{_NAME}(?:\s*[:,;=]\s*|\s+){_NUMBER}",
    )
)
"""Lines of class lists that say more than a name; all lines of a list have one form."""
_HEADING = re.compile(
    r"(?:(?:class|label|category|train|pixel)_?)?(?:ids?|index|idx|number|value|names?|titles?)"
    r"|no|nr|num|class(?:es)?|labels?|category|colou?r|pixel|[rgb]|red|green|blue"
)
"""A word of a line that says what stands in the columns below it."""


@dataclass(frozen=True)
class Listed:
    """What a class list says."""

    where: str
    """The file, for messages."""
    names: Any
    """Class names; not yet looked at."""
    ignored: Any = None
    """Label value or values that do not count; none = 255."""
    label_map: Any = None
    """Class of each value, where it is not its place in the list."""
    reduce_zero_label: bool = False
    """Value 0 does not count, and k means class k - 1."""
    colours: Any = None
    """Of each class, where labels are in colours."""
    ignored_colours: Any = ()
    """Colours that do not count."""
    notes: tuple[str, ...] = ()
    """What is worth saying of it."""

    def table(self) -> ClassList:
        """The list, checked.

        Raises:
            UsageError: If something in it is wrong.
        """
        if self.colours is not None and (self.label_map is not None or self.reduce_zero_label):
            raise UsageError(f"{self.where}: has colours and label_map or reduce_zero_label; leave one of them out")
        if self.colours is not None:
            made: ClassList = ColourList(
                self.names,
                self.colours,
                ignored_colours=self.ignored_colours,
                ignored=self.ignored,
                where=self.where,
                has_marks=True,
            )
        else:
            made = ClassList(
                self.names,
                ignored=self.ignored,
                where=self.where,
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                has_marks=True,
            )
        made.notes += self.notes
        return made


def parse_lines(text: str, where: str) -> Listed:
    """What the lines of a class list say.

    Args:
        text: A name a line, with a number or a colour where all lines have one.
        where: The file, for messages.
    """
    lines = [line.strip().rstrip(",;") for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) > 1 and _is_heading(lines[0]) and any(all(map(form.fullmatch, lines[1:])) for form in _FORMS):
        del lines[0]
    notes: tuple[str, ...] = ()
    for form in _FORMS:
        matches = [match for match in map(form.fullmatch, lines) if match]
        names = [match["name"].strip().strip("\"'") for match in matches]
        if not matches or len(set(names)) < len(names):
            continue
        has_colours = "r" in form.groupindex
        numbers = [] if has_colours else [int(match["number"]) for match in matches]
        if len(matches) < len(lines) or len(set(numbers)) < len(numbers):
            odd = next((line for line in lines if not form.fullmatch(line)), lines[0])
            if len(matches) > 1 or not has_colours:
                notes = (f"{where}: numbers are part of the names, as not all lines have one ({odd[:60]!r})",)
            continue
        if has_colours:
            return Listed(where, names, colours=[[int(match[part]) for part in "rgb"] for match in matches])
        return listed_by_number(dict(zip(numbers, names, strict=True)), where)
    return Listed(where, [line.strip("\"'") for line in lines], notes=notes)


def _is_heading(line: str) -> bool:
    """Whether a line names two columns or more."""
    words = re.split(r"[\s,;:]+", line.lower().replace('"', ""))
    return len(words) > 1 and all(map(_HEADING.fullmatch, words))


def listed_by_number(by_number: Mapping[int, str], where: str) -> Listed:
    """A list that says the number of each class: in any order, with gaps.

    Args:
        by_number: Names by label value; `__ignore__` for values that do not count.
        where: The file, for messages.
    """
    marked = {number for number, name in by_number.items() if name.lower() == IGNORE_NAME}
    numbers = sorted(by_number.keys() - marked)
    names = [by_number[number] for number in numbers]
    if numbers == [*range(len(numbers))] and marked <= {-1, 255}:
        return Listed(where, names)
    label_map: dict[int, Any] = {number: place for place, number in enumerate(numbers)}
    label_map |= dict.fromkeys(marked)
    told = ", ".join(f"{number} = {by_number[number]}" for number in numbers[:4])
    note = f"{where}: label values as the list states them: {told}{', ...' if len(numbers) > 4 else ''}"
    return Listed(where, names, label_map=label_map, notes=(note,))
