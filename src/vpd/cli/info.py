"""`vpd info`: what a model is."""

from __future__ import annotations

from typing import Annotated

import typer


def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Shipped model, model folder, hub id, diffusion model or checkpoint.",
            show_default=False,
        ),
    ],
) -> None:
    """Tell what a model, diffusion model or checkpoint is."""
    import shutil
    import textwrap

    from vpd.cli.model_facts import describe_source

    facts = describe_source(model)
    indent = max(map(len, facts)) + 2
    width = max(indent + 30, shutil.get_terminal_size((100, 24)).columns)
    for word, sentence in facts.items():
        lines = textwrap.wrap(sentence, width - indent, break_on_hyphens=False) or [""]
        print(f"{word:<{indent}}{lines[0]}", *(" " * indent + line for line in lines[1:]), sep="\n")
