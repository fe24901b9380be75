"""What `vpd doctor` says of GPUs, on machines that are made up."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vpd.cli.gpu_findings import check_devices

OLD_DRIVER = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver\nby ..."


class Machine:
    """Lets torch report GPUs that are not there."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.patch.setattr(torch.version, "cuda", "13.0")
        self.patch.setattr(torch.backends.mps, "is_available", lambda: False)

    def has(self, *cards: tuple[str, tuple[int, int]], triton: str = "", broken: str = "") -> dict[str, Any]:
        def ones(*_: Any, **__: Any) -> Any:
            if broken:
                raise RuntimeError(broken)
            return SimpleNamespace(add=lambda _: SimpleNamespace(item=lambda: 2.0))

        self.patch.setattr(torch, "ones", ones)
        self.patch.setattr("vpd.backbones.group_norm.why_no_kernel", lambda device: triton)
        for name, value in {
            "is_available": lambda: bool(cards),
            "device_count": lambda: len(cards),
            "get_device_name": lambda number: cards[number][0],
            "get_device_capability": lambda number: cards[number][1],
            "mem_get_info": lambda number: ((number + 3) * 2**30, 24 * 2**30),
        }.items():
            self.patch.setattr(torch.cuda, name, value)
        return self.findings()

    def findings(self) -> dict[str, Any]:
        return {finding.subject: finding for finding in check_devices()}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_a_card_that_can_do_all(machine: Machine) -> None:
    found = machine.has(("RTX 4090", (8, 9)))
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert found["device"].message == "RTX 4090, 24 GB, 3.0 free; compute capability 8.9; CUDA 13.0"
    assert "--fast" in found["bfloat16"].message and "group norm run" in found["Triton"].message
    assert "on for convolutions" in found["TF32"].message or "off for convolutions" in found["TF32"].message


def test_several_cards_of_which_one_is_old(machine: Machine) -> None:
    found = machine.has(("RTX 3060", (8, 6)), ("GTX 1080", (6, 1)))
    assert found["device cuda:1"].message.startswith("GTX 1080, 24 GB, 4.0 free")
    assert "2 GPUs" in found["devices"].message
    assert found["bfloat16"].verdict == "warn"
    assert "GTX 1080: no bfloat16" in found["bfloat16"].message and "RTX 3060" not in found["bfloat16"].message


def test_triton_that_is_missing_or_fails_is_told_with_the_reason(machine: Machine) -> None:
    reason = "Triton cannot be used here: Failed to find C compiler."
    finding = machine.has(("RTX 4090", (8, 9)), triton=reason)["Triton"]
    assert finding.verdict == "warn" and reason in finding.message and "pip install triton" in finding.message


def test_a_card_that_this_torch_has_no_kernels_for(machine: Machine) -> None:
    found = machine.has(("RTX 5090", (12, 0)), broken="CUDA error: no kernel image is available\nmore")
    assert [finding.verdict for finding in found.values()] == ["bad"]  # nothing more is tried
    assert "no kernel image" in found["device"].message and "RTX 5090" in found["device"].message


def test_a_card_that_does_not_even_tell_its_name(machine: Machine) -> None:
    def fail(_: int) -> str:
        raise RuntimeError("CUDA unknown error")

    machine.has(("RTX 5090", (12, 0)), broken="CUDA unknown error")
    machine.patch.setattr(torch.cuda, "get_device_name", fail)
    assert machine.findings()["device"].message.startswith("cuda:0 cannot be used: CUDA unknown error.")


@pytest.mark.parametrize(
    ("error", "said"),
    [(OLD_DRIVER, "too old (found version 11040)"), ("Found no NVIDIA driver on your system.", "Found no NVIDIA")],
)
def test_a_driver_that_is_too_old_or_missing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, error: str, said: str
) -> None:
    def init() -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(torch.cuda, "init", init)
    finding = machine.has()["device"]
    assert finding.verdict == "warn" and said in finding.message and "built for CUDA 13.0" in finding.message
    assert ("Get a newer driver" in finding.message) == (error == OLD_DRIVER)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    assert "CUDA_VISIBLE_DEVICES may hide them" in machine.has()["device"].message


def test_apple(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    found = machine.has()
    assert "the plain way: no Triton kernels, no CUDA graphs" in found["Apple GPU"].message


def test_torch_without_gpus(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "this torch has no GPU support" in machine.has()["device"].message


def test_why_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    from vpd.backbones import group_norm

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert group_norm.why_no_kernel("cpu") == "There are no Triton kernels for cpu"
    monkeypatch.setattr(group_norm, "find_spec", lambda name: None)
    assert group_norm.why_no_kernel("cuda") == "Triton is not installed"
    monkeypatch.setattr(group_norm, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "vpd.backbones.group_norm_launch", None)
    assert group_norm.why_no_kernel("cuda").startswith("Triton cannot be used here: ")
