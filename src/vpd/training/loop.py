"""The training loop: steps, validation, checkpoints. One loop for all tasks, one process or many."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, gather

from vpd.data.batches import SampleStream
from vpd.data.sample import SampleSet, Transform
from vpd.errors import UsageError
from vpd.evaluation.evaluate import Interrupted, measure, sample_sheet
from vpd.inference.cache import FrozenCaches
from vpd.inference.outputs import OutputError
from vpd.inference.precision import note_plain_device
from vpd.model_folder import MODEL
from vpd.processes import Heartbeat, do_on_first, find_processes
from vpd.tasks.model import PerceptionModel
from vpd.training.bad_data import BadSamples, BadSteps
from vpd.training.checkpoints import Checkpoint, add_scores
from vpd.training.config import TrainConfig
from vpd.training.curves import draw_curves
from vpd.training.ema import WeightAverage, averaged
from vpd.training.feed import Feed
from vpd.training.machine import for_machine
from vpd.training.outcome import leave_models, measures_of, validations_since
from vpd.training.progress import Costs, Interval, Progress
from vpd.training.run_folder import RunFolder, summary
from vpd.training.schedules import schedule_of, total_steps
from vpd.training.setup import build_caches, data_identity
from vpd.training.signals import StopRequest, stop_request
from vpd.training.step import Step, Stepper, micro_batch_size

logger = logging.getLogger(__name__)


class Training:
    """One run of one model.

    Everything random is a function of seed, step and process, so a run that goes on from a checkpoint does what
    the undisturbed run would have done.

    Args:
        model: Whom to train; with the weights of `checkpoint` where there is one.
        train_set: What to train on.
        transform: Augmentation.
        config: How to train.
        folder: Gets `checkpoints/`, `log.jsonl`, `pictures/`, what trackers and bad data leave, and finally `model/`.
        validation_set: What to measure on, if anything.
        checkpoint: Where to go on.
        accelerator: Device and other processes; none = make one.
        show_bar: Show a progress bar.
        caches: Where training and validation keep what frozen parts made of their inputs; none = as `config` says.
        on_validated: Gets the steps done and the metrics of each validation.
        heartbeat: Says what is going on where it takes long; none = nothing is said.
        costs: What a step and a validation take, where that was measured; for the time left.

    Raises:
        UsageError: If the samples of a step cannot be shared out evenly.
    """

    def __init__(
        self,
        model: PerceptionModel,
        train_set: SampleSet,
        transform: Transform,
        config: TrainConfig,
        folder: Path,
        *,
        validation_set: SampleSet | None = None,
        checkpoint: Checkpoint | None = None,
        accelerator: Accelerator | None = None,
        show_bar: bool = False,
        caches: tuple[FrozenCaches | None, FrozenCaches | None] | None = None,
        on_validated: Callable[[int, dict[str, float]], None] = lambda done, metrics: None,
        heartbeat: Heartbeat | None = None,
        costs: Costs | None = None,
    ) -> None:
        self.accelerator = accelerator or find_processes()
        note_plain_device(self.accelerator.device.type)
        config = for_machine(config, self.accelerator.device)
        self.model, self.config, self.folder = model, config, folder
        self.train_set, self.transform, self.validation_set = train_set, transform, validation_set
        self.checkpoint, self.start_step = checkpoint, checkpoint.step if checkpoint else 0
        self.steps = total_steps(config, len(train_set))
        self.schedule = schedule_of(config, type(model), samples=len(train_set))
        self.batch_size = micro_batch_size(config, self.accelerator.num_processes)
        self.show_bar, self.on_validated = show_bar, on_validated
        self.heartbeat, self.costs = heartbeat or Heartbeat(enabled=False), costs
        training_caches, self.validation_caches = caches or build_caches(config, type(model))
        self.stepper = Stepper(model, config, self.accelerator, training_caches)
        self.average = WeightAverage(model, config.ema_decay) if config.ema_decay else None
        self.run_folder = RunFolder(
            folder, model, self.stepper.optimiser, config, self.average, data_identity(train_set)
        )
        self.bad_steps = BadSteps(folder, self.accelerator, config)
        self.bad_samples = BadSamples(folder, self.accelerator, samples=len(train_set), max_share=config.max_bad_share)
        if checkpoint:
            self.stepper.restore(checkpoint)
            if self.average:
                self.average.restore(checkpoint.folder)

    def run(self) -> Path:
        """Train to the end, or until `patience` validations in a row were no better than the best before them.

        Returns:
            Folder of the trained model: the best of those that were measured, or the last where none was.

        Raises:
            UsageError: If the disk has no room, or too many samples cannot be read.
            FloatingPointError: If a loss or a gradient is NaN or infinite; the last checkpoint stays.
            SystemExit: After saving a checkpoint, if a signal asked to stop; status 143 for SIGTERM.
        """
        has_scores = self.validation_set is not None
        do_on_first(
            self.accelerator, lambda: self.run_folder.prepare(self.start_step, self.steps, has_scores=has_scores)
        )
        # closing ends the processes that read samples, which no signal does, also after an error
        with (
            closing(self.stepper),
            self._progress() as progress,
            stop_request() as stop,
            closing(iter(self._stream())) as batches,
        ):
            self._catch_up(progress, stop)
            interval, needed = Interval(), max(0, self.steps - self.start_step) * self.config.accumulation
            feed = Feed(islice(batches, needed), self.accelerator.device)
            for step in range(self.start_step, self.steps):
                if self._has_stalled(step):
                    break
                rate, began_s = self.schedule(step), time.perf_counter()
                taken = self.stepper.take(step, rate, feed)
                interval.add(taken)
                if self.average and not taken.is_bad:
                    self.average.update(step)
                self._account(step + 1, taken, progress)
                progress.advance(taken.loss, rate, time.perf_counter() - began_s)
                if step + 1 == self.steps or (step + 1) % self.config.log_every == 0:
                    pace = interval.pace(self.accelerator.num_processes) | {"left_s": progress.left_s(step + 1)}
                    state = {"loss": interval.mean_loss, "learning_rate": rate, "grad_norm": taken.norm}
                    progress.record(step + 1, "train", state | pace)
                    interval = Interval()
                paused_s = time.perf_counter()
                self._validate_and_save(step + 1, progress, stop)
                interval.began_s += time.perf_counter() - paused_s
        with self.heartbeat.doing("Writing the model"):
            do_on_first(self.accelerator, self._finish)
        return self.folder / MODEL

    def _finish(self) -> None:
        """Leave the best model and the last one, and tell of what did not count."""
        leave_models(self.folder, self.run_folder.best(), self.model, self.config)
        if told := summary(self.folder):
            logger.warning("In this run: %s.", told)

    def _has_stalled(self, done: int) -> bool:
        """Whether so many validations as `patience` says were no better than the best; told before a step not done."""
        patience, is_first = self.config.patience, self.accelerator.is_main_process
        if not patience or not done or not self._is_validated(done):
            return False
        best = self.run_folder.best() if is_first else None
        best_step: int | None = broadcast_object_list([best and best.step])[0]
        if best_step is None or validations_since(best_step, done, self.config.validate_every) < patience:
            return False
        message = "Stopped early after step %d of %d: none of %d validations was better than that after step %d."
        level = logging.INFO if is_first else logging.DEBUG
        logger.log(level, f"{message} -s patience=null with --resume goes on.", done, self.steps, patience, best_step)
        return True

    def _account(self, done: int, taken: Step, progress: Progress) -> None:
        """Tell of samples that were replaced and of a step that was skipped; too much of either ends the run."""
        if taken.has_unreadable:
            self.bad_samples.add(done, [problem for batch, _ in taken.parts for problem in batch.unreadable])
        if names := self.bad_steps.note(done, taken):
            progress.note(done, "skipped", {"loss": taken.loss, "grad_norm": taken.norm, "samples": names})

    def _catch_up(self, progress: Progress, stop: StopRequest) -> None:
        """Make up for a validation that a signal cut short."""
        checkpoint = self.checkpoint
        if checkpoint and not checkpoint.scores and self._is_validated(checkpoint.step):
            scores = self._validate(checkpoint.step, progress, stop)
            do_on_first(self.accelerator, lambda: add_scores(checkpoint, scores))
            self._leave_on(self._agreed_signal(stop), checkpoint.step)

    def _is_validated(self, done: int) -> bool:
        """Whether the validation set is measured after so many steps."""
        return self.validation_set is not None and (done == self.steps or done % self.config.validate_every == 0)

    def _validate_and_save(self, done: int, progress: Progress, stop: StopRequest) -> None:
        """Whatever is due after so many steps; ends the run if a signal came."""
        scores = dict[str, float]()
        if self._is_validated(done) and not self._agreed_signal(stop):
            try:
                scores = self._validate(done, progress, stop)
            except UsageError:  # a validation sample cannot be read: the steps shall not be lost for that
                self._save(lambda: self.run_folder.save_if(True, done, {}))
                raise
        signal = self._agreed_signal(stop)
        is_due = done == self.steps or signal > 0 or done % self.config.checkpoint_every == 0
        is_due |= self.config.patience is not None and bool(scores)  # it may have been the last
        if is_due or scores:
            began_s = time.perf_counter()
            with self.heartbeat.doing(f"Saving after step {done}"):
                self._save(lambda: self.run_folder.save_if(is_due, done, scores))
            progress.saved(time.perf_counter() - began_s)
            if self.accelerator.is_main_process:
                draw_curves(self.folder, type(self.model))
        self._leave_on(signal, done)

    def _validate(self, done: int, progress: Progress, stop: StopRequest) -> dict[str, float]:
        """Metrics on the validation set, recorded, and pictures of a few samples; none if a signal cuts it short."""
        samples, config = self.validation_set, self.config
        if samples is None:
            return {}
        began_s = time.perf_counter()
        autocast = torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=config.precision == "bf16")
        with self.stepper.whole_model(), autocast, averaged(self.average):
            if self.accelerator.num_processes > 1:  # running statistics differ between processes
                for buffer in self.model.buffers():
                    broadcast(buffer)
            try:
                evaluation = measure(
                    self.model,
                    samples,
                    limit=config.validate_limit,
                    workers=config.readers,
                    accelerator=self.accelerator,
                    should_stop=lambda: stop.signal is not None,
                    caches=self.validation_caches,
                    watch=lambda batches: progress.watch(batches, done),
                )
            except Interrupted:
                return {}
            except OutputError as error:  # in all processes
                if config.on_bad_loss == "stop":
                    raise FloatingPointError(f"The validation after step {done} found no figures. {error}") from error
                logger.warning("No figures after step %d: %s", done, error)
                return {}
            report = evaluation.report()
            metrics: dict[str, float] = report["metrics"]
            progress.validated(time.perf_counter() - began_s)
            progress.note(done, "measured", measures_of(report))  # before the metrics, which stay the last line
            progress.record(done, "validation", metrics)
            self.on_validated(done, metrics)
            if config.pictures and self.accelerator.is_main_process:
                caption = f"step {done}: {self.model.score} {metrics[self.model.score]:.4f}"
                try:
                    progress.show(done, sample_sheet(self.model, samples, count=config.pictures, caption=caption))
                except UsageError as error:  # one cannot be read, and the other processes are going on
                    logger.warning("No pictures after step %d: %s", done, error)
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _stream(self) -> SampleStream:
        return SampleStream(
            self.train_set,
            self.transform,
            seed=self.config.seed,
            batch_size=self.batch_size,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            start_step=self.start_step * self.config.accumulation,
            workers=self.config.readers,
            pin=self.accelerator.device.type == "cuda",
        )

    def _progress(self) -> Progress:
        config, score = self.config, self.validation_set is not None
        return Progress(
            self.folder,
            steps=self.steps,
            validate_every=config.validate_every if score else None,
            checkpoint_every=config.checkpoint_every,
            costs=self.costs,
            heartbeat=self.heartbeat,
            start_step=self.start_step,
            enabled=self.accelerator.is_main_process,
            show_bar=self.show_bar,
            trackers=self.config.trackers,
            settings=self.config.model_dump(mode="json"),
        )

    def _leave_on(self, signal: int, done: int) -> None:
        """End the run if there was a signal."""
        if signal:
            level = logging.INFO if self.accelerator.is_main_process else logging.DEBUG
            logger.log(level, "Stopped after step %d, which is saved; --resume goes on from there.", done)
            raise SystemExit(128 + signal)

    def _agreed_signal(self, stop: StopRequest) -> int:
        """Number of the signal that any of the processes got, or 0."""
        own = stop.signal or 0
        if self.accelerator.num_processes == 1:
            return own
        return int(gather(torch.tensor([own], device=self.accelerator.device)).max())

    def _save(self, work: Callable[[], object]) -> None:
        """Let the first process write model and optimiser."""
        with self.stepper.whole_state():
            do_on_first(self.accelerator, work)
