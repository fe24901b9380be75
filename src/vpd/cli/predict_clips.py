"""`vpd predict` for clips: a folder of data and a video for each, with progress and a gentle stop."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from vpd.errors import UsageError

if TYPE_CHECKING:
    from vpd.prediction_jobs.clip_job import ClipJob
    from vpd.prediction_jobs.worker import Predictor


def split_sources(sources: Sequence[str], *, as_clips: bool) -> tuple[list[str], list[str]]:
    """Sources that are pictures, and those that are clips.

    Args:
        sources: The user's words.
        as_clips: Whether the pictures of a folder or pattern are the frames of a clip.

    Raises:
        UsageError: If a single picture shall be a clip.
    """
    from vpd.files.find_images import searched_folder
    from vpd.video.opening import is_clip

    clips = [source for source in sources if is_clip(source) or (as_clips and searched_folder(source) is not None)]
    pictures = [source for source in sources if source not in clips]
    if as_clips and pictures:
        raise UsageError(
            f"--clip takes the pictures of a folder or pattern as frames; {pictures[0]} is none. Quote a pattern, such "
            "as 'frames/*.png', or give the folder."
        )
    return pictures, list(dict.fromkeys(clips))


def check_clips(clips: Sequence[str], out: Path, *, smooth: int | None, is_shared: bool) -> None:
    """Refuse what cannot be done with clips before a model is loaded.

    Raises:
        UsageError: If a file, PyAV or OpenCV is missing, or clips shall be shared out.
    """
    from vpd.files.find_images import searched_folder
    from vpd.inference.smoothing import Smoother
    from vpd.video.containers import check_pyav
    from vpd.video.opening import is_address, is_camera
    from vpd.video.pictures import is_numbered

    for clip in clips:
        is_file = not (is_address(clip) or is_camera(clip) or is_numbered(clip)) and searched_folder(clip) is None
        if is_file and not Path(clip).exists():
            raise UsageError(f"{clip}: no such file")
    check_pyav()
    if smooth is not None:
        Smoother(smooth)
    if is_shared:
        raise UsageError(
            "A clip is predicted by one process: give each job clips of its own, without --shard and --engine ray."
        )
    if out.resolve() in {Path(searched_folder(clip) or clip).resolve() for clip in clips}:
        raise UsageError(f"{out} holds the frames and cannot take the output as well. Give another --out.")


def predict_clips(predictor: Predictor, clips: Sequence[str], options: Mapping[str, Any]) -> bool:
    """Predict clips one after the other.

    Args:
        predictor: The model with its options.
        clips: Sources.
        options: Arguments of `ClipJob`.

    Returns:
        Whether all frames of all clips were predicted.
    """
    from vpd.prediction_jobs.clip_job import ClipJob

    taken: set[str] = set()
    jobs = [ClipJob(clip, predictor, taken=taken, **options) for clip in clips]
    failures = 0
    for job in jobs:
        try:
            failures += _predict_clip(job)
        except UsageError as error:
            if len(jobs) == 1:
                raise
            print(f"vpd: skipped {error}", file=sys.stderr)
            failures += 1
    return not failures


def _predict_clip(job: ClipJob) -> int:
    """Predict a clip; returns how many of its frames were skipped.

    Raises:
        KeyboardInterrupt: If the user stopped it, once what was under way is finished.
    """
    from tqdm import tqdm

    from vpd.processes import Heartbeat

    if job.record.is_complete:
        _say_result(job)
        return int(job.record.told.get("skipped", 0))
    told, began_s = 0, time.monotonic()

    def progress() -> str:
        left = (job.about_frames or 0) - job.num_done - told
        seconds = (time.monotonic() - began_s) / told * left if told and left > 0 else 0
        of = f" of about {job.about_frames}" if job.about_frames else ""
        return f"Predicting {job.name}: {job.num_done + told}{of} frames done" + (
            f", {_span(seconds)} left" if seconds else ""
        )

    with (
        _stopping(job) as signals,
        tqdm(initial=job.num_done, unit="frame", desc=Path(job.name).name[:30], disable=None) as bar,
        Heartbeat(enabled=True, say=partial(bar.write, file=sys.stderr)) as heartbeat,
        heartbeat.doing(progress),
    ):
        for outcome in job.run():
            if not told:
                bar.initial = bar.n = job.num_done  # known for certain once no other run can be at it
            told += 1
            bar.total = job.about_frames if job.about_frames and job.num_done + told <= job.about_frames else None
            bar.update()
            if not bar.disable:
                heartbeat.spoke()
            if error := getattr(outcome, "error", None):
                bar.write(f"vpd: skipped {error}", file=sys.stderr)
    if job.was_stopped and not job.is_unique:
        print(
            f"vpd: stopped after {job.record.num_done} frames of {job.name}; the same command goes on.", file=sys.stderr
        )
        if signals and signals[0] == signal.SIGTERM:
            sys.exit(143)
        raise KeyboardInterrupt
    _say_result(job)
    return int(job.record.told.get("skipped", 0))


def _say_result(job: ClipJob) -> None:
    told, record = job.record.told, job.record
    video = f"{record.video}, " if told.get("video") else ""
    print(f"{job.name}: {told['predicted']} frames predicted, {told['skipped']} skipped: {video}{record.folder}")
    if told.get("note"):
        print(f"vpd: note: {told['note']}", file=sys.stderr)


@contextmanager
def _stopping(job: ClipJob) -> Iterator[list[int]]:
    """While a clip is predicted, the first Ctrl-C or SIGTERM lets it finish what is under way, the second ends it.

    Where all that is left is to put together what is done, it takes a third.

    Yields:
        The signals that came.
    """
    came: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > (2 if job.is_finishing else 1):
            raise KeyboardInterrupt
        job.stop()
        print("vpd: finishing the frames under way; once more stops at once.", file=sys.stderr)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _span(seconds: float) -> str:
    """A stretch of time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
