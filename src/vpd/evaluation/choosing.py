"""Which samples a report shows: failures that differ from one another, and what is usual."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from vpd.tasks.table import TaskKind

_SHARE, _TIMES = 3, 3  # failures are chosen among the worst third of the samples, or three times as many as are shown


def ranked(scores: Sequence[float], task: TaskKind) -> list[int]:
    """Places of the scores from worst to best, those that are equal in their order; without NaN."""
    sign = -1 if task.score_is_error else 1  # errors shall be small
    known = [place for place, score in enumerate(scores) if not math.isnan(score)]
    return sorted(known, key=lambda place: sign * scores[place])


def different_failures(order: Sequence[int], kinds: Sequence[str], groups: Sequence[Hashable], most: int) -> list[int]:
    """Places of failures of different kinds and groups, each the worst that its kind and group leave.

    Args:
        order: Places of all samples from worst to best.
        kinds: Kind of the error of each sample; empty = none.
        groups: Group of each.
        most: How many, at most.
    """
    worst = order[: max(_TIMES * most, math.ceil(len(order) / _SHARE))]
    left = [place for place in worst if kinds[place]] or list(worst)
    chosen: list[int] = []
    of_kind, of_group = Counter[str](), Counter[Hashable]()
    while left and len(chosen) < most:
        place = min(left, key=lambda place: of_kind[kinds[place]] + of_group[groups[place]])  # the first of equal ones
        left.remove(place)
        chosen.append(place)
        of_kind[kinds[place]] += 1
        of_group[groups[place]] += 1
    return chosen


def usual(order: Sequence[int], groups: Sequence[Hashable], most: int) -> list[int]:
    """Places of the samples around the middle of the order, of different groups first."""
    middle = sorted(range(len(order)), key=lambda rank: abs(2 * rank - len(order) + 1))
    return spread([order[rank] for rank in middle], groups)[:most]


def spread(places: Sequence[int], groups: Sequence[Hashable]) -> list[int]:
    """The places in another order: the first of each group, then the others, so that not all are of one room."""
    firsts: dict[Hashable, int] = {}
    for place in places:
        firsts.setdefault(groups[place], place)
    return [*firsts.values(), *(place for place in places if firsts[groups[place]] != place)]
