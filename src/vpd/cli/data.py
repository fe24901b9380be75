"""`vpd data`: look after data sets."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from vpd.cli.options import LayoutOption
from vpd.errors import UsageError

app = typer.Typer(help="Look after data sets.", no_args_is_help=True, rich_markup_mode=None)

_SHOWN = 20

FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the data set.", show_default=False)]


@app.command()
def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]",
            help="Layout, where it is not to be detected: ade20k, nyu, refcoco, folder, depth_folder, ...",
            show_default=False,
        ),
    ],
    folder: Annotated[
        str | None, typer.Argument(metavar="DIR", help="Folder of the data set.", show_default=False)
    ] = None,
    options: LayoutOption = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the report, with every problem, as JSON.")
    ] = None,
) -> None:
    """Read every sample: counts, pairs, sizes, value ranges. Status 1 if anything is wrong, each named."""
    from vpd.datasets.check import check_data
    from vpd.datasets.layouts import LAYOUTS
    from vpd.files.atomic import check_writable, writable_folder, write_json
    from vpd.files.own_files import check_own_json

    if folder is None:
        name, folder = "", name  # the one word is the folder
        if folder in LAYOUTS and not Path(folder).exists():
            raise UsageError(f"{folder} is a layout; which folder shall be checked? vpd data check {folder} DIR")
    given = {}
    if options:
        from vpd.overrides import parse_overrides  # takes seconds to import

        given = parse_overrides(options)
    if json is not None:
        check_writable(json.parent)
        check_own_json(json, ("root", "format", "splits"), "`vpd data check`", option="--json")
    report = check_data(name or None, folder, options=given, progress=_progress)
    if json is not None:
        write_json(writable_folder(json.parent) / json.name, report.as_dict())
    print(f"{report.root}: {report.format} layout")
    for line in report.notes:
        print(f"  {line}")
    for split in report.splits:
        print("\n".join(split.lines()))
    problems = report.problems
    if not problems:
        print("All files are right.")
        return
    sys.stdout.flush()
    for problem in problems[:_SHOWN]:
        print(problem, file=sys.stderr)
    if len(problems) > _SHOWN:
        print(f"... and {len(problems) - _SHOWN:,} more; --json FILE writes them all.", file=sys.stderr)
    print(f"{len(problems):,} problem{'' if len(problems) == 1 else 's'}.", file=sys.stderr)
    raise typer.Exit(1)


@app.command()
def prepare(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Layout: nyu, refcoco, refcoco+, refcocog.", show_default=False),
    ],
    folder: FolderArgument,
) -> None:
    """Turn a download into what is read: NYU's labelled .mat into pictures, REFER's pickles into JSON.

    May be stopped and run again; what is there already stays.
    """
    from vpd.datasets.prepare import prepare_data

    for line in prepare_data(name, folder, progress=lambda indices: _progress(indices, name)):
        print(line)


def _progress(indices: Iterable[int], split: str) -> Iterable[int]:
    from tqdm import tqdm

    return tqdm(indices, desc=split, unit="sample", leave=False, disable=None)
