"""How a step is cut to fit into memory: found by trial, with nothing changed by it."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator
from torch import Tensor
from toy import Toy, toy_config

from vpd.errors import UsageError
from vpd.files.atomic import read_json_lines
from vpd.inference.heap import free_heap
from vpd.tasks.depth import DepthModel
from vpd.tasks.losses import LossSum
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel
from vpd.tensors import Batch
from vpd.training import auto_accumulate
from vpd.training.auto_accumulate import find_accumulation
from vpd.training.run import train
from vpd.training.settings import resolve_config
from vpd.training.step import micro_batch_size
from weights import assert_equal_weights

HERE = SimpleNamespace(num_processes=1, device=torch.device("cpu"), gather=lambda tensor: tensor)


class Small(Toy):
    """Takes so many samples and no more."""

    def __init__(self, fits: int, error: Exception | None = None) -> None:
        super().__init__(dropout=0.5)
        self.norm = torch.nn.BatchNorm2d(3)
        self.fits, self.error = fits, error or torch.OutOfMemoryError("CUDA out of memory.")
        self.tried: list[int] = []

    def loss_sum(self, batch: Batch, *, caches: None = None) -> LossSum:
        self.tried.append(len(batch.images))
        self.norm(batch.images)
        if len(batch.images) > self.fits:
            raise self.error
        return super().loss_sum(batch)


@pytest.fixture
def by_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: nothing is known of the memory before it is taken."""
    monkeypatch.setattr(auto_accumulate, "available_bytes", lambda: None)


@pytest.fixture
def heap_as_at_first() -> None:
    """Give back what this process keeps: where it keeps all that it frees, gaps are taken for memory of a pass."""
    free_heap()


def search(model: Toy, accelerator: Any = HERE, **changes: Any) -> int:
    return find_accumulation(model, toy_config(accumulate="auto", crop_px=16, **changes), accelerator)


@pytest.mark.parametrize(
    ("fits", "batch_size", "wanted", "tried"),
    [(100, 12, 1, [12, 12]), (5, 12, 3, [12, 6, 4, 4]), (1, 4, 4, [4, 2, 1, 1]), (3, 7, 7, [7, 1, 1])],
)
@pytest.mark.usefixtures("by_trial")
def test_largest_that_fits_is_found(fits: int, batch_size: int, wanted: int, tried: list[int]) -> None:
    model = Small(fits)
    assert search(model, batch_size=batch_size) == wanted
    assert model.tried == tried  # what fits is run twice: the second time gradients are there already


@pytest.mark.usefixtures("by_trial")
def test_nothing_is_changed_by_the_trials() -> None:
    model = Small(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    search(model, batch_size=4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        MemoryError(),
    ],
)
@pytest.mark.usefixtures("by_trial")
def test_other_words_for_no_memory(error: Exception) -> None:
    assert search(Small(1, error), batch_size=2) == 2


@pytest.mark.usefixtures("by_trial")
def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        search(Small(1, RuntimeError("a bug")), batch_size=2)


@pytest.mark.usefixtures("by_trial")
def test_not_even_one_sample_is_an_error_with_a_way_out() -> None:
    with pytest.raises(UsageError, match=r"Not even one sample of 16 px fits .* cpu. Take gradient_checkpointing=true"):
        search(Small(0), batch_size=2)


@pytest.mark.usefixtures("by_trial")
def test_process_with_the_least_memory_decides() -> None:
    two = SimpleNamespace(num_processes=2, device=torch.device("cpu"), gather=lambda own: torch.cat([own, own * 0 + 4]))
    assert search(Small(100), two, batch_size=16) == 4
    nothing = SimpleNamespace(**{**vars(two), "gather": lambda own: torch.cat([own, own * 0 + 9])})
    with pytest.raises(UsageError, match="Not even one sample"):
        search(Small(100), nothing, batch_size=16)
    with pytest.raises(UsageError, match=r"batch_size=3 must be a multiple of accumulate=1 times 2 processes"):
        search(Small(100), two, batch_size=3)


