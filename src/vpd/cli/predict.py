"""`vpd predict`: images in, data files, pictures and a manifest out."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vpd.cli.options import DeviceOption, DtypeOption, ModelOption, OutOption, TaskArgument, TaskName, model_source
from vpd.errors import UsageError


def predict(
    task: TaskArgument,
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="Image files, folders, glob patterns.", show_default=False)
    ],
    model: ModelOption,
    out: OutOption,
    text: Annotated[
        str | None, typer.Option(metavar="TEXT", help="refer: what to look for, such as 'the zebra on the left'.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="segment: other class names; needs a model with text encoder."),
    ] = None,
    scene: Annotated[
        str | None, typer.Option(metavar="SCENE", help="depth: kind of room; the mean of all where not given.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, metavar="N", help="Short side to run at, pixels; the model's own if not given.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Images that run together.")] = 1,
) -> None:
    """Predict images into data files, pictures and a manifest, predictions.jsonl.

    Data files: segment = PNG of labels, refer = PNG of 0 and 255, depth = 16-bit PNG (its scale stands in
    the file and in the manifest). A run that was stopped goes on where it was.
    """
    _check_options(task, text=text, classes=classes, scene=scene)
    from tqdm import tqdm

    import vpd
    from vpd.prediction_job import PredictionJob

    loaded = vpd.load(model_source(model, task), device=device, dtype=dtype)
    if loaded.config.task != task.value:
        raise UsageError(f"{model} is a {loaded.config.task} model. Use it with: vpd predict {loaded.config.task} ...")
    names = None if classes is None else [name.strip() for name in classes.split(",")]
    job = PredictionJob(
        loaded,
        sources,
        out,
        model_name=model,
        options={"text": text, "classes": names, "scene": scene, "size": size},
        batch_size=batch,
    )
    there = len(job.items) - len(job.pending)
    skipped = 0
    with tqdm(total=len(job.items), initial=there, unit="image", disable=None) as bar:
        for outcome in job.run():
            bar.update()
            if outcome.error:
                skipped += 1
                bar.write(f"vpd: skipped {outcome.error}", file=sys.stderr)
    print(f"{len(job.pending) - skipped} images predicted, {there} were there already, {skipped} skipped: {job.out}")
    if skipped:
        raise typer.Exit(1)


def _check_options(task: TaskName, *, text: str | None, classes: str | None, scene: str | None) -> None:
    """Each task has its own words; a mistake is told before the model is loaded."""
    given = {
        TaskName.refer: ("--text", text),
        TaskName.segment: ("--classes", classes),
        TaskName.depth: ("--scene", scene),
    }
    for owner, (option, value) in given.items():
        if value is not None and owner != task:
            raise UsageError(f"{option} belongs to `vpd predict {owner.value}`; {task.value} has no use for it.")
    if task is TaskName.refer and not (text or "").strip():
        raise UsageError("Referring segmentation needs words: --text 'the zebra on the left'.")
