"""What a project of Label Studio labels with: brushes and polygons, their labels, the picture, the expression."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from vpd.errors import UsageError

KINDS = {"BrushLabels": "brushlabels", "PolygonLabels": "polygonlabels"}
"""Tag -> what its results are called."""
_FIELD = re.compile(r"\$(\w+)")
_INERT = re.compile(r"<!--.*?(?:-->|\Z)|<\?.*?(?:\?>|\Z)|<!\[CDATA\[.*?(?:\]\]>|\Z)", re.DOTALL)
"""Parts of XML in which `<!` means nothing. What has no end goes to the end: looking for one at every start of many
would take the square of their number."""


@dataclass(frozen=True)
class Label:
    """A label of a project."""

    name: str
    """What results call it: its alias, where it has one."""
    shown: str
    """What people see."""


@dataclass(frozen=True)
class Control:
    """A brush or polygon tag with its labels."""

    name: str
    kind: str
    """What its results are called, such as `brushlabels`."""
    to_name: str
    """Name of the picture's tag."""
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class LabelConfig:
    """The parts of a labelling configuration that count here."""

    controls: tuple[Control, ...]
    """All for one picture; none lacks labels."""
    image_field: str
    """Field of a task's data with the picture's address."""
    text_fields: tuple[str, ...]
    """Fields that may hold an expression, in the order in which they are looked at."""

    def drawn(self) -> Iterator[tuple[Control, Label]]:
        """Each label once, with the first tag that has it."""
        seen: set[str] = set()
        for control in self.controls:
            for label in control.labels:
                if label.name not in seen:
                    seen.add(label.name)
                    yield control, label

    def text_of(self, data: Mapping[str, Any]) -> str | None:
        """The expression in a task's data."""
        for field in self.text_fields:
            text = data.get(field)
            if isinstance(text, str) and text.strip():
                return text.strip()
        return None


def read_label_config(source: str) -> LabelConfig:
    """The configuration as a project has it.

    Args:
        source: XML.

    Raises:
        UsageError: If it cannot be read, or nothing in it can be predicted.
    """
    try:
        if "<!" in _INERT.sub("", source):
            raise UsageError("The labelling configuration has a document type; Label Studio's have none.")
        root = ElementTree.fromstring(source)  # noqa: S314, without a document type nothing can grow
    except ElementTree.ParseError as error:
        raise UsageError(f"The labelling configuration is no XML ({error}).") from None
    tags = list(root.iter())
    images = {tag.get("name", ""): tag.get("value") or "" for tag in tags if tag.tag == "Image"}
    controls = [control for tag in _drawing(root) if (control := _control(tag, images)) is not None]
    if not controls:
        raise UsageError(
            "The labelling configuration has nothing to predict: it needs <BrushLabels> or <PolygonLabels> with "
            "<Label> tags, whose toName is an <Image>."
        )
    to_name = controls[0].to_name
    field = _FIELD.fullmatch(images[to_name].strip())
    if field is None:
        raise UsageError(
            f'The tag <Image name={to_name!r}> must take one picture from a field, such as value="$image"; it has '
            f"{images[to_name][:60]!r}."
        )
    return LabelConfig(
        controls=tuple(control for control in controls if control.to_name == to_name),
        image_field=field[1],
        text_fields=tuple(
            found[1]
            for kind in ("TextArea", "Text")
            for tag in tags
            if tag.tag == kind and (found := _FIELD.fullmatch((tag.get("value") or "").strip()))
        ),
    )


def _drawing(root: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """Tags that draw, in their order; none in another, whose labels would be looked at again for each."""
    found = [root]
    while found:
        tag = found.pop()
        if tag.tag in KINDS:
            yield tag
        else:
            found.extend(reversed(tag))


def _control(tag: ElementTree.Element, images: Mapping[str, str]) -> Control | None:
    name, to_name = tag.get("name", ""), tag.get("toName", "")
    labels = tuple(
        Label(label.get("alias") or shown, shown) for label in tag.iter("Label") if (shown := label.get("value", ""))
    )
    return Control(name, KINDS[tag.tag], to_name, labels) if name and labels and to_name in images else None
