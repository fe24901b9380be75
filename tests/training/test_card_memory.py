"""What steps take on a card, by count: against memory that was really taken, and by what must follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from tiny import CLASSES, tiny_unet, tiny_vae
from vpd.backbones.group_norm import group_norm
from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.backbones.without_data import GpuWithoutData
from vpd.config import Task
from vpd.errors import UsageError
from vpd.inference.cache import FrozenCaches
from vpd.inference.memory import LiveBytes
from vpd.tasks.table import TASKS
from vpd.training import card_memory
from vpd.training.card_memory import CUDA_BYTES, GpuAutocast, StepMemory, step_memory
from vpd.training.cards import Card, Subject, largest, parse_cards, prediction_rows, training_config, training_rows
from vpd.training.gradients import Gradients
from vpd.training.optimisers import build_optimiser, optimiser_groups
from vpd.training.step import LossOf, set_up

SMALL = {"segment": {"head_channels": 8, "classes": CLASSES}, "refer": {"head_channels": 8, "token_length": 8}}
SMALL |= {"depth": {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8), "scenes": ("a", "b")}}


def subject_for(task: Task, crop_px: int = 64) -> Subject:
    kind: Any = TASKS[task]
    backbone = StableDiffusionBackbone(unet=tiny_unet(), vae=tiny_vae())
    config = kind.config_type(backbone=backbone.config, fit=kind.training_fit("default", crop_px), **SMALL[task])
    return Subject(config, kind, crop_px, "any")


def counted(subject: Subject, **settings: Any) -> StepMemory:
    return step_memory(subject.config, training_config(subject, settings), task=subject.task)


def allocated_peak(run: Any) -> int:
    """Most bytes at once by torch's profiler, which hears of every allocation, those inside operators too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    live = peak = 0
    for event in sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_count_is_what_a_step_takes(checkpointing: bool) -> None:
    """On a CPU in float32; there convolutions make a copy of their results too, which is not counted."""
    subject = subject_for("segment", 128)
    config = training_config(subject, {"gradient_checkpointing": checkpointing, "channels_last": False})
    config = config.model_copy(update={"precision": "no"})
    memory = step_memory(subject.config, config, task=subject.task)
    backbone = StableDiffusionBackbone(unet=tiny_unet(), vae=tiny_vae())
    model = subject.task(subject.config, backbone=backbone).train()
    set_up(model, config)
    gradients = Gradients(build_optimiser(optimiser_groups(model, config), kind="sgd"), narrow=True)
    loss_of, samples = LossOf(model, config, FrozenCaches()), model.example_batch(4, config.crop_px)
    measured = allocated_peak(lambda: torch.autograd.backward(loss_of(samples)[0]))
    gradients.close()
    assert memory.weight_bytes == sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    passes = max(fixed + 4 * each for fixed, each in memory.moments)
    assert 0.8 * measured <= passes <= 1.1 * measured


@pytest.mark.extras
@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_two_batches_tell_every_batch(task: Task) -> None:
    subject = subject_for(task)
    config = training_config(subject, {"mode": "full", "gradient_checkpointing": True})
    memory = step_memory(subject.config, config, task=subject.task)
    _, _, course = card_memory._course(subject.config, config, subject.task, 7)
    assert max(fixed + 7 * each for fixed, each in memory.moments) == pytest.approx(max(course), rel=0.01)


@pytest.mark.extras
def test_modes_in_their_order() -> None:
    subject = subject_for("refer", 128)
    full, recomputing, lora, frozen, head = (
        counted(subject, mode=mode, gradient_checkpointing=checkpointing)
        for mode, checkpointing in (
            ("full", False),
            ("full", True),
            ("lora", False),
            ("frozen", False),
            ("head", False),
        )
    )
    assert full.num_trained > lora.num_trained > frozen.num_trained > head.num_trained
    sizes = [memory.total_bytes(64, "adamw") for memory in (full, lora, frozen, head)]
    assert sizes == sorted(sizes, reverse=True)
    assert recomputing.total_bytes(64, "adamw") < full.total_bytes(64, "adamw")
    assert full.total_bytes(1, "adamw") - full.total_bytes(1, "adamw_8bit") == 6 * full.num_trained


@pytest.mark.parametrize(("order", "copies"), [(torch.channels_last, 1), (torch.contiguous_format, 4)])
def test_the_kernel_of_group_norm_makes_no_float32_maps(order: torch.memory_format, copies: int) -> None:
    """In NCHW autocast makes float32 maps: of what goes into the norm, of what comes out, of what SiLU makes."""
    norm = nn.GroupNorm(4, 32)
    with GpuWithoutData(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16):
        maps = torch.empty(2, 32, 64, 64, dtype=torch.bfloat16).to(memory_format=order).requires_grad_()
        with GpuAutocast(), LiveBytes() as live:
            result = group_norm(norm, maps, silu=True)
            assert live.peak >= copies * maps.nbytes
            assert (live.peak <= 1.01 * maps.nbytes) == (order == torch.channels_last)
            torch.autograd.backward(result.sum())
    assert maps.grad is not None and maps.grad.dtype == torch.bfloat16
    assert maps.grad.is_contiguous(memory_format=order)
    assert result.dtype == (torch.bfloat16 if order == torch.channels_last else torch.float32)


