"""Draws docs/architecture/: the floors, from the imports, and a picture's way.

Write them anew: python tests/architecture_page.py
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from html import escape
from pathlib import Path

from test_layers import FLOORS, GRAPH, MODULES

FOLDER = Path(__file__).parents[1] / "docs" / "architecture"
LINE, BOX, ACCENT, INK = "#b8bcc8", "#f4f5f8", "#3b6ea8", "#20242c"
_STEPS = (
    ("picture", "any size: path, PIL, array", "files.images.read_image"),
    ("plan", "what runs together, at which size, in which windows", "inference.plan"),
    ("run_windows", "(b, 3, h, w) in [-1, 1], window by window", "inference.run"),
    ("forward", "the task's model: adapter, backbone, head", "tasks/*.py"),
    ("backbone", "VAE encoder: latents (b, 4, h/8, w/8); UNet once, no noise", "backbones.stable_diffusion"),
    ("walk_unet", "maps at strides 8 to 64, attention (b, k, h, w)", "backbones.unet_walk"),
    ("head", "maps and attention -> outputs (b, c, h, w)", "heads"),
    ("combine, answer", "mirror images and scales averaged, back to the picture's size", "tasks/*.py"),
    ("prediction", "labels, mask or metres, with save() and overlay()", "tasks.predictions"),
)


def room_of(module: str) -> str:
    return module.split(".")[0]


def room_graph() -> dict[str, set[str]]:
    """Room -> rooms that it uses, without those that it reaches through others anyway."""
    rooms = {room for floor in FLOORS for room in floor}
    uses: dict[str, set[str]] = {room: set() for room in rooms}
    for module, others in GRAPH.items():
        if room_of(module) in rooms:
            uses[room_of(module)] |= {room_of(other) for other in others} & rooms - {room_of(module)}

    def reached(room: str) -> set[str]:
        found = set(uses[room])
        for other in uses[room]:
            found |= reached(other)
        return found

    return {room: others - {far for near in others for far in reached(near)} for room, others in uses.items()}


def svg(width: int, height: int, parts: Iterable[str]) -> str:
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}">',
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        )
    )


def text(x: float, y: float, words: str, **style: object) -> str:
    options = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x:g}" y="{y:g}"{options}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{BOX}" stroke="{LINE}"/>'


def first_sentence(room: str) -> str:
    """What a room says of itself."""
    docstring = ast.get_docstring(ast.parse(MODULES[room].read_text(encoding="utf-8"))) or ""
    line = docstring.split("\n\n")[0].replace("\n", " ").replace("`", "").rstrip(".")
    return line if len(line) <= 96 else f"{line[:95].rsplit(' ', 1)[0]} ..."


def floors_svg() -> str:
    """A band for each floor, the ground floor lowest; beside each room what it holds, and which rooms it needs."""
    width, row, parts, y = 1120, 25, list[str](), 12
    graph = room_graph()
    for number, floor in enumerate(reversed(FLOORS)):
        height = row * len(floor) + 10
        fill = BOX if number % 2 else "#ffffff"
        parts.append(f'<rect x="0" y="{y}" width="{width}" height="{height}" fill="{fill}"/>')
        for place, room in enumerate(floor):
            line = y + 22 + place * row
            parts += [text(20, line, room, font_weight="600"), text(150, line, first_sentence(room))]
            parts.append(text(width - 20, line, ", ".join(sorted(graph[room])), fill=ACCENT, text_anchor="end"))
        y += height
    return svg(width, y + 12, parts)


def way_svg() -> str:
    """One picture from top to bottom."""
    row, parts = 54, []
    for number, (name, what, where) in enumerate(_STEPS):
        y = 16 + number * row
        if number:
            parts.append(f'<path d="M150 {y - row + 38} V{y}" stroke="{ACCENT}"/>')
        parts += [box(20, y, 260, 38), text(150, y + 24, name, text_anchor="middle", font_weight="600")]
        parts += [text(300, y + 17, what), text(300, y + 33, where, fill="#6a7080", font_size="12")]
    return svg(740, 16 + row * len(_STEPS), parts)


PICTURES = {"floors.svg": floors_svg, "way.svg": way_svg}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")
