"""`vpd predict`: images in, data files, pictures and a manifest out."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

import typer

from vpd.cli.options import (
    BatchOption,
    DeviceOption,
    DtypeOption,
    EncoderOption,
    FastOption,
    KeepHeapOption,
    MemoryOption,
    ModelOption,
    OutOption,
    TaskArgument,
    load_model,
    model_source,
    speed_options,
)
from vpd.cli.predict_clips import check_clips, predict_clips, split_sources
from vpd.config import DOUBTFUL, is_doubtful
from vpd.errors import UsageError


def predict(
    task: TaskArgument,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Image files, folders, glob patterns. Clips: videos, GIFs, frames/%06d.png, webcam, rtsp://...",
            show_default=False,
        ),
    ],
    model: ModelOption,
    out: OutOption,
    text: Annotated[
        str | None, typer.Option(metavar="TEXT", help="refer: what to look for, such as 'the zebra on the left'.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="P", help="refer: probability above which a pixel is marked; the model's own, or 0.5."),
    ] = None,
    min_presence: Annotated[
        float | None,
        typer.Option(metavar="P", help="refer: below this presence score the text fits nothing: an empty mask."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="A;B;...",
            help="segment: other classes, ; or , between them, such as 'red things; cubes; floor': any words where "
            "the model has the open head, else a selection of its own.",
        ),
    ] = None,
    scene: Annotated[
        str | None, typer.Option(metavar="SCENE", help="depth: kind of room; the mean of all where not given.")
    ] = None,
    near_m: Annotated[
        float | None,
        typer.Option(
            metavar="M", help="depth: the first colour of all pictures, metres; 0 where --far-m alone is given."
        ),
    ] = None,
    far_m: Annotated[
        float | None,
        typer.Option(
            metavar="M",
            help="depth: the last colour, metres; the model's range with --near-m alone. With neither, each picture "
            "has colours of its own.",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, metavar="N", help="Short side to run at, pixels; the model's own if not given.")
    ] = None,
    stretch: Annotated[
        bool,
        typer.Option(
            "--stretch",
            help="Of grey pictures of more than 8 bits, make the 0.5th and 99.5th percentile black and white.",
        ),
    ] = False,
    clip: Annotated[
        bool, typer.Option("--clip", help="Take the pictures of a folder or pattern as the frames of a clip.")
    ] = False,
    view: Annotated[
        Literal["overlay", "side"], typer.Option(help="Clips: prediction on the picture, or side by side.")
    ] = "overlay",
    smooth: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Clips: average over about N frames, along what moves, such as 4."),
    ] = None,
    fps: Annotated[float | None, typer.Option(metavar="R", help="Clips of pictures: frames a second; 25.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Clips: take the first N frames; all, at most a million.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    fast: FastOption = False,
    encoder: EncoderOption = None,
    keep_heap: KeepHeapOption = False,
    memory: MemoryOption = None,
    batch: BatchOption = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Do the I-th of N shares, from 1/N to N/N; slurm: that of a job array's member."
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="ray: several models at once, here or on a cluster.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="--engine ray: models at once; one for each GPU if not given."),
    ] = None,
) -> None:
    """Predict images into data files, pictures and a manifest, predictions.jsonl; clips into data files and a video.

    Data files: segment = PNG of labels, refer = PNG of 0 and 255, depth = 16-bit PNG (its scale stands in
    the file and in the manifest). A run that was stopped goes on where it was. Jobs with different shards write
    into the same folder; the manifest is complete when all of them are done.
    """
    from vpd.config import listed_names

    names = None if classes is None else listed_names(classes)
    words = {"text": text, "classes": names, "scene": scene, "threshold": threshold, "min_presence": min_presence}
    words |= {"near_m": near_m, "far_m": far_m}
    _check_words(task, words)
    speed, dtype = speed_options(fast=fast, dtype=dtype, encoder=encoder, keep_heap=keep_heap, memory=memory)
    if workers is not None and engine != "ray":
        raise UsageError("--workers belongs to --engine ray; without it, share the work by --shard.")
    pictures, clips = split_sources(sources, as_clips=clip)
    if clips:
        check_clips(clips, out, smooth=smooth, is_shared=shard is not None or engine == "ray")
    elif smooth is not None or fps is not None or frames is not None or view != "overlay":
        raise UsageError("--view, --smooth, --fps and --frames belong to clips, and here is none; see --clip.")

    from tqdm import tqdm

    from vpd.files.find_images import left_out_words
    from vpd.model_folder import refuse_models
    from vpd.prediction_jobs.job import Engine, PredictionJob, parse_share
    from vpd.prediction_jobs.manifest import MANIFEST
    from vpd.prediction_jobs.ray_engine import check_ray, predict_by_ray
    from vpd.prediction_jobs.worker import Predictor
    from vpd.processes import Heartbeat
    from vpd.weights.shipped import ADAPTED

    share = None if shard is None else parse_share(shard, os.environ)
    if engine == "ray":
        check_ray()
    refuse_models(out, or_runs=True)  # before a model is loaded for it
    source = model_source(model, task)
    # with Ray, the workers have the device; here the model only tells what it is and refuses what it cannot do
    place = device if engine == "local" else "cpu"
    loaded = load_model(model, task, verb="predict", device=place, dtype=dtype)
    options = {**words, "size": size, "memory": memory}
    predictor = Predictor(loaded, out, model_name=model, options=options, fast=speed, stretch=stretch)
    if source in ADAPTED:
        print(f"{model} is for rendered scenes; what it makes of photographs means nothing.", file=sys.stderr)
    job = PredictionJob(pictures, out, predictor.origin, batch_size=batch, share=share) if pictures else None
    settings = {"view": view, "smooth": smooth, "fps": fps, "frames": frames, "batch_size": batch}
    are_clips_whole = predict_clips(predictor, clips, settings)
    if job is None:
        raise typer.Exit(0 if are_clips_whole else 1)
    run: Engine = predictor.run
    del loaded  # what runs may be another
    if engine == "ray":
        made: dict[str, Any] = {"model": source, "out": out, "origin": predictor.origin, "options": options}
        run = partial(predict_by_ray, **made, device=device, dtype=dtype, fast=speed, workers=workers, stretch=stretch)
        del predictor
    total, there = job.total, job.total - len(job.pending)
    skipped = predicted = missed = doubtful = 0
    notes: Counter[str] = Counter()
    image_notes = _ImageNotes()
    with (
        tqdm(total=total, initial=there, unit="image", disable=None) as bar,
        Heartbeat(enabled=True, say=partial(bar.write, file=sys.stderr)) as heartbeat,
        heartbeat.doing(lambda: f"Predicting: {there + predicted + skipped} of {_images(total)} done"),
    ):
        try:
            for outcome in job.run(run):
                bar.update()
                if not bar.disable:
                    heartbeat.spoke()
                if outcome.error:
                    skipped += 1
                    bar.write(f"vpd: skipped {outcome.error}", file=sys.stderr)
                elif line := outcome.line:
                    predicted += 1
                    if note := line.get("note"):
                        notes[note] += 1
                    image_notes.add(line)
                    missed += "box" in line and line["box"] is None  # of referring alone
                    presence, is_calibrated = line.get("presence"), line.get("presence_is_calibrated", False)
                    doubtful += is_doubtful(presence, is_calibrated=is_calibrated) and line["box"] is not None
        except KeyboardInterrupt:
            bar.close()
            print(f"vpd: stopped after {there + predicted} of {total}; the same command goes on.", file=sys.stderr)
            raise
    is_complete = job.finish()
    print(f"{_images(predicted)} predicted, {there} were there already, {skipped} skipped: {job.out}")
    if job.left_out or image_notes.later_frames:
        later = Counter({f"frame{'s' * (image_notes.later_frames > 1)} after the first": image_notes.later_frames})
        print(f"Left out: {left_out_words(job.left_out + later)}.")
    for told in image_notes.lines():
        print(f"vpd: note: {told}", file=sys.stderr)
    if missed:
        print(f"In {_images(missed)} of these nothing was found: the text fits nothing there, or the model is unsure.")
    if doubtful:
        told = f"In {_images(doubtful)} of these the text probably fits nothing (presence below {DOUBTFUL:g})"
        print(f"{told}; --min-presence {DOUBTFUL:g} leaves such masks empty.")
    for note, count in notes.most_common():
        print(f"To stay within {memory}, {_images(count)} {'was' if count == 1 else 'were'} run {note}.")
    if share is not None:
        state = "all shards are done" if is_complete else "it is made when all shards are done"
        print(f"Shard {share} of {len(job.items)} images; {job.out / MANIFEST}: {state}.")
    if skipped or not are_clips_whole:
        raise typer.Exit(1)


class _ImageNotes:
    """What is to be said of how images were read, each kind once."""

    def __init__(self) -> None:
        self.later_frames = 0
        self._kinds: dict[str, list[str]] = {}

    def add(self, line: Mapping[str, Any]) -> None:
        """Count a manifest line."""
        self.later_frames += line.get("frames", 1) - 1
        for note in line.get("image_notes", ()):
            kind = re.sub("[0-9]+", "", note)
            self._kinds.setdefault(kind, []).append(f"{line['source']}: {note}")

    def lines(self) -> list[str]:
        """One for each kind, with how many and an example."""
        return [
            notes[0]
            if len(notes) == 1
            else f"{notes[0]}; and {len(notes) - 1} more like it, see `image_notes` in the manifest"
            for notes in self._kinds.values()
        ]


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _check_words(task: str, words: dict[str, Any]) -> None:
    """Each task has its own words; a mistake is told before the model is loaded."""
    from vpd.tasks.table import TASKS, find_task

    own = find_task(task)
    for name, value in words.items():
        if value is not None and name not in own.words:
            owner = next(kind.task for kind in TASKS.values() if name in kind.words)
            raise UsageError(f"--{name.replace('_', '-')} belongs to `vpd predict {owner}`; {task} has no use for it.")
    if "text" in own.words and not (words["text"] or "").strip():
        raise UsageError(f"{own.config_type.title.capitalize()} needs words: --text 'the zebra on the left'.")
