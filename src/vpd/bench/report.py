"""A model's figures as tables for people, and as files: bench.json, bench.md."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from vpd.bench.measuring import PARTS
from vpd.files.atomic import atomic_write, writable_folder, write_json
from vpd.files.own_files import check_own_folder, has_keys

JSON_FILE, TABLE_FILE = "bench.json", "bench.md"
_WORTH_IT = 1.1  # times faster; less is within what runs differ by


def check_own_report(folder: Path) -> None:
    """Make sure that a folder has no files of these names but those of an earlier run.

    Raises:
        UsageError: If it has.
    """
    is_own = partial(has_keys, keys=("machine", "options"))
    check_own_folder(folder, [JSON_FILE, TABLE_FILE], "`vpd bench`", is_own=is_own)


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
        f"{where}, {_libraries(machine)}threads: {machine['threads']}, cores: {machine['cores']}, "
        f"torch {machine['torch']}; matrix products reach {reached} GFLOP a second of {whose}",
        "",
        _options_table(result),
    ]
    if any(len(figures["batches"]) > 1 for figures in options.values()):
        lines += ["", _batches_table(result)]
    return "\n".join([*lines, "", *(f"* {line}" for line in _notes(result))])


def _libraries(machine: dict[str, Any]) -> str:
    """What a GPU's figures depend on beside torch."""
    if (gpu := machine.get("gpu")) is None:
        return ""
    told = {"driver": gpu["driver"], "CUDA": gpu["cuda"], "cuDNN": gpu["cudnn"], "Triton": gpu["triton"]}
    return "".join(f"{name} {value or 'unknown'}, " for name, value in told.items())


def _clocks(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Part, clock and unit of each column of seconds."""
    if result["clock"] == "cpu_s":
        return [(part, *pair) for part in PARTS for pair in (("wall_s", "s"), ("cpu_s", "CPU s"))]
    first = next(iter(result["options"].values()))
    by_events = [("network", "device_s", "s by events")] if "device_s" in first["network"] else []
    return [*by_events, *((part, "wall_s", "s") for part in PARTS)]


def _options_table(result: dict[str, Any]) -> str:
    columns = _clocks(result)
    rows = [["option", "how", "type", *(f"{part}, {unit}" for part, _, unit in columns)]]
    rows[0] += [
        f"times faster: {', '.join(PARTS)}",
        "share of peak",
        f"memory, MiB: {', '.join(PARTS)}",
        "output differs by",
    ]
    for name, figures in result["options"].items():
        parts = [figures[part] for part in PARTS]
        rows.append([name, figures["how"], figures["dtype"]])
        rows[-1] += [_short(figures[part][clock]["median"]) for part, clock, _ in columns]
        rows[-1].append(", ".join(f"{part['times_faster']:.2f}" for part in parts))
        rows[-1] += [f"{figures['share_of_peak']:.0%}", ", ".join(_mib(part["peak_mib"]) for part in parts)]
        rows[-1].append(f"{figures['difference']:.1e}" if figures["difference"] else "nothing")
    return _table(rows)


def _batches_table(result: dict[str, Any]) -> str:
    rows = [["option", "pictures together", "network, s", "pictures a second", "memory, MiB"]]
    for name, figures in result["options"].items():
        for point in figures["batches"]:
            clock = "device_s" if "device_s" in point else "wall_s"
            cells = [name, str(point["batch"]), _short(point[clock]["median"]), f"{point['images_per_s']:.3g}"]
            rows.append([*cells, _mib(point["peak_mib"])])
    return _table(rows)


def _notes(result: dict[str, Any]) -> list[str]:
    """How to read the tables, and which option is worth its words, by the time of a whole `predict`."""
    faster = {name: figures["predict"]["times_faster"] for name, figures in result["options"].items()}
    best = max(faster, key=lambda name: faster[name])
    lines = [f"Memory is what torch takes over the weights, which are {result['weights_mib']:.0f} MiB as loaded."]
    if result["clock"] == "cpu_s":
        lines.insert(0, "Times faster are of CPU seconds, in which other load on this machine does not count.")
    for name, figures in result["options"].items():
        if many := figures.get("many"):
            lines.append(
                f"{name}: `predict` of {many['pictures']} JPEG files, {many['batch']} together, makes "
                f"{many['pictures_per_s']:.3g} pictures a second, {many['share_of_network']:.0%} of the network's best."
            )
    if result["machine"].get("gpu", {}).get("tf32_convolutions"):
        lines.append("Convolutions in float32 run in TF32, torch's default: `exact` is not exact to the last digits.")
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
