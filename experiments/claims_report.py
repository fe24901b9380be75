"""Tables and plots of the experiments on the paper's claims, from the lines that the runs left."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.claims_arms import LABELS, REGIMES, TASKS, Arm, paper_model, tiers
from experiments.claims_curves import plot_curves, steps_table
from experiments.claims_differences import arm_words, difference, gap_words, is_error, mean_words, scores
from experiments.claims_results import PACKED, SCORES, Lines, by_arm, read_results, write_packed
from experiments.claims_verdicts import progress_table, verdicts_table
from vpd.errors import UsageError
from vpd.files.atomic import atomic_write, writable_folder

ONE_SEED = "¹ one seed: the interval is that of scenes alone, and says nothing of how much seeds differ."


def write_report(results: Path, out: Path, page: Path | None = None) -> None:
    """Write `tables.md`, `curves.png` and `runs.jsonl.xz`, and the generated parts of a page.

    Args:
        results: The lines of runs, packed or not.
        out: Folder to write into.
        page: Markdown with `<!-- verdicts -->`, `<!-- runs -->`, `<!-- progress -->`, each closed by `<!-- end -->`:
            what lies between is written anew.

    Raises:
        UsageError: If there is no finished run, or the page has no such places.
    """
    lines = by_arm(results)
    if not lines:
        raise UsageError(f"{results} holds no finished run: make some with `run` first.")
    folder = writable_folder(out)
    tables = ["# Measured", *(_table(lines, task) for task in TASKS)]
    if steps := steps_table(lines):
        about = "When a mean curve first reaches the best that random weights have, on the first test scenes."
        tables += ["## Steps to the best of random weights", about, steps]
    with atomic_write(folder / "tables.md") as temporary:
        temporary.write_text("\n\n".join([*(part for part in tables if part), ONE_SEED]) + "\n", encoding="utf-8")
    plot_curves(lines, folder / "curves.png")
    packed = folder / f"runs.jsonl{PACKED}"
    if packed.resolve() != results.resolve():
        write_packed(packed, read_results(results))
    if page is not None:
        parts = {"verdicts": verdicts_table(lines), "runs": _runs_words(results), "progress": progress_table(lines)}
        _fill(page, parts)


def _fill(page: Path, contents: dict[str, str]) -> None:
    text = page.read_text(encoding="utf-8")
    for name, content in contents.items():
        found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
        if found is None:
            raise UsageError(f"{page} has no place for {name}: `<!-- {name} -->` and, below, `<!-- end -->`.")
        text = f"{text[: found.start(1)]}{content}\n{text[found.end(1) :]}"
    with atomic_write(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _runs_words(results: Path) -> str:
    runs = read_results(results)
    trials = sum(line["trial"] for line in runs)
    minutes = sum(sum(line["cpu_s"]) for line in runs) / 60
    return f"{len(runs) - trials} runs and {trials} trials of rates, {minutes:.0f} CPU minutes."


def _table(lines: Lines, task: str) -> str:
    arms = [arm for group in tiers() for arm in dict.fromkeys(group) if arm in lines and arm.task == task]
    if not arms:
        return ""
    text = [
        f"## {task}: {SCORES[task]} ({'metres, less is better' if is_error(task) else 'per cent, more is better'})",
        "",
        "Mean over seeds ± their standard deviation; difference: minus the paper's model of the same regime and number "
        "of labels, with its 95 % interval (paired bootstrap over test scenes, Student's t over seeds; bold where it "
        "excludes zero).",
        "",
        "| regime | labels | arm | rate | seeds | score | difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for regime in REGIMES:
        for labels in LABELS:
            base = paper_model(task, labels, regime)
            for arm in sorted(
                (arm for arm in arms if (arm.regime, arm.labels) == (regime, labels)), key=lambda arm: arm != base
            ):
                gap = None if arm == base else difference(lines, arm, base)
                rates = sorted({f"{line['rate']:g}" for line in lines[arm].values()})
                score = mean_words(task, scores(lines, arm)) + _also(lines, arm)
                seeds = len(lines[arm]) if gap is None else gap[0]
                cells = [regime, labels, arm_words(arm), "/".join(rates), seeds, score]
                text.append("| " + " | ".join(map(str, [*cells, gap_words(task, gap, bold=True)])) + " |")
    return "\n".join(text)


def _also(lines: Lines, arm: Arm) -> str:
    """What else a score says."""
    if arm.task == "open":
        shown = [line["metrics"]["shown"] for line in lines[arm].values()]
        return f" (names with labels: {mean_words(arm.task, shown)})"
    exchanged = scores(lines, arm, "shuffled_score")
    return f" (exchanged in the test: {mean_words(arm.task, exchanged)})" if exchanged else ""
