"""The queue in front of the models: bounded, in order, grouped, and finished before the end."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from vpd.errors import UsageError
from vpd.serving.engine import BusyError, Engine


class Work:
    """Remembers its groups; the first waits until it is let go."""

    def __init__(self) -> None:
        self.groups: list[list[Any]] = []
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self, asked: Sequence[Any]) -> list[Any]:
        self.groups.append(list(asked))
        self.began.set()
        assert self.go_on.wait(20)
        return [ValueError("bad") if one == "bad" else one for one in asked]


def held(engine: Engine) -> Work:
    """Work whose first job runs and keeps the engine busy."""
    work = Work()
    engine.submit(work, key="first", asked="first")
    assert work.began.wait(20)
    return work


def test_waiting_jobs_of_one_key_run_together_in_their_order() -> None:
    engine = Engine(places=9, batch=3)
    work = held(engine)
    futures = [engine.submit(work, key=key, asked=f"{key}{n}") for n, key in enumerate("abaaab")]
    work.go_on.set()
    assert [future.result(20) for future in futures] == ["a0", "b1", "a2", "a3", "a4", "b5"]
    assert work.groups == [["first"], ["a0", "a2", "a3"], ["b1", "b5"], ["a4"]]
    engine.close(20)


def test_pixels_bound_a_group_but_for_a_single_picture() -> None:
    engine = Engine(places=9, batch=8, most_px=100)
    work = held(engine)
    futures = [engine.submit(work, key="a", asked=px, px=px) for px in (60, 60, 40, 300)]
    work.go_on.set()
    [future.result(20) for future in futures]
    assert work.groups[1:] == [[60, 40], [60], [300]]
    engine.close(20)


def test_places_are_bounded_and_given_back() -> None:
    engine = Engine(places=2)
    with engine.place(), engine.place():
        with pytest.raises(BusyError, match="2 requests") as refused, engine.place():
            pass
        assert 1 <= refused.value.retry_after_s <= 60
    with engine.place():
        assert engine.inside == 1
    assert engine.inside == 0
    engine.close(20)


def test_an_error_is_of_its_own_job_and_an_accident_of_its_group_alone() -> None:
    def accident(asked: Sequence[Any]) -> list[Any]:
        raise ZeroDivisionError

    engine = Engine(places=9, batch=2)
    work = held(engine)
    good, bad = engine.submit(work, key="a", asked="good"), engine.submit(work, key="a", asked="bad")
    broken = engine.submit(accident, key="b", asked="x")
    after = engine.submit(work, key="a", asked="after")
    work.go_on.set()
    assert good.result(20) == "good" and after.result(20) == "after"
    assert isinstance(bad.exception(20), ValueError) and isinstance(broken.exception(20), ZeroDivisionError)
    engine.close(20)


def test_what_is_cancelled_while_it_waits_never_runs() -> None:
    engine = Engine(places=9)
    work = held(engine)
    gone, stays = engine.submit(work, key="a", asked="gone"), engine.submit(work, key="a", asked="stays")
    assert gone.cancel()
    work.go_on.set()
    assert stays.result(20) == "stays"
    assert work.groups == [["first"], ["stays"]]
    engine.close(20)


def test_what_is_cancelled_is_let_go_of_at_once() -> None:
    class Picture:
        pass

    engine = Engine(places=9)
    work = held(engine)
    pictures = [Picture() for _ in range(50)]
    seen = [weakref.ref(picture) for picture in pictures]
    futures = [engine.submit(work, key="a", asked=picture) for picture in pictures]
    del pictures
    gc.disable()  # nor may it take a search for circles
    try:
        assert engine.waiting == 50 and all(future.cancel() for future in futures)
        assert engine.waiting == 0 and not [one for one in seen if one() is not None]
    finally:
        gc.enable()
        work.go_on.set()
    engine.close(20)


def test_who_holds_a_place_is_not_done() -> None:
    engine = Engine(places=9)
    with engine.place():  # as between two pictures of many
        assert not engine.is_idle
    assert engine.is_idle
    engine.close(20)


def test_what_callers_do_wrong_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(asked: Sequence[Any]) -> list[Any]:
        raise UsageError("twice")

    engine = Engine(places=9)
    assert isinstance(engine.submit(refuse, key="a", asked="x").exception(20), UsageError)
    assert caplog.records == []
    engine.close(20)


def test_stopping_finishes_what_has_a_place_and_takes_nothing_else() -> None:
    engine = Engine(places=9)
    work = held(engine)
    with engine.place():
        engine.stop()
        with pytest.raises(BusyError, match="stopping"), engine.place():
            pass
        work.go_on.set()
        late = engine.submit(work, key="a", asked="late")  # its request had its place before
        assert late.result(20) == "late"
    engine.close(20)
    assert engine.is_idle
