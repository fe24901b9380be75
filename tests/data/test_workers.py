"""Samples that other processes read: none is a copy of this one, whatever defines the data set."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType

import pytest

from vpd.data.workers import Readers
from vpd.errors import UsageError
from vpd.processes import worker_context


def whoami(place: int) -> tuple[int, int, int]:
    return place, os.getpid(), os.getppid()


def end_at_three(place: int) -> int:
    if place == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return place


def test_places_come_in_order_with_any_number_of_processes():
    for workers in (0, 1, 2):
        assert [place for place, _, _ in Readers(whoami, range(10), workers=workers)] == list(range(10))
    assert len(Readers(whoami, range(10), workers=0)) == 10
    with pytest.raises(TypeError, match="have no number"):
        len(Readers(whoami, iter(range(10)), workers=0))


def test_a_process_with_threads_is_never_copied():
    """A copy inherits the locks that its threads hold at that moment, and may wait for them without end."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        read = list(Readers(whoami, range(4), workers=2))
    finally:
        done.set()
        thread.join()
    assert len({process for _, process, _ in read}) == 2
    assert os.getpid() not in {number for _, process, parent in read for number in (process, parent)}


def test_readers_and_what_they_come_from_outlive_signals_to_the_whole_group():
    forkserver._forkserver._stop()  # another test may have started one of Python's own kind, which signals end
    with closing(iter(Readers(whoami, range(1000), workers=1))) as items:
        _, reader, server = next(items)
        for number in ("TERM", "INT"):  # of another process: its own one may end it
            subprocess.run(["kill", f"-{number}", str(reader), str(server)], check=True)
        assert [place for place, _, _ in items] == list(range(1, 1000))


def test_other_processes_of_the_server_end_when_they_are_told():
    """Also where somebody uses Python's fork server beside us, which is the default from 3.14 on."""
    assert list(Readers(str, range(2), workers=1)) == ["0", "1"]
    other = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(60,), daemon=True)
    other.start()
    other.terminate()
    other.join(20)
    assert other.exitcode == -signal.SIGTERM


def test_a_copy_of_a_process_with_a_server_reads_by_processes_of_its_own():
    assert list(Readers(str, range(2), workers=1)) == ["0", "1"]
    copy = os.fork()
    if not copy:
        status = 1
        with suppress(BaseException):
            status = int(worker_context().get_start_method() != "spawn")
        os._exit(status)
    assert os.waitpid(copy, 0)[1] == 0


def test_a_reader_that_is_killed_is_told_in_one_message():
    with pytest.raises(UsageError, match=r"A process that reads samples has ended: .*memory ran out.*--resume"):
        list(Readers(end_at_three, range(10), workers=1))


def test_what_cannot_be_handed_over_is_read_here(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert list(Readers(lambda place: (place, os.getpid()), range(3), workers=2)) == [
            (place, os.getpid()) for place in range(3)
        ]
    assert "cannot be handed to other processes (Can't pickle" in caplog.text and "module of their own" in caplog.text


def test_modules_that_others_would_not_find_are_no_reason_to_fail(caplog: pytest.LogCaptureFixture, monkeypatch):
    def read(place: int) -> int:
        return -place

    module = ModuleType("made_by_hand")
    module.read, read.__module__, read.__qualname__ = read, module.__name__, "read"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert list(Readers(read, range(3), workers=1)) == [0, -1, -2]
    assert "they would not find its module made_by_hand on sys.path" in caplog.text


SCRIPT = """
import os, sys
from vpd.data.workers import Readers

class Own:
    def __call__(self, place):
        return place, os.getpid() == {me}

print("begins")
{guard}
    me = os.getpid()
    print("foreign", list(Readers(str, range(3), workers=1)))
    print("own", [place for place, _ in Readers(Own(), range(3), workers=1)])
"""


@pytest.mark.parametrize("guard", ["if True:", 'if __name__ == "__main__":'])
def test_scripts_work_with_and_without_a_guard(guard: str, tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard=guard, me="0"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "foreign ['0', '1', '2']\n" in done.stdout and "own [0, 1, 2]\n" in done.stdout
    is_guarded = "__name__" in guard
    assert ("for want of `if __name__" in done.stderr) is not is_guarded
    assert done.stdout.count("begins") == 1 + is_guarded  # a class of its own is found by running it once more


WAITING = """
import multiprocessing, os, sys, time
from vpd.data.workers import Readers
readers = iter(Readers(str, iter(range(10**9)), workers=2))
next(readers), next(readers)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
time.sleep(120)
"""


def test_readers_and_their_server_end_with_a_process_that_is_killed(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as owner:
        readers = [int(word) for word in owner.stdout.readline().split()]
        assert len(readers) == 2
        server = int(Path(f"/proc/{readers[0]}/stat").read_text().rpartition(")")[2].split()[1])
        owner.kill()
        owner.wait()
    deadline = time.monotonic() + 30
    while left := [number for number in (*readers, server) if Path(f"/proc/{number}").exists()]:
        assert time.monotonic() < deadline, f"{left} outlive it"
        time.sleep(0.05)
