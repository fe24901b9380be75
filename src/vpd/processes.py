"""The processes that work on one run together, as torchrun or SLURM set them up."""

from __future__ import annotations

import atexit
import gc
import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import distributed

from vpd.errors import UsageError


def find_processes() -> Accelerator:
    """Device and other processes of this run, as torchrun or SLURM set them up; autocast is left to `LossOf`.

    A group of processes that is made here is left when Python ends; one that was there before is its maker's.
    """
    is_new = not distributed.is_initialized()
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available())
    if is_new and distributed.is_initialized():
        atexit.register(_leave_at_exit)
    return accelerator


def leave_processes() -> None:
    """Take leave of the other processes, if there are any; all do it together, when all is done."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _leave_at_exit() -> None:
    """Let gloo's threads end while Python still runs.

    One that frees a tensor later kills the process, about once in 200 ends (pytorch/pytorch#190489). NCCL has no such
    threads, and after a failure it would wait here for processes that do not come.
    """
    if distributed.is_initialized() and distributed.get_backend() == "gloo":
        gc.collect()  # an error that was raised keeps its frames, and they what keeps the group
        leave_processes()
        time.sleep(0.1)  # a device mesh keeps its group for good: its threads stay, but free now what they hold


def do_on_first(accelerator: Accelerator, work: Callable[[], object]) -> None:
    """Do something on the first process; the others wait for it, and fail if it fails.

    Raises:
        OSError: In all processes, if the work raises it.
        UsageError: Likewise.
    """
    failure: list[Exception | None] = [None]
    if accelerator.is_main_process:
        try:
            work()
        except (OSError, UsageError) as error:
            failure[0] = error
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]
