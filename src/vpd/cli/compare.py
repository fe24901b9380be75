"""`vpd compare`: several runs or models on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vpd.cli.measured_data import measured_options, measured_split
from vpd.cli.options import BatchOption, DeviceOption, FormatOption, LayoutOption, show_progress


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN RUN...", help="Training runs, model folders, hub ids.", show_default=False),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="DIR", help="Data to measure on; what the first run was validated on.")
    ] = None,
    format: FormatOption = None,  # noqa: A002, the option's name
    split: Annotated[str | None, typer.Option(metavar="S", help="Part of --data, as for `vpd eval`.")] = None,
    options: LayoutOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="Also write compare.html.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use the first N samples only.")] = None,
    batch: BatchOption = 1,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Processes that read samples.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Settings that differ between runs, and metrics with intervals of the paired difference, all on the same samples.

    Every model is measured again. The page shows classes and the samples in which the models are furthest apart.
    """
    from vpd.comparing.compare import compare as run
    from vpd.comparing.page import check_own_page, screen_lines, write_page
    from vpd.files.atomic import writable_folder
    from vpd.model_folder import check_results_folder
    from vpd.processes import Heartbeat

    if out is not None:
        check_results_folder(out)
        check_own_page(out)
    opened = None if data is None else _opener(data, format, split, options)
    with Heartbeat(enabled=True) as heartbeat:
        comparison, samples = run(
            runs,
            open_data=opened,
            limit=limit,
            batch_size=batch,
            workers=workers,
            device=device,
            watch=lambda batches: show_progress(batches, heartbeat, is_shown=True),
        )
    print("\n".join(screen_lines(comparison)))  # before anything is written: a full disk shall not cost the figures
    if out is not None:
        print(f"Page: {write_page(writable_folder(out), comparison, samples, device=device)}")


def _opener(data: str, given_format: str | None, split: str | None, options: list[str] | None) -> Any:
    """Opens data for a model, as `vpd eval` does."""
    from vpd.datasets import layouts

    def opened(model: Any) -> Any:
        layout = given_format or layouts.detect_format(data, model.task)
        wanted = measured_split(data, layout, split)
        given, _ = measured_options(model, layout, options)
        reading = layouts.reader_options(layout, model.config.recipe, given)
        return layouts.open_data(data, model.task, format=layout, split=wanted, **reading)

    return opened
