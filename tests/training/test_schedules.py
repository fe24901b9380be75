"""Learning rates, against values by hand and the golden schedules."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_models import group_rates
from vpd.errors import UsageError
from vpd.tasks.table import TASKS
from vpd.training.schedules import WARMUP_RATIO, Schedule, poly_rate, recipe_schedule, rise_and_fall_rate


def schedule_of(task: str, recipe: str, **options: object) -> Schedule:
    return recipe_schedule(recipe, TASKS[task].published_schedule, **options)


def test_poly_without_warmup_by_hand():
    rates = [poly_rate(step, peak=2.0, steps=4, power=2.0) for step in range(6)]
    assert rates == pytest.approx([2.0, 1.125, 0.5, 0.125, 0.0, 0.0])


def test_warmup_multiplies_the_falling_rate():
    rates = [poly_rate(step, peak=1.0, steps=4, warmup_steps=2) for step in range(4)]
    assert rates == pytest.approx([1e-6, 0.75 * 0.5000005, 0.5, 0.25])


def test_rise_and_fall_by_hand():
    rates = [rise_and_fall_rate(step, peak=5.0, floor=1.0, half_steps=2, power=1.0) for step in range(6)]
    assert rates == pytest.approx([3.0, 5.0, 3.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
@pytest.mark.parametrize(("steps", "warmup_steps"), [(200, 10), (30_000, 1500), (80_000, 1500)])
def test_default_warms_up_over_a_twentieth_and_falls_straight(task, steps, warmup_steps):
    schedule = schedule_of(task, "default", peak=1e-3, steps=steps)
    warm = 1e-3 * (1 - warmup_steps / steps)
    assert schedule(0) == pytest.approx(1e-9)
    assert schedule(warmup_steps - 1) < schedule(warmup_steps) == pytest.approx(warm)
    assert schedule(steps // 2) == pytest.approx(5e-4)
    assert schedule(steps) == 0.0


def test_default_of_a_very_short_run_has_no_warmup():
    schedule = schedule_of("depth", "default", peak=1.0, steps=2)
    assert [schedule(0), schedule(1)] == [1.0, 0.5]


@settings(deadline=None)
@given(
    st.sampled_from(["segment", "refer", "depth"]),
    st.sampled_from(["reference", "default"]),
    st.integers(1, 300),
    st.integers(1, 50),
)
def test_rates_stay_between_nothing_and_the_peak(task, recipe, steps, steps_per_epoch):
    schedule = schedule_of(task, recipe, peak=1.0, steps=steps, steps_per_epoch=steps_per_epoch)
    assert all(0.0 < schedule(step) <= 1.0 + 1e-12 for step in range(steps))
    assert schedule(steps + 1) < 0.1


@pytest.mark.parametrize(("steps_per_epoch", "half_steps"), [(None, 7), (3, 6), (7, 7), (8, 7), (15, 7)], ids=str)
def test_published_rise_takes_half_of_the_whole_epochs(steps_per_epoch, half_steps):
    schedule = schedule_of("depth", "reference", peak=1.0, steps=15, steps_per_epoch=steps_per_epoch)
    assert schedule(half_steps - 1) == 1.0
    assert max(schedule(half_steps - 2), schedule(half_steps)) < 1.0


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0, "peak": 1.0}, {"steps": 5, "peak": 0.0}, {"steps": 5, "peak": 1.0, "steps_per_epoch": 0}],
    ids=str,
)
def test_runs_without_steps_or_rate_are_refused(wrong):
    with pytest.raises(UsageError, match="at least one step"):
        schedule_of("segment", "reference", **wrong)


def test_segmentation_schedule_equals_golden(golden):
    cases = golden.json("procedures/seg.json")["lr_schedule"]
    assert cases
    for case in cases:
        assert (case["min_lr"], case["warmup_ratio"]) == (0.0, WARMUP_RATIO)
        rates = [
            poly_rate(
                step,
                peak=case["base_lr"],
                steps=case["max_iters"],
                power=case["power"],
                warmup_steps=case["warmup_iters"],
            )
            for step in case["iters"]
        ]
        assert rates == pytest.approx(case["lr"], rel=1e-6)


def test_the_published_schedules():
    published = {name: dict(task.published_schedule) for name, task in TASKS.items()}
    assert published == {
        "segment": {"kind": "poly", "power": 1.0, "warmup_steps": 1500},
        "refer": {"kind": "poly", "power": 0.9},
        "depth": {"kind": "rise_fall", "power": 0.9, "floor": 0.06},  # 3e-5 of 5e-4
    }


def golden_schedule(task, case, *, peak, epochs, iters_per_epoch):
    """The published course of a task with the rates of a golden set."""
    changes = {"floor": case["min_lr"] / case["max_lr"]} if task == "depth" else {"power": case["power"]}
    published = TASKS[task].published_schedule | changes
    steps = iters_per_epoch * epochs
    return recipe_schedule("reference", published, peak=peak, steps=steps, steps_per_epoch=iters_per_epoch)


def test_published_referring_schedule_equals_golden(golden):
    cases = golden.json("procedures/refer.json")["lr_schedule"]
    assert cases
    for case in cases:
        steps, length = case["iters_per_epoch"] * case["epochs"], {k: case[k] for k in ("iters_per_epoch", "epochs")}
        schedule = golden_schedule("refer", case, peak=case["base_lr"], **length)
        assert [schedule(step) for step in range(steps)] == pytest.approx(case["lr"], rel=1e-6)
        assert schedule(steps) == case["lr_after_last"]


def test_published_depth_schedule_equals_golden(golden):
    cases = golden.json("procedures/depth.json")["lr_schedule"]
    assert cases
    for case in cases:
        steps, length = case["iters_per_epoch"] * case["epochs"], {k: case[k] for k in ("iters_per_epoch", "epochs")}
        schedule = golden_schedule("depth", case, peak=case["max_lr"], **length)
        for scale, name in ((1.0, "lr_scale_1"), (0.01, "lr_scale_001")):
            assert [scale * schedule(step) for step in range(steps)] == pytest.approx(case[name], rel=1e-6)


@pytest.mark.parametrize("task", ["refer", "depth"])
def test_schedule_of_the_three_golden_steps(golden, task):
    procedures = golden.json(f"procedures/{task}.json")
    steps = golden.entry(f"procedures/{task}.json", "three_steps")
    length = re.search(r"(\d+) iterations per epoch and (\d+) epochs", steps["note"])
    iters_per_epoch, epochs = int(length[1]), int(length[2])
    peak, case = group_rates(procedures)["learning_rate"], procedures["lr_schedule"][0]
    schedule = golden_schedule(task, case, peak=peak, epochs=epochs, iters_per_epoch=iters_per_epoch)
    assert [schedule(step) for step in range(3)] == pytest.approx(steps["lr"], rel=1e-6)
