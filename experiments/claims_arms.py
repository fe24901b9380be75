"""What the experiments on the paper's claims compare: arms, their order, and the names of their runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from vpd.errors import UsageError

TASKS = ("refer", "segment", "depth")
LABELS = (256, 64)
BACKBONES = ("text", "random", "unconditional", "masked")
TRIAL_SEED = 99
"""On which learning rates are chosen, and nothing else."""
RATES = {
    ("frozen", "refer"): (1e-3, 3e-3, 1e-2),
    ("frozen", "segment"): (1e-2, 3e-2, 1e-1),
    ("frozen", "depth"): (1e-3, 3e-3, 1e-2),
    **{("full", task): (1e-4, 3e-4, 1e-3) for task in TASKS},
    ("gentle", "refer"): (3e-4, 1e-3, 3e-3),
}
"""Regime and task -> peak learning rates to choose from."""
FACTORS = ("backbone", "prompt", "maps", "adapter", "latents", "tokens")


@dataclass(frozen=True)
class Arm:
    """One way to build and train a model; the defaults are the paper's model in the library's default recipe.

    With a frozen UNet that model has its adapter off: features are computed once, and the adapter acts before them.
    The arm with the adapter on goes through the UNet at every step.
    """

    task: str
    """`refer`, `segment` or `depth`."""
    labels: int
    """Labelled scenes."""
    regime: str
    """`frozen`: the head learns (and the adapter where it is on); `full`: all but VAE and text encoder, at one rate;
    `gentle`: as `full`, the UNet at a tenth of the others' rate, as the `default` recipe of referring has it."""
    backbone: str = "text"
    """Whose UNet: `text`, `unconditional`, `masked` or `random`. Prompts come from the text encoder of `text`."""
    prompt: str = "proper"
    """`proper`; `null`: the empty text, read by the backbone's own text encoder; `shuffled`: in training the
    expression of another scene, or class prompts in random order."""
    maps: str = "on"
    """Cross-attention maps: `on`, as log ratios; `published`, as probabilities; `off`; or `detached` (`full` only: no
    gradient flows through them)."""
    adapter: str = "on"
    """Text adapter: `on` or `off`."""
    latents: str = "scaled"
    """`scaled` as in pre-training, or `unscaled`."""
    tokens: str = "one"
    """Depth: `one` prompt for the scene, or `many`, one for each thing that may be in it."""

    @property
    def name(self) -> str:
        """All of it in words."""
        return ",".join(f"{name}={value}" for name, value in asdict(self).items())

    @property
    def family(self) -> tuple[Any, ...]:
        """Arms that share a learning rate, found with the larger number of labels."""
        return (self.task, self.regime, self.backbone, self.latents)

    @property
    def is_cached(self) -> bool:
        """Whether features are computed once."""
        return self.regime == "frozen" and self.adapter == "off"

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
    """Peak learning rate; none = the best of the family's trials."""

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


def tiers() -> list[list[Arm]]:
    """All arms, in groups of falling importance."""
    groups = []
    for regime in ("frozen", "full"):
        bases = _bases(regime, TASKS)
        groups.append([replace(base, backbone=name) for base in bases for name in ("text", "random")])
        groups[-1] += [replace(base, prompt=p) for base in _bases(regime, ("refer",)) for p in ("null", "shuffled")]
    controls = {}
    for regime in ("frozen", "full"):
        bases = _bases(regime, TASKS)
        controls[regime] = [replace(base, backbone=name) for base in bases for name in ("unconditional", "masked")]
    groups += controls.values()
    prompts = ("proper", "null", "shuffled")
    groups.append([replace(base, prompt=prompt) for base in _bases("gentle", ("refer",)) for prompt in prompts])
    groups.append(_factors("frozen"))
    groups[-1] += [replace(arm, prompt="null") for arm in controls["frozen"]]  # what they read while they learnt
    groups.append([replace(base, adapter="on") for base in _bases("frozen", TASKS)])
    groups[-1] += [replace(base, adapter="on", prompt="null") for base in _bases("frozen", ("refer",))]  # its control
    groups.append([replace(base, adapter="off") for base in _bases("full", TASKS)] + _factors("full"))
    return groups


def plan(seeds: int, backbones: Mapping[str, Any], only: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Runs in the order in which they should be made: by importance, then seed by seed.

    Args:
        seeds: Of each arm.
        backbones: Those at hand; arms with others are left out.
        only: Field of `Arm` -> the value it must have, or several with `|` between them.
    """
    tried = set()
    for group in tiers():
        arms = [arm for arm in group if arm.backbone in backbones and matches(arm, only or {})]
        for seed in range(seeds):
            for arm in arms:
                if arm.family not in tried:
                    tried.add(arm.family)
                    yield from trials(arm)
                yield Run(arm, seed)


def trials(arm: Arm) -> list[Run]:
    """The runs that choose the learning rate of an arm's family; the member that stands for it is the simplest."""
    base = paper_model(arm.task, max(LABELS), arm.regime)
    member = replace(base, backbone=arm.backbone, latents=arm.latents)
    return [Run(member, TRIAL_SEED, rate) for rate in RATES[arm.regime, arm.task]]


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


def _factors(regime: str) -> list[Arm]:
    """One factor changed at a time, without those that stand elsewhere: backbone, adapter, the prompts of `refer`."""
    arms = []
    for base in _bases(regime, TASKS):
        arms.append(replace(base, latents="unscaled"))
        if base.task == "depth":  # its head takes no attention maps
            arms += [replace(base, prompt="null"), replace(base, tokens="many")]
            continue
        arms += [replace(base, maps="off"), replace(base, maps="published")]
        if regime == "full":
            arms.append(replace(base, maps="detached"))
        if base.task == "segment":
            arms += [replace(base, prompt="null"), replace(base, prompt="shuffled")]
    return arms
