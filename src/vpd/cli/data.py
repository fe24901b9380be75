"""`vpd data`: look after data sets."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look after data sets.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Look after data sets."""


@app.command()
def check(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Layout: folder, nyu, refcoco, refcoco+, refcocog.", show_default=False),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the data set.", show_default=False)],
) -> None:
    """Read every sample: counts, pairs, sizes, value ranges. Status 1 if anything is wrong, each named."""
    from vpd.data.checking import check_data

    report = check_data(name, folder, progress=_progress)
    print(f"{report.root}: {report.format} layout")
    for split in report.splits:
        print("\n".join(split.lines()))
    for problem in report.problems:
        print(problem, file=sys.stderr)
    if report.problems:
        print(f"{len(report.problems)} problems.", file=sys.stderr)
        raise typer.Exit(1)
    print("All files are right.")


def _progress(indices: Iterable[int], split: str) -> Iterable[int]:
    from tqdm import tqdm

    return tqdm(indices, desc=split, unit="sample", leave=False, disable=None)
