"""The claims, which two arms each of them compares, and the table of what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from experiments.claims_arms import BACKBONES, LABELS, Arm, control, paper_model, plan
from experiments.claims_differences import difference, gap_words, is_error, mean_words, scores
from experiments.claims_results import Lines
from experiments.paired_intervals import Difference

TASK_WORDS = {
    "refer": "referring, oIoU",
    "segment": "segmentation by shape, mIoU",
    "colours": "segmentation by colour and shape, mIoU",
    "open": "names without a label, mIoU",
    "depth": "depth, RMSE in m",
}
REGIME_WORDS = {"frozen": "frozen", "adapter": "adapter and head", "full": "all trains"}
SEEDS = 3
"""Of each arm, in the plan."""
TINY = 0.003
"""Of a share, or metres: a smaller difference is no support for a claim, however sure it is."""
_EVERYWHERE = tuple((task, regime) for regime in ("frozen", "full") for task in ("refer", "segment", "depth"))


@dataclass(frozen=True)
class Claim:
    """Something that one arm should do better than another."""

    words: str
    other: Callable[[Arm], Arm]
    """The paper's model -> what it is compared with."""
    places: tuple[tuple[str, str], ...]
    """Tasks and regimes."""
    rows_of: str = "rows"
    """Of the other arm."""
    small: bool = False
    """Accuracy on small objects, instead of the task's score."""


CLAIMS = (
    Claim(
        "pre-trained features beat random ones",
        lambda base: replace(base, backbone="random"),
        _EVERYWHERE,
    ),
    Claim(
        "pre-training with words beats the same without",
        control,
        (*_EVERYWHERE, ("open", "frozen")),
    ),
    Claim(
        "the text matters: proper against empty",
        lambda base: replace(base, prompt="null"),
        (
            ("refer", "full"),
            ("refer", "adapter"),
            ("refer", "frozen"),
            ("segment", "frozen"),
            ("colours", "frozen"),
            ("depth", "frozen"),
        ),
    ),
    Claim(
        "proper against exchanged, in the test only",
        lambda base: base,
        (("refer", "full"), ("refer", "adapter"), ("refer", "frozen"), ("segment", "frozen"), ("colours", "frozen")),
        rows_of="shuffled_rows",
    ),
    Claim(
        "proper against exchanged names, in training too",
        lambda base: replace(base, prompt="exchanged"),
        (("open", "frozen"),),
    ),
    Claim(
        "small objects: proper against empty (right pixels)",
        lambda base: replace(base, prompt="null"),
        (("segment", "frozen"), ("colours", "frozen")),
        small=True,
    ),
    Claim(
        "attention maps help: on against off",
        lambda base: replace(base, maps="off"),
        (("refer", "frozen"), ("segment", "frozen"), ("colours", "frozen"), ("open", "frozen")),
    ),
    Claim(
        "log ratios against probabilities, as published",
        lambda base: replace(base, maps="published"),
        (("refer", "frozen"), ("segment", "frozen")),
    ),
    Claim(
        "small objects: maps on against off (right pixels)",
        lambda base: replace(base, maps="off"),
        (("segment", "frozen"), ("colours", "frozen")),
        small=True,
    ),
    Claim(
        "the adapter helps: on against off",
        lambda base: replace(base, adapter="off"),
        (("refer", "adapter"), ("refer", "full"), ("segment", "full"), ("depth", "full")),
    ),
    Claim(
        "a frozen UNet with adapter beats training all",
        lambda base: replace(base, regime="full"),
        (("refer", "adapter"),),
    ),
)
"""What each claim says is that the paper's model is the better one."""


def verdicts_table(lines: Lines) -> str:
    """A row for each claim, task and regime that has runs."""
    text = ["| claim | task, what trains | 256 labels | 64 labels | verdict |", "|---|---|---|---|---|"]
    for claim in CLAIMS:
        words_once = f"**{claim.words}**"
        for task, regime in claim.places:
            cells, gaps = [], []
            for labels in LABELS:
                words, gap = _compare(lines, claim, paper_model(task, labels, regime))
                cells.append(words)
                gaps.append(gap)
            if not any(gaps):
                continue
            place = f"{TASK_WORDS[task].split(',')[0] if claim.small else TASK_WORDS[task]}; {REGIME_WORDS[regime]}"
            row = [words_once, place, *cells, verdict(task, gaps, claim.small)]
            words_once = ""
            text.append("| " + " | ".join(row) + " |")
    return "\n".join(text)


