"""What predicting and training take on graphics cards of some sizes: a table, by count."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from vpd.backbones.without_data import GpuWithoutData
from vpd.config import Resize, TaskConfig
from vpd.errors import UsageError
from vpd.inference.memory import format_memory
from vpd.inference.plan import MOST_OUTPUT_BYTES, MOST_SIZE_PX, SMALLEST, Planner
from vpd.inference.resize import most_rows
from vpd.loading import build_model
from vpd.overrides import Settings
from vpd.tasks.table import TaskKind
from vpd.training.card_memory import CUDA_BYTES, StepMemory, step_memory
from vpd.training.config import TrainConfig
from vpd.training.settings import resolve_config

_CARD = re.compile(r"(\d+(?:\.\d*)?)\s*([GM])I?B")
_MOST_BATCH = 4096
WAYS: dict[str, Settings] = {
    "full": {"mode": "full"},
    "full, checkpointing": {"mode": "full", "gradient_checkpointing": True},
    "full, 8-bit AdamW": {"mode": "full", "optimiser": "adamw_8bit"},
    "full, 8-bit AdamW, checkpointing": {"mode": "full", "optimiser": "adamw_8bit", "gradient_checkpointing": True},
    "lora": {"mode": "lora"},
    "lora, checkpointing": {"mode": "lora", "gradient_checkpointing": True},
    "frozen": {"mode": "frozen"},
    "frozen, checkpointing": {"mode": "frozen", "gradient_checkpointing": True},
    "head": {"mode": "head"},
}
"""To train, in words -> settings. With 8-bit AdamW maps cannot be channels-last, so it pays in `full` alone; in `head`
there is nothing to recompute."""


class Card(NamedTuple):
    """A graphics card."""

    name: str
    """As it is sold, such as `12 GB`."""
    size_bytes: int
    """Of all its memory: what is sold as GB is GiB."""


class Row(NamedTuple):
    """A line of the table."""

    what: str
    cells: tuple[str, ...]
    """One for each card."""


@dataclass(frozen=True)
class Subject:
    """A model whose needs are told."""

    config: TaskConfig
    """What it is."""
    task: TaskKind
    """Its class."""
    crop_px: int
    """What it is trained on."""
    source: str
    """What the user calls it."""
    text_encoder_bytes: int = 0
    """Of the text encoder that runs with it, float32."""


def parse_cards(text: str) -> list[Card]:
    """Cards of a text such as `12GB` or `8GB,12GB`.

    Raises:
        UsageError: If a part of it is no size of a card.
    """
    return [_parse_card(part.strip(), text) for part in text.split(",")]


def _parse_card(part: str, text: str) -> Card:
    found = _CARD.fullmatch(part.upper())
    if found is None:
        is_bare = re.fullmatch(r"\d+(\.\d*)?", part) is not None
        hint = f"its unit too: {part}GB" if is_bare else "the card's memory, such as 12GB, or several: 8GB,12GB,16GB"
        raise UsageError(f"--card {text}: give {hint}.")
    size = int(float(found[1]) * 2 ** (30 if found[2] == "G" else 20))
    if size <= CUDA_BYTES:
        raise UsageError(f"--card {text}: CUDA takes 1 GiB for itself. Give more than that, such as 8GB.")
    return Card(f"{float(found[1]):g} {found[2]}B", size)


class PredictionMemory:
    """What predictions take on a card, counted in passes on tensors without data.

    Args:
        subject: Who predicts.
        is_fast: In bfloat16, as `vpd.optimise` makes models.
    """

    def __init__(self, subject: Subject, *, is_fast: bool) -> None:
        model: Any = build_model(subject.config, subject.task).to(torch.bfloat16 if is_fast else torch.float32).eval()
        self.weight_bytes = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
        self.weight_bytes += subject.text_encoder_bytes
        with GpuWithoutData(allow_non_fake_inputs=True), torch.no_grad():
            model = model.to_empty(device="cpu")
            asked = model.prompts(1, **({"text": "any"} if model.reads_tokens else {}))
        model.is_optimised = is_fast
        self._model, self._planner = model, Planner(model=model, asked=asked, memory_bytes=None)
        self._own_px = subject.crop_px

    def budget(self, card: Card) -> int:
        """What is left for predictions."""
        return card.size_bytes - CUDA_BYTES - self.weight_bytes

    def largest_side(self, card: Card) -> int:
        """Side of the largest square picture that goes through in one pass, pixels; 0 = none."""
        step = self._model.output_multiple_px
        most = MOST_SIZE_PX // step * step
        start = min(2 * max(self._own_px // step * step, 2 * SMALLEST * step), most)
        return largest(self._side_bytes, self.budget(card), (SMALLEST * step, start, most), step=step, power=2)

    def largest_batch(self, card: Card) -> int:
        """Most pictures of the model's own size that go through together; 0 = not one."""
        return largest(self._batch_bytes, self.budget(card), (1, 4, _MOST_BATCH), step=1, power=1)

    def _side_bytes(self, side: int) -> int:
        fit = self._one_pass(side)
        is_small = 4 * self._planner.asked.channels * side * side <= MOST_OUTPUT_BYTES
        if is_small or self._planner.asked.smaller is not None:
            return self._planner.whole_bytes(fit, [(side, side)])
        return self._planner.stream_bytes(fit, (side, side), rows=most_rows(side))

    def _batch_bytes(self, batch: int) -> int:
        return self._planner.whole_bytes(self._one_pass(self._own_px), [(self._own_px, self._own_px)] * batch)

    def _one_pass(self, side: int) -> Resize:
        fit: Resize = self._model.fit_at(side)
        return fit.model_copy(update={"window_px": None, "stride_px": None, "flip": False, "scales": (1.0,)})


