"""Predictions for a clip or stream: data for each frame and one video, gone on with after a stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from itertools import islice
from typing import Any

from vpd.errors import first_line
from vpd.files.atomic import atomic_write
from vpd.files.find_images import absolute
from vpd.inference.overlapped import overlapped
from vpd.inference.smoothing import Smoother
from vpd.model_folder import check_results_folder
from vpd.prediction_jobs.clip_files import ClipFiles
from vpd.prediction_jobs.clip_part import Encoder, Taken
from vpd.prediction_jobs.clip_record import ClipRecord, is_free
from vpd.prediction_jobs.frame_files import FrameDone, FrameFiles, Painter, View
from vpd.prediction_jobs.items import Chunk, Outcome
from vpd.prediction_jobs.left_runs import finish_left_runs
from vpd.prediction_jobs.worker import Predictor
from vpd.video.arriving import arriving
from vpd.video.frames import MOST_FRAMES, Clip, Frame
from vpd.video.opening import clip_name, is_address, is_camera, open_clip, shown_name

PART_FRAMES, PART_S = 500, 60.0
"""A part is finished after so many frames, or so many seconds of work: more is not lost where a run is killed."""
_GLIMPSES, _FRAMES_A_GLIMPSE = 6, 50

logger = logging.getLogger(__name__)


class ClipJob:
    """Predicts a clip into a folder of data files, with a line for each frame, and a video.

    Made again after a stop, it goes on where it was, and the data come out as if it had never stopped; a clip whose
    files changed begins anew. A stream or camera begins anew each time, under a name of its own, and whatever ends it,
    what is done is put together: if not by itself, as when it is killed, by the next run of the same stream. Nothing is
    written or removed before it runs, and then by one run at a time.

    Args:
        source: What `open_clip` takes as a word.
        predictor: The model with its options, and the output folder.
        taken: Names of outputs that other clips of the run have.
        view: What the video shows.
        smooth: About how many frames are averaged; none = each stands alone.
        fps: Frames a second of pictures, which do not tell; none = 25.
        frames: How many to take; none = all, at most a million.
        batch_size: Frames that go through the network together.

    Raises:
        UsageError: If the outputs are there and were made otherwise, or are files of somebody else.
    """

    def __init__(
        self,
        source: str,
        predictor: Predictor,
        *,
        taken: set[str] | None = None,
        view: View = "overlay",
        smooth: int | None = None,
        fps: float | None = None,
        frames: int | None = None,
        batch_size: int = 1,
    ) -> None:
        self.source, self.name = source, shown_name(source)
        self._predictor, self._view, self._fps, self._batch_size = predictor, view, fps, batch_size
        self._most = MOST_FRAMES if frames is None else frames
        self._smoother = None if smooth is None else Smoother(smooth)
        self.is_unique = is_address(source) or is_camera(source)
        """Whether its frames cannot be had again."""
        made = {
            **{key: predictor.origin[key] for key in ("task", "fingerprint", "options")},
            "source": self.name if self.is_unique else absolute(source),
            "view": view,
            "smooth": smooth,
            "fps": fps,
            "frames": frames,
            "batch": batch_size,
        }
        self._files = None if self.is_unique else ClipFiles(source, predictor.out, most=self._most)
        self.record = ClipRecord(predictor.out, self._free_place(taken or set()), made, self._files)
        self.about_frames: int | None = None
        """How many frames there are, once that is known, about."""
        self.num_done = self.record.num_done
        """Frames that an earlier run finished."""
        self.is_finishing = False
        """Whether no frame is under way and what is done is being put together: a moment to be waited for."""
        self._is_over = self._is_stopped = False
        self._under_way: dict[str, Frame] = {}

    def stop(self) -> None:
        """Take no further frames; what is under way is finished and kept. May be called by a signal."""
        self._is_stopped = True

    @property
    def was_stopped(self) -> bool:
        """Whether it was stopped before the end of the clip."""
        return self._is_stopped and not self._is_over

    def run(self) -> Iterator[FrameDone | Outcome]:
        """Predict what is missing; yields each frame when it is done, with its picture, or skipped.

        Raises:
            UsageError: If the clip cannot be opened or read at all, or another run is at it.
        """
        out = self._predictor.out
        if self._files is not None:
            self._files.look_again()
            self.record.look()
        if self.record.is_complete:
            return
        check_results_folder(out)
        if self.is_unique:
            finish_left_runs(out, self.name)
        with ExitStack() as stack:
            if self._files is not None:
                self._files.state()  # before they are opened: the next run notices what changes from here on
            clip = stack.enter_context(open_clip(self.source, fps=self._fps, except_folder=out))
            self.about_frames = min(clip.about_frames, self._most) if clip.about_frames else None
            stack.enter_context(self.record.held())
            self.num_done = self.record.num_done
            if self.record.is_complete:  # by another run, meanwhile
                return
            painter, words = self._prepare(clip)
            frames = stack.enter_context(closing(arriving(clip, most=self._most)))
            for _ in islice(frames, self.num_done):  # decoded again, as no other way is sure to count them the same
                pass
            first = self.num_done
            try:
                while not (self._is_over or self._is_stopped):
                    first = yield from self._part(first, frames, clip, painter, words)
            except BaseException:
                if self.is_unique and self.record.num_done:
                    self._keep_what_is_done(clip.note)
                raise
            if self._is_over or self.is_unique:
                self.record.finish(clip.note)

    def _keep_what_is_done(self, note: str) -> None:
        """Put together what is done of what cannot be had again, while an error is on its way out."""
        try:
            self.record.finish(note or "The run broke off.")
        except Exception as error:  # of whatever kind: the first one is what is to be told
            told = "%s: what is done could not be put together (%s). The next run of %s does that."
            logger.warning(told, self.record.folder, first_line(error), self.name)
        else:
            predicted = self.record.told["predicted"]
            logger.warning("%s broke off. %d frames that were done are in %s", self.name, predicted, self.record.folder)

    def _prepare(self, clip: Clip) -> tuple[Painter, dict[str, Any]]:
        """What draws, and the words that give all pictures the same colours: as an earlier run had them, or found."""
        told, model = self.record.told, self._predictor.model
        options = self._predictor.call_options
        if self.num_done and self._smoother is not None and (state := self.record.smoothing()):
            self._smoother.load_state(state, model.device)
        if "words" in told and (self.num_done or "size" in told):  # else the first frames decide the key anew
            size = told.get("size")
            return Painter(self._view, size=tuple(size) if size else None, key=self.record.key()), told["words"]
        glimpses, words = list[Any](), dict[str, Any]()
        if model.looks_ahead(options):
            wanted = max(1, min(_GLIMPSES, (self.about_frames or 0) // _FRAMES_A_GLIMPSE))
            glimpses = [model.predict(image, **options) for image in clip.glimpses(wanted)]
            words = model.shared_words(glimpses)
        self.record.note(words=words)
        return Painter(self._view, glimpses), words

    def _part(
        self, first: int, frames: Iterator[Frame], clip: Clip, painter: Painter, words: Mapping[str, Any]
    ) -> Generator[FrameDone | Outcome, None, int]:
        """Predict a part that begins with this frame; returns with which the next one does."""
        taken, failure, self.is_finishing = Taken(), None, False
        files = FrameFiles(self.record.folder, painter)
        try:
            with ExitStack() as stack:
                encoder = Encoder(stack.enter_context(atomic_write(self.record.part_video(first))), painter, clip)
                stack.callback(encoder.close)
                done = self._predictor.run(
                    self._chunks(frames, taken), files, is_live=clip.is_live, smoother=self._smoother, **words
                )
                encoded = stack.enter_context(closing(overlapped(encoder.add, done, threads=1, most_ahead=2)))
                try:
                    yield from self._noted(encoded, taken, is_live=clip.is_live)
                except BaseException as error:
                    if not self.is_unique:
                        raise
                    failure = error  # what is done cannot be had again: the part is finished first
                self.is_finishing = True
            return self._finish_part(first, taken, painter)
        finally:
            if failure is not None:
                raise failure

    def _noted(
        self, encoded: Iterator[FrameDone | Outcome], taken: Taken, *, is_live: bool
    ) -> Iterator[FrameDone | Outcome]:
        """What is done of a part, once `taken` has a line of it, until the run is stopped."""
        for outcome in encoded:
            frame = self._under_way.pop(outcome.source)
            if isinstance(outcome, FrameDone):
                line = outcome.line
            else:
                line = {"frame": frame.number, "time_s": round(frame.time_s, 6), "skipped": outcome.error}
            taken.lines[outcome.source] = line
            yield outcome
            # with smoothing, what is averaged has gone on with all frames under way; live ones cannot be had again
            is_needed = is_live or self._smoother is not None
            if self._is_stopped and not is_needed and taken.has_whole_chunk_of(outcome.source):
                return

    def _finish_part(self, first: int, taken: Taken, painter: Painter) -> int:
        """Write down what is done; returns with which frame the next part begins."""
        lines = taken.all_lines() if self.is_unique else taken.lines_of_whole_chunks()
        self._is_over = taken.has_met_the_end and len(lines) == taken.count
        if not lines:
            return first
        if painter.key is not None and painter.size is not None and "size" not in self.record.told:
            self.record.keep_key(painter.key)
            self.record.note(size=painter.size)
        self.record.finish_part(first, lines, {} if self._smoother is None else self._smoother.state())
        return int(lines[-1]["frame"]) + 1

    def _chunks(self, frames: Iterator[Frame], taken: Taken) -> Iterator[Chunk]:
        """Frames of one part; `taken` is told of them."""
        began_s = time.monotonic()
        for _ in range(0, PART_FRAMES, self._batch_size):
            if self._is_stopped or time.monotonic() - began_s > PART_S:
                return
            chunk = tuple(islice(frames, self._batch_size))
            self._under_way.update((frame.source, frame) for frame in chunk)
            taken.has_met_the_end = len(chunk) < self._batch_size
            if chunk:
                taken.chunks.append(tuple(frame.source for frame in chunk))
                yield Chunk(chunk, frozenset(taken.chunks[-1]))
            if taken.has_met_the_end:
                return

    def _free_place(self, taken: set[str]) -> str:
        """A name for the outputs that no other clip has; that of a stream is always new."""
        plain, number = clip_name(self.source), 1
        name = plain
        out = self._predictor.out
        while name.casefold() in taken or (self.is_unique and not is_free(out, name)):
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        return name
