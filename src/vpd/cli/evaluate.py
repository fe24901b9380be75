"""`vpd eval`: the exact metrics of a model on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vpd.cli.options import DeviceOption, DtypeOption, ModelOption, TaskArgument, model_source


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
    options: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Option of the layout, such as -s split_by=google."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use the first N samples only.")] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Images that run together.")] = 1,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Processes that read samples.")] = 2,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Measure a model: segment mIoU, refer oIoU (as published and at the original size), depth errors in metres."""
    from tqdm import tqdm

    import vpd
    from vpd.data.opening import detect_format, open_data
    from vpd.errors import UsageError
    from vpd.evaluation import evaluate as measure
    from vpd.files import writable_folder, write_json
    from vpd.training.build import check_task, held_out_split, reader_options
    from vpd.training.settings import parse_overrides

    if out is not None:
        writable_folder(out.parent)
    layout = format or detect_format(data, task.value)
    wanted = split or held_out_split(data, layout)
    if wanted is None:
        raise UsageError(f"{data} has neither val nor test; name a part of it by --split.")
    loaded = vpd.load(model_source(model, task), device=device, dtype=dtype)
    check_task(loaded, task.value, model)
    reading = reader_options(layout, loaded.config.recipe, parse_overrides(options or []))
    samples = open_data(data, task.value, format=layout, split=wanted, **reading)
    report = measure(
        loaded,
        samples,
        batch_size=batch,
        limit=limit,
        workers=workers,
        watch=lambda batches: tqdm(batches, unit="batch", disable=None),
    )
    report = {"model": model, "data": data, "format": layout, "split": wanted, **report}
    if out is not None:
        write_json(out, report)
    _print_report(report)


def _print_report(report: dict[str, Any]) -> None:
    """Metrics, and a line for each class; shares in per cent, errors as they are."""
    print(f"{report['data']} ({report['format']}, {report['split']}): {report['samples']} samples, {report['model']}")
    width = max(len(name) for name in (*report["metrics"], *report["per_class"])) + 2
    for name, value in report["metrics"].items():
        print(f"{name:<{width}}{_written(report['task'], name, value)}")
    for place, (name, values) in enumerate(report["per_class"].items()):
        if place == 0:
            print(f"\n{'class':<{width}}" + "".join(f"{column:>9}" for column in values))
        print(f"{name:<{width}}" + "".join(f"{100 * value:>7.2f} %" for value in values.values()))


def _written(task: str, name: str, value: float) -> str:
    if name.startswith(("images", "sentences")):
        return f"{value:>9.0f}"
    return f"{value:>9.4f}" if task == "depth" else f"{100 * value:>7.2f} %"
