"""`vpd export`: a model becomes a file that runs without this library."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from vpd.cli.options import OutOption


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, or hub id of one.", show_default=False)],
    to: Annotated[
        Literal["torch", "onnx", "openvino"], typer.Option("--to", help="torch: .pt2 file.", show_default=False)
    ],
    out: OutOption,
    prompts: Annotated[
        Literal["constant", "input"] | None,
        typer.Option(
            help="constant: the model's classes, or the mean of its scenes, in the graph (default, but for refer); "
            "input: the graph takes embeddings.",
        ),
    ] = None,
    text_encoder: Annotated[
        bool, typer.Option("--text-encoder", help="Write the text encoder too, and CLIP's tokenizer.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(metavar="E", help="Largest difference from the model, over its largest output.")
    ] = 1e-4,
) -> None:
    """Write a model for torch.export, ONNX or OpenVINO, and compare it with the model.

    The file is read back and run on sizes, batches and prompts that it was not traced with. Where it differs from the
    model, nothing is left. export.json beside it tells what goes in and what comes out.
    """
    from vpd.exporting.formats import check_target

    check_target(to)
    import vpd

    loaded = vpd.load(model, device="cpu")
    report = vpd.export(loaded, out, target=to, prompts=prompts, text_encoder=text_encoder, tolerance=tolerance)
    for check in report.checks:
        print(
            f"{check.network}, {check.trial}: differs by {check.max_error:.1e}, "
            f"{check.relative_error:.1e} of the largest output"
        )
    print(f"{out}: {loaded.config.task} model for {to}, {report.bytes / 1e6:.1f} MB. What goes in: export.json")
