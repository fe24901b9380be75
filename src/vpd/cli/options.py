"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

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


def fast_options(*, fast: bool, dtype: str, encoder: str | None) -> dict[str, Any] | None:
    """Arguments for `vpd.optimise`; none where the model shall run as it is."""
    return {"dtype": dtype, "encoder": encoder} if fast or encoder is not None else None


def use_heap(*, fast: bool, keep: bool, memory: str | None = None) -> None:
    """Set this process's memory as the options say.

    Raises:
        UsageError: If a budget is no size, or freed memory shall be kept in spite of it.
    """
    if memory is not None:
        from vpd.errors import UsageError
        from vpd.inference.heap import return_heap
        from vpd.inference.memory import parse_memory

        parse_memory(memory)
        if keep:
            raise UsageError("--keep-heap keeps what --memory must bound. Give one of the two.")
        return_heap()
    elif fast or keep:
        from vpd.inference.heap import keep_heap

        keep_heap()


def model_source(model: str, task: str) -> str:
    """The model a user means: `world` is the shipped miniature of the verb's task."""
    from vpd.tasks.table import find_task

    return f"world-{find_task(task).task}" if model == "world" else model
