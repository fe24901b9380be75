"""The training loop: steps, validation, checkpoints. One loop for the three tasks, one process or many."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast

from vpd.data.samples import SampleSet, Transform
from vpd.data.stream import SampleStream
from vpd.evaluation import SCORE, evaluate, is_better, sample_sheet
from vpd.tasks.model import PerceptionModel
from vpd.training.checkpoints import (
    Checkpoint,
    atomic_folder,
    clean_checkpoints,
    prune_checkpoints,
    restore_optimiser,
    save_checkpoint,
    scored_checkpoints,
)
from vpd.training.config import TrainConfig
from vpd.training.plan import micro_batch_size, schedule_of, total_steps
from vpd.training.progress import Interval, Progress
from vpd.training.stepping import Stepper, find_processes
from vpd.training.stopping import StopRequest, stop_request

logger = logging.getLogger(__name__)

CHECKPOINTS, MODEL = "checkpoints", "model"
"""Folders of a run: its checkpoints, and the finished model."""


class Training:
    """One run of one model.

    Everything random is a function of seed, step and process, so a run that goes on from a checkpoint does what
    the undisturbed run would have done.

    Args:
        model: Whom to train; with the weights of `checkpoint` where there is one.
        train_set: What to train on.
        transform: Augmentation.
        config: How to train.
        folder: Gets `checkpoints/`, `log.jsonl`, `pictures/`, `tensorboard/` and at the end `model/`.
        validation_set: What to measure on, if anything.
        checkpoint: Where to go on.
        accelerator: Device and other processes; none = make one.
        show_bar: Show a progress bar.

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
    ) -> None:
        self.accelerator = accelerator or find_processes()
        self.model, self.config, self.folder = model, config, folder
        self.train_set, self.transform, self.validation_set = train_set, transform, validation_set
        self.start_step = checkpoint.step if checkpoint else 0
        self.steps = total_steps(config, len(train_set))
        self.schedule = schedule_of(config, samples=len(train_set))
        self.batch_size = micro_batch_size(config, self.accelerator.num_processes)
        self.show_bar = show_bar
        self.stepper = Stepper(model, config, self.accelerator)
        if checkpoint:
            restore_optimiser(checkpoint, self.stepper.optimiser)

    def run(self) -> Path:
        """Train to the end.

        Returns:
            Folder of the trained model.

        Raises:
            FloatingPointError: If a loss or a gradient is NaN or infinite; the last checkpoint stays.
            SystemExit: After saving a checkpoint, if a signal asked to stop; status 143 for SIGTERM.
        """
        if self.accelerator.is_main_process:
            clean_checkpoints(self.folder / CHECKPOINTS, after_step=self.start_step)
        with self._progress() as progress, stop_request() as stop:
            batches, interval = iter(self._stream()), Interval()
            for step in range(self.start_step, self.steps):
                rate = self.schedule(step)
                loss, norm = self.stepper.take(step, rate, batches, interval)
                progress.advance(loss, rate)
                self._after_step(step + 1, interval, progress, stop, {"learning_rate": rate, "grad_norm": norm})
        best, score = self._best(), SCORE[self.config.task]
        if best:
            logger.info("Best: %s %.4f after step %d, %s.", score, best.scores[score], best.step, best.folder)
        return self._save_model()

    def _after_step(
        self, done: int, interval: Interval, progress: Progress, stop: StopRequest, state: dict[str, float]
    ) -> None:
        """Log, validate, save and stop, whatever is due after so many steps."""
        config, is_last = self.config, done == self.steps
        if is_last or done % config.log_every == 0:
            loss = self._mean_over_processes(interval.mean_loss)
            processes = self.accelerator.num_processes
            progress.record(done, "train", {"loss": loss, **state, **interval.pace(processes)})
            interval.restart()
        paused, scores = time.perf_counter(), dict[str, float]()
        is_stopping = self._mean_over_processes(float(stop.signal or 0)) > 0
        if self.validation_set is not None and not is_stopping and (is_last or done % config.validate_every == 0):
            scores = self._validate(done, self.validation_set, progress)
        if is_last or is_stopping or done % config.checkpoint_every == 0 or self._is_best(scores):
            self._save(done, scores)
        interval.began_s += time.perf_counter() - paused
        if is_stopping and not is_last:
            logger.info("Stopped after step %d, which is saved; --resume goes on from there.", done)
            raise SystemExit(128 + (stop.signal or 0))

    def _validate(self, done: int, samples: SampleSet, progress: Progress) -> dict[str, float]:
        """Metrics on the validation set, recorded, and pictures of a few samples."""
        if self.accelerator.num_processes > 1:  # running statistics differ between processes
            for buffer in self.model.buffers():
                broadcast(buffer)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            report = evaluate(
                self.model,
                samples,
                batch_size=self.batch_size,
                limit=self.config.validate_limit,
                workers=self.config.workers,
                accelerator=self.accelerator,
            )
            metrics: dict[str, float] = report["metrics"]
            progress.record(done, "validation", metrics)
            if self.config.pictures and self.accelerator.is_main_process:
                score = SCORE[self.config.task]
                caption = f"step {done}: {score} {metrics[score]:.4f}"
                progress.show(done, sample_sheet(self.model, samples, count=self.config.pictures, caption=caption))
        return {name: value for name, value in metrics.items() if math.isfinite(value)}

    def _best(self) -> Checkpoint | None:
        """The best of the checkpoints that were measured."""
        best, score = None, SCORE[self.config.task]
        for checkpoint in scored_checkpoints(self.folder / CHECKPOINTS, score):
            if best is None or is_better(self.config.task, checkpoint.scores[score], best.scores[score]):
                best = checkpoint
        return best

    def _is_best(self, scores: dict[str, float]) -> bool:
        score = SCORE[self.config.task]
        if score not in scores:
            return False
        best = self._best()
        return best is None or is_better(self.config.task, scores[score], best.scores[score])

    def _save(self, done: int, scores: dict[str, float]) -> None:
        """Write a checkpoint and remove those that are not kept."""
        root = self.folder / CHECKPOINTS
        if self.accelerator.is_main_process:
            save_checkpoint(root, done, save_model=self.model.save, optimiser=self.stepper.optimiser, scores=scores)
            prune_checkpoints(root, keep=self.config.keep, best=self._best())
        self.accelerator.wait_for_everyone()

    def _save_model(self) -> Path:
        """Write the finished model, whole or not at all."""
        folder = self.folder / MODEL
        if self.accelerator.is_main_process and not folder.exists():
            with atomic_folder(folder) as partial_folder:
                self.model.save(partial_folder)
        self.accelerator.wait_for_everyone()
        return folder

    def _stream(self) -> SampleStream:
        return SampleStream(
            self.train_set,
            self.transform,
            seed=self.config.seed,
            batch_size=self.batch_size,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            start_step=self.start_step * self.config.accumulate,
            workers=self.config.workers,
        )

    def _progress(self) -> Progress:
        return Progress(
            self.folder,
            steps=self.steps,
            start_step=self.start_step,
            enabled=self.accelerator.is_main_process,
            show_bar=self.show_bar,
        )

    def _mean_over_processes(self, value: float) -> float:
        if self.accelerator.num_processes == 1:
            return value
        on_device = torch.tensor(value, device=self.accelerator.device)
        return float(self.accelerator.reduce(on_device, reduction="mean"))
