"""`vpd eval`: the exact metrics of a model on a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from vpd.cli.options import (
    DeviceOption,
    DtypeOption,
    EncoderOption,
    FastOption,
    KeepHeapOption,
    MemoryOption,
    ModelOption,
    TaskArgument,
    fast_options,
    model_source,
    use_heap,
)


def evaluate(
    task: TaskArgument,
    model: ModelOption,
    data: Annotated[str, typer.Option(metavar="DIR", help="Folder of the data set.", show_default=False)],
    format: Annotated[  # noqa: A002, the option's name
        str | None, typer.Option(metavar="F", help="Layout of the data; detected and printed when not given.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="S", help="Part of the data; val, or test where there is no val.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Also write JSON.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write a page, scores of each sample, and pictures.")
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
    options: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Option of the layout, such as -s split_by=google."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use the first N samples only.")] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Images that run together.")] = 1,
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
    from tqdm import tqdm

    import vpd
    from vpd.datasets.layouts import (
        detect_format,
        find_layout,
        held_out_split,
        open_data,
        option_names,
        reader_options,
    )
    from vpd.errors import UsageError
    from vpd.evaluation.evaluate import measure
    from vpd.evaluation.fit_changes import change_fit
    from vpd.evaluation.report import write_report
    from vpd.evaluation.submission import Submission
    from vpd.files.atomic import writable_folder, write_json
    from vpd.loading import check_task
    from vpd.model_folder import results_folder
    from vpd.overrides import parse_overrides
    from vpd.processes import find_processes, leave_processes
    from vpd.version import __version__

    speed = fast_options(fast=fast, dtype=dtype, encoder=encoder)
    use_heap(fast=speed is not None, keep=keep_heap, memory=memory)
    changes = _parse_fit(fit or [])
    for folder in (report, predictions):
        if folder is not None:
            _check_outside(folder, data)
    for folder in (report, predictions):
        if folder is not None:
            results_folder(folder)
    if out is not None:
        writable_folder(out.parent)
    layout = format or detect_format(data, task)
    wanted = split or held_out_split(data, layout)
    if wanted is None:
        raise UsageError(f"{data} has neither val nor test; name a part of it by --split.")
    accelerator = find_processes() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
    is_first = accelerator is None or accelerator.is_main_process
    if accelerator is not None and device == "auto":
        device = str(accelerator.device)
    loaded = vpd.load(model_source(model, task), device=device, dtype=dtype if speed is None else "auto")
    check_task(loaded, task, model, verb="eval")
    change_fit(loaded, changes)
    loaded = loaded if speed is None else vpd.optimise(loaded, **speed)
    given = parse_overrides(options or [])
    if task == "refer" and "per_sentence" in option_names(find_layout(layout)):
        given = {"per_sentence": True, **given}  # of any split, as the benchmarks count
    reading = reader_options(layout, loaded.config.recipe, given)
    samples = open_data(data, task, format=layout, split=wanted, **reading)
    submission = Submission(predictions, samples) if predictions else None
    evaluation = measure(
        loaded,
        samples,
        batch_size=batch,
        limit=limit,
        workers=workers,
        memory=memory,
        accelerator=accelerator,
        watch=lambda batches: tqdm(batches, unit="batch", disable=None if is_first else True),
        keep=submission.keep if submission else None,
    )
    if is_first:
        result = {"model": model, "data": data, "format": layout, "split": wanted, **evaluation.report()}
        result["settings"] = {
            "changes of the fit": changes,
            "options of the layout": reading,
            "limit": limit,
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
        _print_report(result)  # before anything is written: a full disk shall not cost the figures
        if out is not None:
            write_json(out, result)
        if submission:
            submission.write_index(entry.record for entry in evaluation.table)
        if report is not None:
            write_report(report, result, evaluation, samples)
    leave_processes()


def _parse_fit(words: Sequence[str]) -> dict[str, Any]:
    """Fields of the fit from words like `scales=[0.5,1]`."""
    import yaml

    from vpd.errors import UsageError

    changes = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UsageError(f"--fit {word}: expected KEY=VALUE, as in --fit flip=true.")
        try:
            changes[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"--fit {word}: {text!r} is not a YAML value.") from error
    return changes


def _check_outside(folder: Path, data: str) -> None:
    """Make sure that nothing is written among the data, whose labels may have the same names."""
    from vpd.errors import UsageError

    root = Path(data).resolve()
    if root.is_dir() and folder.resolve().is_relative_to(root):
        raise UsageError(f"{folder} lies in the data folder {data}, which is only read. Give another folder.")


def _print_report(report: dict[str, Any]) -> None:
    """Metrics with their intervals, and a line for each class; shares in per cent, errors as they are."""
    from vpd.config import Fit
    from vpd.drawing.text import one_line
    from vpd.evaluation.report import class_rows, count_words, interval_words, metric_lines

    print(f"{report['data']} ({report['format']}, {report['split']}): {count_words(report)}, {report['model']}")
    print(f"Images: {Fit.model_validate(report['fit']).describe()}.")
    for note, count in report.get("notes", {}).items():
        print(f"To stay within the memory, {count} of them were run {note}: no published protocol.")
    classes = [(one_line(name), values) for name, values in class_rows(report)]  # nothing for the terminal to obey
    width = max(len(name) for name in (*report["metrics"], *(name for name, _ in classes))) + 2
    for name, value, interval in metric_lines(report):
        if value:
            print(f"{name:<{width}}{value:>11}   {interval}".rstrip())
        else:
            print(f"\n{name[:1].upper()}{name[1:]}\n{'':<{width}}{'value':>11}   95 % interval")
    print(interval_words(report))
    for place, (name, values) in enumerate(classes):
        if place == 0:
            print(f"\n{'class':<{width}}" + "".join(f"{column:>11}" for column in values))
        print(f"{name:<{width}}" + "".join(f"{value:>11}" for value in values.values()))