@pytest.mark.extras
def test_norms_and_softmax_are_counted_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In what is run again in the backward pass too."""
    narrow = torch.ones(2, 4, 3, 3, dtype=torch.bfloat16)
    with GpuAutocast():
        assert nn.GroupNorm(2, 4).bfloat16()(narrow).dtype == torch.float32
        assert narrow.softmax(dim=-1).dtype == narrow.log().dtype == torch.float32
        assert functional.layer_norm(narrow, (3,)).dtype == torch.float32
        assert functional.relu(narrow).dtype == torch.bfloat16
    subject = subject_for("refer", 128)
    again = {"gradient_checkpointing": True, "channels_last": False}
    with_mode = counted(subject, **again)
    seen: list[Any] = []

    class Watching(GpuAutocast):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs)

    monkeypatch.setattr(card_memory, "GpuAutocast", Watching)
    counted(subject, **again)
    norms = seen.count(functional.layer_norm)
    seen.clear()
    counted(subject, channels_last=False)
    assert norms == 2 * seen.count(functional.layer_norm)
    monkeypatch.setattr(Watching, "in_float32", ())
    assert counted(subject, **again).total_bytes(64, "adamw") < with_mode.total_bytes(64, "adamw")


def test_the_largest_batch_by_hand() -> None:
    mib = 2**20
    memory = StepMemory(weight_bytes=100 * mib, num_trained=10 * mib, moments=((0, 10 * mib), (50 * mib, 5 * mib)))
    fixed = CUDA_BYTES + (100 + 80) * mib  # AdamW's state is 8 bytes a value
    assert memory.largest_batch(fixed + 110 * mib, "adamw") == 10  # 11 MiB a picture, with the margin
    assert memory.largest_batch(fixed + 109 * mib, "adamw") == 9
    assert memory.largest_batch(fixed + 60 * mib, "adamw") == 1  # (60 - 50) / 5.5
    assert memory.largest_batch(fixed + 59 * mib, "adamw") == 0  # the optimiser's step: 2 + 4 bytes a value
    assert memory.largest_batch(fixed, "adamw_8bit") == 1  # 60 MiB of state less
    for card in range(fixed, fixed + 400 * mib, 7 * mib):
        batch = memory.largest_batch(card, "adamw")
        assert memory.total_bytes(batch + 1, "adamw") > card
        assert batch == 0 or memory.total_bytes(batch, "adamw") <= card


@pytest.mark.parametrize("budget", [99, 100, 5_000, 70_000, 10**6])
def test_few_measures_find_the_largest(budget: int) -> None:
    asked: list[int] = []

    def measure(side: int) -> int:
        asked.append(side)
        return 36 + side * side + (200 if side > 100 else 0)

    found = largest(measure, budget, (8, 64, 800), step=4, power=2)
    fitting = [side for side in range(8, 801, 4) if 36 + side * side + (200 if side > 100 else 0) <= budget]
    assert found == max(fitting, default=0) and len(asked) <= 6


def test_a_measure_that_does_not_grow() -> None:
    assert largest(lambda _: 5, 10, (1, 4, 99), step=1, power=1) == 99


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("12GB", [Card("12 GB", 12 * 2**30)]),
        ("8gb, 16 GiB", [Card("8 GB", 8 * 2**30), Card("16 GB", 2**34)]),
        ("4096MB", [Card("4096 MB", 2**32)]),
    ],
)
def test_cards(text: str, wanted: list[Card]) -> None:
    assert parse_cards(text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("24", "--card 24: give its unit too: 24GB."),
        ("8GB,12", "--card 8GB,12: give its unit too: 12GB."),
        ("large", "--card large: give the card's memory, such as 12GB, or several: 8GB,12GB,16GB."),
        ("", "give the card's memory"),
        ("12GB,", "give the card's memory"),
        ("-8GB", "give the card's memory"),
        ("1GB", "--card 1GB: CUDA takes 1 GiB for itself. Give more than that, such as 8GB."),
        ("900MB", "CUDA takes 1 GiB for itself"),
    ],
)
def test_what_is_no_card(text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_cards(text)
    assert said in str(raised.value)


def numbers(cells: Sequence[str]) -> list[float]:
    return [
        0.0 if cell == "-" else float(cell.removesuffix(" px").removesuffix("GB").removesuffix("MB")) for cell in cells
    ]


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_more_memory_predicts_more(task: Task) -> None:
    cards = [Card("none", CUDA_BYTES + 2**20), *parse_cards("1100MB,1.5GB,2GB")]
    rows = {row.what: numbers(row.cells) for row in prediction_rows(subject_for(task), cards)}
    assert len(rows) == 6
    for what, found in rows.items():
        assert found[0] == 0 < found[3], what
        if "--memory" not in what:  # of these the unit changes
            assert found == sorted(found) and found[1] < found[3], what
    exact, fast = (rows[f"{name}: batch at 64 px"] for name in ("float32", "--fast"))
    assert all(more >= less for less, more in zip(exact, fast, strict=True))


@pytest.mark.extras
def test_more_memory_trains_more() -> None:
    cards = [Card("none", CUDA_BYTES + 2**20), *parse_cards("1100MB,2GB,4GB")]
    rows = {row.what: numbers(row.cells) for row in training_rows(subject_for("depth"), cards)}
    assert len(rows) == 9
    for what, found in rows.items():
        assert found[0] == 0 < found[1] < found[2] < found[3], what
    assert all(rows["lora, checkpointing"][place] >= rows["lora"][place] for place in range(4))


def test_without_peft_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> StepMemory:
        raise UsageError("LoRA needs PEFT.")

    monkeypatch.setattr("vpd.training.cards.step_memory", refuse)
    monkeypatch.setattr("vpd.training.cards.WAYS", {"lora": {"mode": "lora"}})
    assert [row.what for row in training_rows(subject_for("depth"), parse_cards("8GB"))] == ["lora: LoRA needs PEFT."]
    monkeypatch.setattr("vpd.training.cards.WAYS", {"head": {"mode": "head"}})
    with pytest.raises(UsageError, match="needs PEFT"):
        list(training_rows(subject_for("depth"), parse_cards("8GB")))