class Large(Toy):
    """Takes 400 MB a sample: much more than the pages of files that a busy system takes from a process meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def loss_sum(self, batch: Batch, *, caches: None = None) -> LossSum:
        self.sizes.append(len(batch.images))
        values = torch.ones(len(batch.images), 100 * 2**20)
        total, weight = super().loss_sum(batch)
        return total + 0 * values.sum(), weight


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells what a process takes")
@pytest.mark.usefixtures("heap_as_at_first")
@pytest.mark.parametrize(("left_mb", "wanted"), [(6000, 1), (2400, 2), (1200, 4), (600, 8), (200, None)])
def test_main_memory_is_measured_with_the_smallest_batch(
    left_mb: int, wanted: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_accumulate, "available_bytes", lambda: left_mb * 2**20)
    model = Large()
    if wanted is None:
        with pytest.raises(UsageError, match="Not even one sample of 16 px fits into the memory of cpu"):
            search(model, batch_size=8)
    else:
        assert search(model, batch_size=8) == wanted
    assert model.sizes == [1, 1]


def drop_library_pages() -> None:
    """Take the pages of mapped libraries from this process, as a system that is short of memory does."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text().splitlines():
        if ".so" in line:
            first, end = (int(address, 16) for address in line.split()[0].split("-"))
            libc.madvise(first, end - first, 21)  # MADV_PAGEOUT


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells what a process takes")
@pytest.mark.usefixtures("heap_as_at_first")
def test_pages_of_libraries_that_come_back_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for left_mb, wanted in ((1750, 2), (900, 4)):
        monkeypatch.setattr(auto_accumulate, "available_bytes", lambda left_mb=left_mb: left_mb * 2**20)
        drop_library_pages()
        assert search(Large(), batch_size=8) == wanted


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells what a process takes")
@pytest.mark.usefixtures("heap_as_at_first")
def test_batch_that_is_too_small_for_batch_norm_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pooled(Large):
        def loss_sum(self, batch: Batch, *, caches: None = None) -> LossSum:
            torch.nn.functional.batch_norm(batch.images.mean(dim=(2, 3)), None, None, training=True)
            return super().loss_sum(batch)

    monkeypatch.setattr(auto_accumulate, "available_bytes", lambda: 2400 * 2**20)
    model = Pooled()
    assert search(model, batch_size=8) == 2
    assert model.sizes == [2, 2]
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        search(Pooled(), batch_size=1)


def test_memory_that_is_left_is_what_system_and_group_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in (("_SYSTEM", tmp_path / "meminfo"), ("_GROUP", tmp_path), ("_PROCESS", tmp_path)):
        monkeypatch.setattr(auto_accumulate, name, path)
    assert auto_accumulate.available_bytes() is None and auto_accumulate.restart_peak() is None
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  2000 kB\n")
    assert auto_accumulate.available_bytes() == 2000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert auto_accumulate.available_bytes() == 2000 * 1024
    for most, left in ((1_500_000, 500_000), (900_000, 0), (9_000_000, 2000 * 1024)):
        (tmp_path / "memory.max").write_text(f"{most}\n")
        assert auto_accumulate.available_bytes() == left


@pytest.mark.usefixtures("by_trial")
def test_what_the_optimiser_will_take_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    reserved: list[int] = []
    empty = torch.empty

    def note(size: int, **options: Any) -> Tensor:
        reserved.append(size)
        return empty(size, **options)

    monkeypatch.setattr(auto_accumulate.torch, "empty", note)
    values = sum(parameter.numel() for parameter in Small(9).parameters())
    for changes, each in (
        ({}, 8),
        ({"optimiser": "adamw_8bit"}, 2),
        ({"optimiser": "sgd", "ema_decay": 0.9}, 8),
    ):
        search(Small(9), batch_size=2, **changes)
        assert reserved.pop() == each * values


@pytest.mark.parametrize("task", ["segment", "refer", "depth"])
def test_batches_to_try_with_fit_each_task(task: str, diffusion: Path, small_heads: dict[str, dict[str, Any]]) -> None:
    options = small_heads[task]
    model: Any = {
        "segment": lambda: SegmentationModel.from_diffusion(diffusion, classes=("a", "b"), **options),
        "refer": lambda: ReferringModel.from_diffusion(diffusion, **options),
        "depth": lambda: DepthModel.from_diffusion(diffusion, scenes=("room",), **options),
    }[task]()
    changes = {"accumulate": "auto", "crop_px": 64, "batch_size": 2, "gradient_checkpointing": True}
    config = resolve_config(task, {"model": "sd", "data": {"root": "data"}}, changes)
    assert find_accumulation(model, config, Accelerator(cpu=True)) == 1
    assert model.backbone.gradient_checkpointing


def test_found_number_is_kept_for_the_whole_run(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings |= {"batch_size": 4, "accumulate": "auto", "pictures": 0, "trackers": []}
    settings["data"]["validation_split"] = None
    monkeypatch.setattr("vpd.training.run.find_accumulation", lambda *_: 2)
    train("segment", tmp_path / "run", settings)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["accumulate"] == 2
    train("segment", tmp_path / "two", settings | {"accumulate": 2})
    assert_equal_weights(tmp_path / "run" / "model", tmp_path / "two" / "model")
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    monkeypatch.setattr("vpd.training.run.find_accumulation", lambda *_: pytest.fail("looked for again"))
    train("segment", tmp_path / "run", settings, resume=True)  # the same words as at first
    assert_equal_weights(tmp_path / "run" / "model", tmp_path / "two" / "model")
    assert len(read_json_lines(tmp_path / "run" / "log.jsonl")) == 4


def test_auto_is_no_number_before_it_is_found() -> None:
    with pytest.raises(UsageError, match=r"accumulate=auto is found when a run starts: call `vpd.training.run.train`"):
        micro_batch_size(toy_config(accumulate="auto"), 1)
