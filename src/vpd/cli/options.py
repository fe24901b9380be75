"""Arguments and options that several verbs share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class TaskName(StrEnum):
    """The three tasks, as words of the command line."""

    segment = "segment"
    refer = "refer"
    depth = "depth"


TaskArgument = Annotated[
    TaskName,
    typer.Argument(
        metavar="TASK",
        help="segment: classes · refer: the object an expression means · depth: metres",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str,
    typer.Option("--model", "-m", metavar="MODEL", help="Model folder, or hub id of one.", show_default=False),
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write into; made if missing.", show_default=False)
]
DeviceOption = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps, ...")]
DtypeOption = Annotated[str, typer.Option(metavar="DTYPE", help="auto (= float32), float32, bfloat16, float16.")]


def model_source(model: str, task: TaskName) -> str:
    """The model a user means: `world` is the shipped miniature of the verb's task."""
    return f"world-{task.value}" if model == "world" else model
