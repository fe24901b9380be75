"""The figures of `gpu.py` as Markdown, and beside what was wanted of them on an H200."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Read = Callable[[dict[str, Any]], float | None]


def _at(*keys: str) -> Read:
    """The number that lies under some keys, if it was measured."""

    def read(results: dict[str, Any]) -> float | None:
        value: Any = results
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, (int, float)) else None

    return read


def _worst(results: dict[str, Any]) -> float | None:
    found = results.get("accuracy", {}).get("features")
    return max(found) if found else None


TARGETS: tuple[tuple[str, Read, str, float], ...] = (
    ("one picture, fast, ms", _at("network", "fast", "1", "waited_for_ms"), "<=", 7),
    ("16 pictures together, fast, img/s", _at("network", "fast", "16", "images_per_s"), ">=", 220),
    ("16 together, small encoder, img/s", _at("network", "small encoder", "16", "images_per_s"), ">=", 400),
    ("folder of JPEG files, share of the network", _at("predict", "job", "share_of_network"), ">=", 0.8),
    ("training, batch 16, img/s", _at("training", "16", "images_per_s"), ">=", 77),
    ("training, batch 16, share of the peak", _at("training", "16", "share_of_peak"), ">=", 0.35),
    ("features of fast against float32", _worst, "<=", 4e-2),
    ("operations that meet two memory orders", _at("profile", "layout_changes", "count"), "<=", 0),
)
"""What is wanted of an H200 with Stable Diffusion 1.5's size, 512 px, bfloat16."""


def judge(results: dict[str, Any], *, is_meant: bool) -> list[dict[str, Any]]:
    """Each target with what was measured and whether it is met; none = not measured, or not on the model it means."""
    judged = []
    for name, read, relation, wanted in TARGETS:
        value = read(results)
        is_met = None if value is None or not is_meant else (value <= wanted if relation == "<=" else value >= wanted)
        judged.append({"what": name, "wanted": f"{relation} {wanted:g}", "measured": value, "met": is_met})
    return judged


def describe(result: dict[str, Any]) -> str:
    """All of it as Markdown."""
    found, setup = result["sections"], result["setup"]
    machine = found.get("machine", {})
    gpu = machine.get("gpu", {})
    libraries = ", ".join(f"{name} {gpu[name]}" for name in ("driver", "cuda", "cudnn", "triton") if gpu.get(name))
    lines = [
        f"{machine.get('device', setup['device'])}, torch {machine.get('torch')}, {libraries or machine.get('cpu')}; "
        f"size {setup['size']}, {setup['px']} px, random weights",
        *_peaks(found.get("peak", {})),
        *_network(found.get("network", {})),
        *_points("parts, eager", found.get("parts", {})),
        *_profile(found.get("profile", {})),
        *_predict(found.get("predict", {})),
        *_training(found.get("training", {})),
        *_memory(found.get("memory", {})),
        *_targets(result.get("targets", [])),
    ]
    if "was_recorded" in (accuracy := found.get("accuracy", {})):
        told = f"differs from eager by {accuracy['recording_against_eager']:.1e} of the largest output"
        lines += ["", f"CUDA graphs: {told}" if accuracy["was_recorded"] else "CUDA graphs: **none was recorded**"]
    if said := found.get("tests", {}).get("said"):
        lines += ["", "tests: " + said.strip().splitlines()[-1]]
    wrong = {name: part.get("error") or part.get("left_out") for name, part in found.items() if isinstance(part, dict)}
    lines += ["", *(f"* {name}: {told}" for name, told in wrong.items() if told)]
    return "\n".join(lines).rstrip()


def _peaks(found: dict[str, Any]) -> list[str]:
    told = [
        f"{name}: products {rates['matrix'] / 1000:.4g}, convolutions {rates['convolution'] / 1000:.4g} TFLOP/s"
        for name, rates in found.items()
        if isinstance(rates, dict)
    ]
    return [f"At most {'; '.join(told)}"] if told else []