def verdict(task: str, gaps: list[tuple[int, Difference] | None], small: bool = False) -> str:
    """What the differences say, by number of labels: `holds`, `not seen` where 0 lies within or they are tiny."""
    sign = -1 if is_error(task) and not small else 1
    found = {labels: gap for labels, gap in zip(LABELS, gaps, strict=True) if gap is not None}
    if not found:
        return "not run"
    of_one = min(seeds for seeds, _ in found.values()) == 1
    says = {}
    for labels, (_, gap) in found.items():
        low, high = sorted((sign * gap.low, sign * gap.high))
        is_clear = (low > 0 or high < 0) and abs(gap.mean) >= TINY
        says[labels] = "not seen" if not is_clear else "holds" if low > 0 else "the opposite"
    if len(set(says.values())) == 1:
        words = next(iter(says.values()))
        words += "" if len(says) == len(gaps) else f" ({next(iter(says))} labels)"
    else:
        words = "; ".join(f"{word} ({labels} labels)" for labels, word in says.items())
    return f"{words}¹" if of_one else words


def progress_table(lines: Lines) -> str:
    """How many runs there are of those that are planned."""
    planned, made = Counter[tuple[str, int, str]](), Counter[tuple[str, int, str]]()
    for run in plan(SEEDS, dict.fromkeys(BACKBONES)):
        if not run.is_trial:
            kind = (run.arm.regime, run.arm.labels, run.arm.task)
            planned[kind] += 1
            made[kind] += run.seed in lines.get(run.arm, {})
    tasks = [words.split(",")[0] for words in TASK_WORDS.values()]
    text = [f"| what trains, labels | {' | '.join(tasks)} |", "|---|" + "---|" * len(tasks)]
    for regime, words in REGIME_WORDS.items():
        for labels in LABELS:
            kinds = [(regime, labels, task) for task in TASK_WORDS]
            cells = [f"{made[kind]} of {planned[kind]}" if kind in planned else "" for kind in kinds]
            text.append(f"| {words}, {labels} | {' | '.join(cells)} |")
    return "\n".join(text)


def _compare(lines: Lines, claim: Claim, base: Arm) -> tuple[str, tuple[int, Difference] | None]:
    other = claim.other(base)
    if claim.rows_of != "rows":
        turned = difference(lines, base, base, rows_of=claim.rows_of)
        gap = None if turned is None else (turned[0], _negative(turned[1]))
        ours, theirs = _common(lines, base, base, "score", "shuffled_score")
    else:
        gap = difference(lines, base, other, small=claim.small)
        ours, theirs = _common(lines, base, other, "score", "score")
    if gap is None:
        return "—", None
    if claim.small:
        ours, theirs = (_small_scores(lines, arm, set(lines[base]) & set(lines[other])) for arm in (base, other))
    task = "segment" if claim.small else base.task
    both = (mean_words(task, values, spread=False) for values in (ours, theirs))
    return f"{' / '.join(both)}: {gap_words(task, gap)}", gap


def _common(lines: Lines, arm: Arm, other: Arm, field: str, other_field: str) -> tuple[list[float], list[float]]:
    """Scores of the seeds that both have."""
    seeds = set(lines.get(arm, {})) & set(lines.get(other, {}))
    chosen = {which: {seed: lines[which][seed] for seed in seeds} for which in (arm, other) if which in lines}
    return scores(chosen, arm, field), scores(chosen, other, other_field)


def _small_scores(lines: Lines, arm: Arm, seeds: set[int]) -> list[float]:
    """Share of right pixels on small objects, of each seed."""
    totals = [np.array(lines[arm][seed]["small_rows"]).sum(axis=1) for seed in sorted(seeds)]
    return [float(right / counted) for right, counted in totals]


def _negative(gap: Difference) -> Difference:
    return Difference(-gap.mean, -gap.high, -gap.low)
