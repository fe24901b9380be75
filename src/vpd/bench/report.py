"""A model's figures as tables for people, and as files: bench.json, bench.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpd.bench.measuring import PARTS
from vpd.files.atomic import atomic_write, writable_folder, write_json

JSON_FILE, TABLE_FILE = "bench.json", "bench.md"
_WORTH_IT = 1.1  # times faster; less is within what runs differ by


def write_report(result: dict[str, Any], out: Path) -> list[str]:
    """Write what `measure_speed` found, with the `model`'s name, into a folder; returns the names of the files."""
    folder = writable_folder(out)
    write_json(folder / JSON_FILE, result)
    with atomic_write(folder / TABLE_FILE) as temporary:
        temporary.write_text(describe(result) + "\n", encoding="utf-8")
    return [JSON_FILE, TABLE_FILE]


def describe(result: dict[str, Any]) -> str:
    """The machine, the options and the batches as Markdown, and which option pays."""
    machine, options = result["machine"], result["options"]
    where = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    reached = ", ".join(f"{rate['matrix']:.0f} in {name}" for name, rate in result["peak_gflop_per_s"].items())
    whose = "one core" if result["clock"] == "cpu_s" else "the device"
    lines = [
        f"{result['model']} ({result['task']}), a picture of {result['px']}x{result['px']} px, "
        f"median of {result['rounds']}",
        f"{where}, threads: {machine['threads']}, cores: {machine['cores']}, torch {machine['torch']}; "
        f"matrix products reach {reached} GFLOP a second of {whose}",
        "",
        _options_table(result),
    ]
    if any(len(figures["batches"]) > 1 for figures in options.values()):
        lines += ["", _batches_table(result)]
    return "\n".join([*lines, "", *(f"* {line}" for line in _notes(result))])


def _options_table(result: dict[str, Any]) -> str:
    clocks = {"wall_s": "s", "cpu_s": "CPU s"} if result["clock"] == "cpu_s" else {"wall_s": "s"}
    rows = [["option", "how", "type", *(f"{part}, {unit}" for part in PARTS for unit in clocks.values())]]
    rows[0] += [
        f"times faster: {', '.join(PARTS)}",
        "share of peak",
        f"memory, MiB: {', '.join(PARTS)}",
        "output differs by",
    ]
    for name, figures in result["options"].items():
        parts = [figures[part] for part in PARTS]
        rows.append([name, figures["how"], figures["dtype"]])
        rows[-1] += [_short(part[clock]["median"]) for part in parts for clock in clocks]
        rows[-1].append(", ".join(f"{part['times_faster']:.2f}" for part in parts))
        rows[-1] += [f"{figures['share_of_peak']:.0%}", ", ".join(_mib(part["peak_mib"]) for part in parts)]
        rows[-1].append(f"{figures['difference']:.1e}" if figures["difference"] else "nothing")
    return _table(rows)


def _batches_table(result: dict[str, Any]) -> str:
    rows = [["option", "pictures together", "network, s", "pictures a second", "memory, MiB"]]
    for name, figures in result["options"].items():
        for point in figures["batches"]:
            cells = [name, str(point["batch"]), _short(point["wall_s"]["median"]), f"{point['images_per_s']:.3g}"]
            rows.append([*cells, _mib(point["peak_mib"])])
    return _table(rows)


def _notes(result: dict[str, Any]) -> list[str]:
    """How to read the tables, and which option is worth its words, by the time of a whole `predict`."""
    faster = {name: figures["predict"]["times_faster"] for name, figures in result["options"].items()}
    best = max(faster, key=lambda name: faster[name])
    lines = [f"Memory is what torch takes over the weights, which are {result['weights_mib']:.0f} MiB as loaded."]
    if result["clock"] == "cpu_s":
        lines.insert(0, "Times faster are of CPU seconds, in which other load on this machine does not count.")
    lines += [f"Left out: {name}. {reason}" for name, reason in result["left_out"].items()]
    if faster[best] < _WORTH_IT:
        return [*lines, "No option makes `predict` faster here."]
    how = result["options"][best]["how"]
    return [*lines, f"Fastest `predict` here: {best} ({how}), {faster[best]:.1f} times faster than exact."]


def _table(rows: list[list[str]]) -> str:
    """Markdown with columns in line; words at the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    rule = "-|-".join("-" * width for width in widths)
    return "\n".join([f"| {lines[0]} |", f"|-{rule}-|", *(f"| {line} |" for line in lines[1:])])


def _mib(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _short(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds >= 1 else f"{seconds:.4f}"
