"""The C library's memory, in processes of their own, which it is set for."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from vpd.inference.heap import free_heap, keep_heap, return_heap

AFTER_A_TENSOR = """
import torch, vpd.inference.heap
def resident_mib():
    torch.ones(2**26)
    return int(next(line for line in open("/proc/self/status") if "VmRSS" in line).split()[1]) // 1024
found = [resident_mib()]
for change in (vpd.inference.heap.keep_heap, vpd.inference.heap.free_heap):
    assert change()
    found.append(resident_mib())
print(*found)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_memory_of_a_tensor_is_kept() -> None:
    answer = subprocess.run([sys.executable, "-c", AFTER_A_TENSOR], capture_output=True, text=True, check=True)
    plain, kept, again = map(int, answer.stdout.split())
    assert kept > plain + 200 and again < plain + 50  # of a tensor of 256 MiB


AFTER_MANY_TENSORS = """
import torch, vpd.inference.heap
def resident_mib():
    return int(next(line for line in open("/proc/self/status") if "VmRSS" in line).split()[1]) // 1024
assert vpd.inference.heap.return_heap()
torch.ones(2**26)
before = resident_mib()
tensors = [torch.ones(2**21) for _ in range(32)]  # 8 MiB each
end = torch.ones(2**17)  # 512 KiB, from the heap itself, behind them if they were there
del tensors
print(before, resident_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_memory_of_tensors_is_given_back_at_once() -> None:
    answer = subprocess.run([sys.executable, "-c", AFTER_MANY_TENSORS], capture_output=True, text=True, check=True)
    before, after = map(int, answer.stdout.split())
    assert after < before + 20


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr("sys.platform", system)
    assert not keep_heap() and not free_heap() and not return_heap()