def _network(found: dict[str, Any]) -> list[str]:
    return _points("network", found)


def _points(title: str, found: dict[str, Any]) -> list[str]:
    """Rows of ways, columns of batches: ms (waited for) and img/s."""
    rows = {name: points for name, points in found.items() if isinstance(points, dict)}
    batches = list(dict.fromkeys(batch for points in rows.values() for batch in points))
    if not batches:
        return []
    head = ["", f"| {title}: ms (waited for), img/s | {' | '.join(f'batch {batch}' for batch in batches)} |"]
    head.append("|---|" + "---|" * len(batches))
    for name, points in rows.items():
        cells = [_cell(points[batch]) if batch in points else "" for batch in batches]
        head.append(f"| {name} | {' | '.join(cells)} |")
    return head


def _cell(point: dict[str, Any]) -> str:
    if "error" in point:
        return point["error"][:40]
    return f"{point['ms']:.4g} ({point['waited_for_ms']:.4g}), {point['images_per_s']:.4g}"


def _profile(found: dict[str, Any]) -> list[str]:
    parts = {name: found[name] for name in ("encoder", "unet", "whole") if name in found}
    kinds = sorted({kind for part in parts.values() for kind in part["ms"]})
    if not kinds:
        return []
    title = f"profile of fast, eager, batch {found['batch']}: ms (launches)"
    lines = ["", f"| {title} | {' | '.join(parts)} |", "|---|" + "---|" * len(parts)]
    for kind in kinds:
        cells = [f"{part['ms'].get(kind, 0):.4g} ({part['launches_by_kind'].get(kind, 0)})" for part in parts.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    if changes := found.get("layout_changes"):
        lines += ["", f"Operations that meet two memory orders: {changes['count']} {'; '.join(changes['first'][:2])}"]
    return lines


def _predict(found: dict[str, Any]) -> list[str]:
    lines = []
    for name, rate in (("call", "pictures_per_s"), ("job", "images_per_s")):
        if name in found:
            point = found[name]
            share = f"{point['share_of_network']:.0%} of {found['network_images_per_s']:.4g}"
            lines.append(f"predict, {name}, {point['pictures']} JPEG files: {point[rate]:.4g} img/s, {share}")
    return ["", *lines] if lines else []


def _training(found: dict[str, Any]) -> list[str]:
    lines = ["", "| training, batch | ms | img/s | peak, GiB | of the peak |", "|---|---|---|---|---|"]
    points = {name: point for name, point in found.items() if isinstance(point, dict)}
    for name, point in points.items():
        if "error" in point:
            lines.append(f"| {name} | {point['error'][:60]} | | | |")
            continue
        share = "" if point["share_of_peak"] is None else f"{point['share_of_peak']:.0%}"
        memory = "" if point["peak_gib"] is None else f"{point['peak_gib']:.1f}"
        lines.append(f"| {name} | {point['ms']:.4g} | {point['images_per_s']:.4g} | {memory} | {share} |")
    return lines if points else []


def _memory(found: dict[str, Any]) -> list[str]:
    lines = ["", "| memory over weights, MiB: way, batch | measured | counted |", "|---|---|---|"]
    for way, points in found.items():
        for batch, point in points.items() if isinstance(points, dict) else ():
            told = point.get("error") or f"{point['measured_mib']:.0f} | {point['counted_mib']:.0f}"
            lines.append(f"| {way}, {batch} | {told} |")
    return lines if len(lines) > 3 else []


def _targets(targets: list[dict[str, Any]]) -> list[str]:
    words = {True: "met", False: "MISSED", None: "not judged"}
    lines = ["", "| wanted (H200, sd15, 512 px) | | measured | |", "|---|---|---|---|"]
    for target in targets:
        value = "" if target["measured"] is None else f"{target['measured']:.4g}"
        lines.append(f"| {target['what']} | {target['wanted']} | {value} | {words[target['met']]} |")
    return lines
