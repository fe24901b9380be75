"""Arguments and options that several verbs share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpd.errors import UsageError

if TYPE_CHECKING:
    from vpd.processes import Heartbeat

TaskArgument = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="segment: classes · refer: the object an expression means · depth: metres",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Model folder, hub id of one, or `world`: the shipped one of the task.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write into; made if missing.", show_default=False)
]
DeviceOption = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps, ...")]
DtypeOption = Annotated[str, typer.Option(metavar="DTYPE", help="auto (= float32), float32, bfloat16, float16.")]
FastOption = Annotated[
    bool,
    typer.Option(
        "--fast",
        help="Run in bfloat16 where the processor has it, constants folded; on a CPU keep freed memory (some 400 MB).",
    ),
]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        metavar="ENCODER",
        help="Encode by a small encoder instead of the VAE's: folder from `vpd pretrain encoder`, or hub id in its "
        "layout. Quicker, with other results; implies --fast.",
    ),
]
KeepHeapOption = Annotated[
    bool, typer.Option("--keep-heap", help="On a CPU, keep freed memory for the next layer: faster, same results.")
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="What predicting may take over the loaded model, such as 4GB. Pictures too big for it are run in windows "
        "blended without seams (refer: at a smaller size), and the manifest says so.",
    ),
]
FormatOption = Annotated[
    str | None, typer.Option(metavar="F", help="Layout of the data; detected and printed when not given.")
]
LayoutOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Option of the layout, such as -s split_by=google."),
]
BatchOption = Annotated[int, typer.Option(min=1, metavar="N", help="Images that run together.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on where a run in the same folder was stopped.")]


def speed_options(
    *, fast: bool, dtype: str, encoder: str | None, keep_heap: bool, memory: str | None
) -> tuple[dict[str, Any] | None, str]:
    """Set this process's memory as the options say.

    Returns:
        Arguments for `vpd.optimise`, none where the model shall run as it is; and the type to load the model in.

    Raises:
        UsageError: If a budget is no size, or freed memory shall be kept in spite of it.
    """
    from vpd.inference import heap
    from vpd.inference.memory import parse_memory

    is_fast = fast or encoder is not None
    if memory is not None:
        parse_memory(memory)
        if keep_heap:
            raise UsageError("--keep-heap keeps what --memory must bound. Give one of the two.")
        heap.return_heap()
    elif is_fast or keep_heap:
        heap.keep_heap()
    # constants are folded before they are rounded
    return ({"dtype": dtype, "encoder": encoder}, "auto") if is_fast else (None, dtype)


def show_progress(
    batches: Iterable[Any], heartbeat: Heartbeat, *, is_shown: bool, what: str | None = None
) -> Iterator[Any]:
    """Hand on batches with a bar on a terminal, and elsewhere a line now and then; `what` says which batches."""
    from tqdm import tqdm

    bar = tqdm(batches, desc=what, unit="batch", disable=None if is_shown else True)
    if not bar.disable:
        heartbeat.say = partial(bar.write, file=sys.stderr)
    words = f"{what}, batches done" if what else "Batches done"
    for batch in heartbeat.watch(bar, words, len(batches)):  # type: ignore[arg-type]  # has a length
        if not bar.disable:
            heartbeat.spoke()
        yield batch


def model_source(model: str, task: str) -> str:
    """The model a user means: `world` is the shipped miniature of the verb's task."""
    from vpd.tasks.table import find_task

    return f"world-{find_task(task).task}" if model == "world" else model


def load_model(model: str, task: str, *, verb: str, device: str, dtype: str) -> Any:
    """The model a user means, on its device.

    Raises:
        UsageError: If it cannot be loaded, or is for another task.
    """
    from vpd.loading import check_task, load
    from vpd.processes import Heartbeat

    with Heartbeat(enabled=os.environ.get("RANK", "0") == "0") as heartbeat, heartbeat.doing(f"Reading {model}"):
        loaded = load(model_source(model, task), device=device, dtype=dtype)
    check_task(loaded, task, model, verb=verb)
    return loaded