def largest(measure: Callable[[int], int], budget: int, span: tuple[int, int, int], *, step: int, power: int) -> int:
    """The largest number, a multiple of `step`, whose measure is within a budget; 0 if the smallest is not.

    Each measure takes long, so the next number to try follows from those before.

    Args:
        measure: Grows about as a constant plus a power of the number.
        budget: Most that it may be.
        span: The smallest number, where to look at first, the largest.
        step: Between numbers.
        power: Of the growth.
    """
    smallest, start, most = span
    known = {number: measure(number) for number in (smallest, start)}
    if known[smallest] > budget:
        return 0
    while True:
        fitting = max(number for number, found in known.items() if found <= budget)
        above = min((number for number, found in known.items() if found > budget), default=most + step)
        if above - fitting <= step:
            return fitting
        one, other = sorted(known, key=lambda number: abs(known[number] - budget))[:2]
        slope = (known[other] - known[one]) / (other**power - one**power)
        wanted = max(0.0, one**power + (budget - known[one]) / slope) ** (1 / power) if slope > 0 else most
        guess = min(max(int(wanted) // step * step, fitting), above - step)
        if guess == fitting:  # more is not to be expected
            return fitting
        known[guess] = measure(guess)


def prediction_rows(subject: Subject, cards: Sequence[Card]) -> Iterator[Row]:
    """Lines on predicting."""
    for name, is_fast in (("float32", False), ("--fast", True)):
        memory = PredictionMemory(subject, is_fast=is_fast)
        sides = [memory.largest_side(card) for card in cards]
        yield Row(f"{name}: square, one pass", tuple(f"{side} px" if side else "-" for side in sides))
        batches = [memory.largest_batch(card) for card in cards]
        yield Row(f"{name}: batch at {subject.crop_px} px", tuple(str(batch) if batch else "-" for batch in batches))
        budgets = [_rounded_down(memory.budget(card)) for card in cards]
        cells = (
            format_memory(budget).replace(" ", "") if side else "-" for budget, side in zip(budgets, sides, strict=True)
        )
        yield Row(f"{name}: any size, --memory", tuple(cells))


def _rounded_down(size_bytes: int) -> int:
    """As many digits as `format_memory` shows, so that it shows no more than there is."""
    unit = 10**8 if size_bytes >= 10**9 else 10**6
    return max(0, size_bytes) // unit * unit


def training_rows(subject: Subject, cards: Sequence[Card]) -> Iterator[Row]:
    """Lines on training: the largest batch at a time."""
    for way, settings in WAYS.items():
        config = training_config(subject, settings)
        try:
            memory = step_memory(
                subject.config, config, task=subject.task, text_encoder_bytes=subject.text_encoder_bytes
            )
        except UsageError as error:
            if config.mode != "lora":
                raise
            yield Row(f"{way}: {error}", ())  # PEFT is not installed
            continue
        yield Row(way, tuple(map(partial(_batch_cell, memory, config), cards)))


def training_config(subject: Subject, settings: Mapping[str, Any]) -> TrainConfig:
    """Settings of a way to train, as on a GPU."""
    order = {
        "channels_last": settings.get("optimiser") != "adamw_8bit",
        "precision": "bf16",
        "crop_px": subject.crop_px,
    }
    given = {"model": subject.source, "data": {"root": "any"}, "recipe": "default", **order, **settings}
    return resolve_config(subject.task, given, {"batch_size": 1, "epochs": None, "steps": 1})


def _batch_cell(memory: StepMemory, config: TrainConfig, card: Card) -> str:
    batch = memory.largest_batch(card.size_bytes, config.optimiser)
    return str(batch) if batch else "-"
