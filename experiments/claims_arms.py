"""What the experiments on the paper's claims compare: arms, their order, and the names of their runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vpd.errors import UsageError

TASKS = ("refer", "segment", "depth", "colours", "open")
"""Referring, segmentation by shape, depth; segmentation by colour and shape, with the published head; the same with the
head that takes any names, some of which have no label in training."""
LIBRARY_TASK: dict[str, Any] = {task: "segment" if task in ("colours", "open") else task for task in TASKS}
"""Task -> the library's task that does it."""
REGIMES = ("frozen", "adapter", "full")
LABELS = (256, 64)
BACKBONES = ("text", "random", "unconditional")
RATES = {
    **{("frozen", task): (3e-3, 1e-2) for task in ("refer", "depth")},
    **{("frozen", task): (1e-2, 3e-2) for task in ("segment", "colours")},
    ("frozen", "open"): (3e-3, 1e-2, 3e-2),
    ("adapter", "refer"): (3e-3, 1e-2),
    ("full", "refer"): (3e-4, 1e-3),
    ("full", "segment"): (1e-3,),
    ("full", "depth"): (1e-3,),
}
"""Regime and task -> peak learning rates to choose from; where there is one, nothing is tried."""
FACTORS = ("backbone", "prompt", "maps", "adapter")


@dataclass(frozen=True)
class Arm:
    """One way to build and train a model; the defaults are the paper's model in the library's default recipe."""

    task: str
    """One of `TASKS`."""
    labels: int
    """Labelled scenes."""
    regime: str
    """`frozen`: the head learns, and features are computed once; `adapter`: text adapter and head; `full`: all but VAE
    and text encoder, at one rate."""
    backbone: str = "text"
    """Whose UNet: `text`, `unconditional` or `random`. Prompts come from the text encoder of `text`."""
    prompt: str = "proper"
    """`proper`; `null`: the empty text, read by the backbone's own text encoder; `exchanged` (`open`): each object's
    name stands for another object, in training and test."""
    maps: str = "on"
    """Cross-attention maps: `on`, as log ratios; `published`, as probabilities; `off`."""
    adapter: str = "on"
    """Text adapter: `on` or `off`."""

    @property
    def name(self) -> str:
        """All of it in words."""
        return ",".join(f"{name}={value}" for name, value in asdict(self).items())

    @property
    def family(self) -> tuple[Any, ...]:
        """Arms that share a learning rate; only where features are computed once each backbone has its own."""
        return (self.task, self.regime, self.backbone if self.regime == "frozen" else "text")

    @property
    def is_cached(self) -> bool:
        """Whether features are computed once: the adapter acts before them."""
        return self.regime != "full" and self.adapter == "off"

    def changed(self) -> dict[str, str]:
        """In which factors it differs from the paper's model of its regime."""
        base = paper_model(self.task, self.labels, self.regime)
        return {name: getattr(self, name) for name in FACTORS if getattr(self, name) != getattr(base, name)}


@dataclass(frozen=True)
class Run:
    """One training."""

    arm: Arm
    seed: int
    """Decides labelled scenes, initial weights and order."""
    rate: float | None = None
    """Peak learning rate that is tried, measured on validation scenes; none = the best of the family's trials."""

    @property
    def is_trial(self) -> bool:
        """Whether it is there to choose a learning rate."""
        return self.rate is not None

    def key(self, settings: str) -> str:
        """Name of its line in the results."""
        rate = f",rate={self.rate:g}" if self.rate else ""
        return f"{self.arm.name},seed={self.seed}{rate} {settings}"


def paper_model(task: str, labels: int, regime: str) -> Arm:
    """The arm that all others of a task, number of labels and regime are compared with."""
    return Arm(task, labels, regime, adapter="off" if regime == "frozen" else "on")


def control(arm: Arm) -> Arm:
    """The same with the control that never saw a word: it reads the empty text, as in its training, where it can."""
    return replace(arm, backbone="unconditional", prompt="proper" if arm.task in ("refer", "open") else "null")


def tiers() -> list[list[Arm]]:
    """All arms, in groups of falling importance; first those in which the UNet is frozen, which are cheap."""
    factors = []
    for base in _bases("frozen", ("refer", "segment", "depth")):
        if base.task != "depth":  # whose head takes no maps
            factors += [replace(base, maps="off"), replace(base, maps="published")]
        if base.task != "refer":
            factors.append(replace(base, prompt="null"))
    words = []
    for base in _bases("frozen", ("open", "colours")):
        words += [base, replace(base, prompt="exchanged" if base.task == "open" else "null"), replace(base, maps="off")]
        words += [control(base)] if base.task == "open" else []
    few = [replace(base, prompt="null") for base in _bases("adapter", ("refer",))]
    return [
        _backbones("frozen"),
        words,
        factors,
        _backbones("full"),
        [*_bases("adapter", ("refer",)), *few],
        [replace(base, adapter="off") for base in _bases("adapter", ("refer",))],
        [
            replace(base, adapter="off")
            for base in _bases("full", ("refer", "segment", "depth"))
            if base.labels == max(LABELS)
        ],
    ]


def plan(seeds: int, backbones: Mapping[str, Any], only: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Runs in the order in which they should be made.

    All arms with the first seed; then the other seeds where the UNet is frozen; then those where more trains.

    Args:
        seeds: Of each arm.
        backbones: Those at hand; arms with others are left out.
        only: Field of `Arm` -> the value it must have, or several with `|` between them.
    """
    tried = set()
    arms = [arm for group in tiers() for arm in group if arm.backbone in backbones and matches(arm, only or {})]
    frozen = [arm for arm in arms if arm.regime == "frozen"]
    others = [arm for arm in arms if arm.regime != "frozen"]
    runs = [Run(arm, 0) for arm in arms] if seeds else []
    runs += [Run(arm, seed) for part in (frozen, others) for seed in range(1, seeds) for arm in part]
    for run in runs:
        if run.arm.family not in tried:
            tried.add(run.arm.family)
            yield from trials(run.arm)
        yield run


def trials(arm: Arm) -> list[Run]:
    """The runs that choose the learning rate of an arm's family; the member that stands for it is the simplest."""
    rates = RATES[arm.regime, arm.task]
    member = paper_model(arm.task, max(LABELS), arm.regime)
    if arm.family[-1] == "unconditional":
        member = control(member)
    elif arm.family[-1] != "text":
        member = replace(member, backbone=arm.family[-1])
    return [Run(member, 0, rate) for rate in rates] if len(rates) > 1 else []


def matches(arm: Arm, only: Mapping[str, str]) -> bool:
    """Whether an arm has the wanted values.

    Raises:
        UsageError: If there is no such field.
    """
    known = [field.name for field in fields(Arm)]
    if unknown := sorted(set(only) - set(known)):
        raise UsageError(f"Unknown fields: {', '.join(unknown)}. Known: {', '.join(known)}.")
    return all(str(getattr(arm, name)) in wanted.split("|") for name, wanted in only.items())


def _bases(regime: str, tasks: tuple[str, ...]) -> list[Arm]:
    return [paper_model(task, labels, regime) for labels in LABELS for task in tasks]


def _backbones(regime: str) -> list[Arm]:
    """The paper's model, random weights, the control; for referring also without words."""
    arms = []
    for base in _bases(regime, ("segment", "refer", "depth")):
        arms += [base, replace(base, backbone="random"), control(base)]
        arms += [replace(base, prompt="null")] if base.task == "refer" else []
    return arms
