from __future__ import annotations

import os
import signal
import threading

import pytest

from vpd.training import signals as stopping
from vpd.training.signals import StopRequest, stop_request


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_is_noted_and_a_later_one_works_as_usual(number: signal.Signals, monkeypatch, caplog):
    caplog.set_level("INFO")
    now_s = 100.0
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now_s)

    def usual(_number: int, _frame: object) -> None:
        raise InterruptedError

    before = signal.signal(number, usual)
    try:
        with stop_request() as request:
            assert request.signal is None
            os.kill(os.getpid(), number)
            assert request.signal == number
            now_s += 4.0
            os.kill(os.getpid(), number)  # torchrun hands on what the process got already
            assert request.signal == number
            assert "Asked to stop" in caplog.text and "Asked again" not in caplog.text
            now_s += 4.0
            with pytest.raises(InterruptedError):
                os.kill(os.getpid(), number)
            assert "Asked again: ending at once" in caplog.text
        assert signal.getsignal(number) is usual
    finally:
        signal.signal(number, before)


def test_other_threads_note_nothing():
    seen: list[StopRequest] = []

    def work() -> None:
        with stop_request() as request:
            seen.append(request)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [StopRequest(None)]
