"""A comparison as files: bench.json, table.md, growth.png."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from way_costs import PARTS

from vpd.files.atomic import atomic_write, writable_folder, write_json

JSON_FILE, TABLE_FILE, GROWTH_FILE = "bench.json", "table.md", "growth.png"
_AXES = {"size": "side of the picture, px", "classes": "class prompts", "batch": "pictures together"}


def write_report(result: dict[str, Any], out: Path) -> list[str]:
    """Write a comparison's files into a folder; returns their names.

    Args:
        result: From `compare_ways.compare_ways`.
        out: Made if missing.
    """
    folder = writable_folder(out)
    write_json(folder / JSON_FILE, result)
    with atomic_write(folder / TABLE_FILE) as temporary:
        temporary.write_text(tables(result) + "\n", encoding="utf-8")
    names = [JSON_FILE, TABLE_FILE]
    if result["growth"] and find_spec("matplotlib") is not None:
        _draw_growth(result, folder / GROWTH_FILE)
        names.append(GROWTH_FILE)
    return names


def tables(result: dict[str, Any]) -> str:
    """The ways and their growth as Markdown."""
    return "\n\n".join([_ways_table(result), *(_growth_table(result, axis) for axis in result["growth"])])


def _ways_table(result: dict[str, Any]) -> str:
    clock = result["clock"]
    unit = "CPU s" if clock == "cpu_s" else "s"
    lines = [
        f"| way | {unit}, median (least to most) | encoder | UNet | wall s | times faster | GFLOP | share of peak "
        "| relative error, largest | peak MiB: encoder, UNet |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, facts in result["ways"].items():
        seconds = facts["seconds"]
        parts = " | ".join(_short(seconds[f"{part}_{clock}"]["median"]) for part in PARTS)
        spread = f"{_short(seconds[clock]['min'])} to {_short(seconds[clock]['max'])}"
        error = "none: random" if facts["errors"] is None else f"{max(facts['errors']):.1e}"
        memory = ", ".join(
            f"{mib:.4g}{' (process)' if part == 'process' else ''}" for part, mib in facts["peak_mib"].items()
        )
        lines.append(
            f"| {name} | {_short(seconds[clock]['median'])} ({spread}) | {parts} "
            f"| {_short(seconds['wall_s']['median'])} | {facts['times_faster']:.2f} "
            f"| {sum(facts['gflop'].values()):.4g} | {facts['share_of_peak']:.0%} | {error} "
            f"| {memory} |"
        )
    return "\n".join(lines)


def _growth_table(result: dict[str, Any], axis: str) -> str:
    unit = "CPU s" if result["clock"] == "cpu_s" else "s"
    lines = [
        f"| way | {axis} | {unit} | ratio | UNet's ratio | GFLOP | ratio | encoder's peak MiB | ratio "
        "| UNet's peak MiB | ratio | pictures a second |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, points in result["growth"][axis].items():
        for point in points:
            ratios = {key: _known(value, ".2f") for key, value in point.items() if key.endswith("_ratio")}
            cells = [name, point[axis], _short(point[result["clock"]]), ratios["time_ratio"], ratios["unet_time_ratio"]]
            cells += [format(point["gflop"], ".4g"), ratios["gflop_ratio"]]
            for part in PARTS:
                cells += [_known(point[f"{part}_peak_mib"], ".4g"), ratios[f"{part}_peak_ratio"]]
            cells.append(format(point["images_per_s"], ".3g"))
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _known(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _short(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds >= 1 else f"{seconds:.4f}"


def _draw_growth(result: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    growth, clock = result["growth"], result["clock"]
    figure = Figure(figsize=(5 * len(growth), 4), layout="constrained")
    for place, (axis, curves) in zip(figure.subplots(1, len(growth), squeeze=False)[0], growth.items(), strict=True):
        for name, points in curves.items():
            place.plot([point[axis] for point in points], [point[clock] for point in points], marker="o", label=name)
        place.set(xlabel=_AXES[axis], ylabel="CPU seconds" if clock == "cpu_s" else "seconds", ylim=(0, None))
        place.legend(loc="lower right")
    figure.savefig(path, dpi=120)
