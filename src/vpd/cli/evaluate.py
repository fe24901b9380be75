"""`vpd eval`: the exact metrics of a model on a data set."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vpd.cli.measured_data import measured_options, measured_split
from vpd.cli.options import (
    BatchOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    FastOption,
    FormatOption,
    KeepHeapOption,
    LayoutOption,
    MemoryOption,
    ModelOption,
    TaskArgument,
    load_model,
    show_progress,
    speed_options,
)
from vpd.errors import UsageError

logger = logging.getLogger(__name__)


def evaluate(
    task: TaskArgument,
    model: ModelOption,
    data: Annotated[str, typer.Option(metavar="DIR", help="Folder of the data set.", show_default=False)],
    format: FormatOption = None,  # noqa: A002, the option's name
    split: Annotated[
        str | None,
        typer.Option(metavar="S", help="Part of the data; val (valid, validation, dev), or test where there is none."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Also write JSON.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write a page of charts and pictures, and each sample's scores."),
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each prediction, as the benchmark takes it.")
    ] = None,
    fit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Fit images differently than the model says, such as --fit scales=[0.5,1,1.5] --fit flip=true.",
        ),
    ] = None,
    options: LayoutOption = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use the first N samples only.")] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help=r"For the intervals, count samples as one whose names have the same part in brackets, as in "
            r"'(.*)_\d+'; none = every sample alone. Not given: as the data say, or by recording where names are "
            "those of frames.",
        ),
    ] = None,
    calibrate_presence: Annotated[
        bool,
        typer.Option(
            "--calibrate-presence",
            help="refer: then fit, on these data, how far a mask tells that a text fits nothing; kept in the model.",
        ),
    ] = False,
    batch: BatchOption = 1,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Processes that read samples.")] = 2,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    fast: FastOption = False,
    encoder: EncoderOption = None,
    keep_heap: KeepHeapOption = False,
    memory: MemoryOption = None,
) -> None:
    """Measure a model: segment mIoU, refer oIoU (as published and at the original size), depth errors in metres.

    Every metric comes with its 95 % interval. Several processes: torchrun --nproc-per-node 8 -m vpd eval ...
    """
    import torch

    from vpd.datasets import layouts
    from vpd.evaluation.evaluate import measure
    from vpd.evaluation.fitted_data import check_reading, fit_classes, look_before
    from vpd.evaluation.groups import read_pattern
    from vpd.evaluation.presence import calibrate_presence_of, check_own_presence
    from vpd.evaluation.protocols import change_fit
    from vpd.evaluation.report import screen_lines
    from vpd.evaluation.report_folder import KEYS, REPORT_FILES, write_report
    from vpd.evaluation.submission import Submission
    from vpd.files.atomic import check_writable, left_as_found, writable_folder, write_json
    from vpd.files.own_files import check_own_folder, check_own_json, has_keys
    from vpd.loading import find_model
    from vpd.model_folder import check_results_folder
    from vpd.optimising import optimise
    from vpd.overrides import parse_overrides
    from vpd.processes import Heartbeat, find_processes, leave_processes
    from vpd.version import __version__

    speed, load_dtype = speed_options(fast=fast, dtype=dtype, encoder=encoder, keep_heap=keep_heap, memory=memory)
    changes = parse_overrides(fit or [], option="--fit", expected="KEY=VALUE, as in --fit flip=true")
    if group_by is not None:
        read_pattern(group_by)
    folders = [folder for folder in (report, predictions) if folder is not None]
    for folder in folders:
        _check_outside(folder, data)
    for folder in folders:
        check_results_folder(folder)
    if out is not None:
        check_writable(out.parent)
        check_own_json(out, KEYS, "`vpd eval`")
    if report is not None:
        check_own_folder(report, REPORT_FILES, "`vpd eval`", is_own=partial(has_keys, keys=KEYS), option="--report")
    layout = format or layouts.detect_format(data, task)
    wanted = measured_split(data, layout, split)
    if split is None:
        logger.info("Measuring on %s.", layouts.told_split(wanted))
    accelerator = find_processes() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
    is_first = accelerator is None or accelerator.is_main_process
    if accelerator is not None and device == "auto":
        device = str(accelerator.device)
    loaded = load_model(model, task, verb="eval", device=device, dtype=load_dtype)
    if calibrate_presence:
        if changes or speed is not None:
            raise UsageError("--calibrate-presence fits the model as it is: leave out --fit, --fast and --encoder.")
        check_own_presence(loaded, model)
    change_fit(loaded, changes)
    loaded = loaded if speed is None else optimise(loaded, **speed)
    given, known = measured_options(loaded, layout, options)
    reading = layouts.reader_options(layout, loaded.config.recipe, given)
    samples = layouts.open_data(data, task, format=layout, split=wanted, **reading)
    with left_as_found(predictions), Heartbeat(enabled=is_first) as heartbeat:
        check_reading(loaded, samples, layout, options=known, given=given)
        samples = fit_classes(loaded, samples)
        look_before(loaded, samples, wanted, limit=limit)
        submission = Submission(predictions, samples) if predictions else None
        evaluation = measure(
            loaded,
            samples,
            batch_size=batch,
            limit=limit,
            workers=workers,
            memory=memory,
            accelerator=accelerator,
            watch=lambda batches: show_progress(batches, heartbeat, is_shown=is_first),
            keep=submission.keep if submission else None,
            group_by=group_by,
            diagnose=report is not None,
        )
    if is_first:
        result = {"model": model, "data": data, "format": layout, "split": wanted, **evaluation.report()}
        result["settings"] = {
            "changes of the fit": changes,
            "options of the layout": reading,
            "limit": limit,
            "groups by": group_by or result["grouped_by"],
            "batch": batch,
            "memory": memory,
            "device": str(loaded.device),
            "fast": speed is not None,
            "encoder": encoder,
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "processes": accelerator.num_processes if accelerator else 1,
            "vpd": __version__,
            "torch": torch.__version__,
        }
        print("\n".join(screen_lines(result)))  # before anything is written: a full disk shall not cost the figures
        if out is not None:
            write_json(writable_folder(out.parent) / out.name, result)
        if calibrate_presence:
            calibrate_presence_of(loaded, find_model(model), samples)
            print(f"Presence, kept in {model}: {loaded.config.told()['presence']}.")
        if submission:
            submission.write_index(entry.record for entry in evaluation.table)
        if report is not None:
            write_report(writable_folder(report), result, evaluation, samples)
    leave_processes()


def _check_outside(folder: Path, data: str) -> None:
    """Make sure that nothing is written among the data, whose labels may have the same names."""
    root = Path(data).resolve()
    if root.is_dir() and folder.resolve().is_relative_to(root):
        raise UsageError(f"{folder} lies in the data folder {data}, which is only read. Give another folder.")
