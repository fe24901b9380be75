"""The training loop: steps, validation, checkpoints. One loop for the three tasks, one process or many."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from vpd.data.samples import SampleSet, Transform
from vpd.data.stream import SampleStream
from vpd.errors import UsageError
from vpd.evaluation import SCORE, evaluate, is_better, sample_sheet
from vpd.reference.keys import published_names
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
from vpd.training.optimisers import build_optimiser, parameter_groups, set_learning_rate
from vpd.training.plan import micro_batch_size, schedule_of, step_seed, total_steps
from vpd.training.progress import Interval, Progress
from vpd.training.stopping import StopRequest, stop_request
from vpd.types import Batch

CHECKPOINTS, MODEL = "checkpoints", "model"
"""Folders of a run: its checkpoints, and the finished model."""


class LossOf(nn.Module):
    """The whole forward pass of training as one module, so that DDP wraps the computation of the loss.

    Args:
        model: Whom to train.
        use_bf16: Compute under bfloat16 autocast.
    """

    def __init__(self, model: PerceptionModel, *, use_bf16: bool) -> None:
        super().__init__()
        self.model = model
        self.use_bf16 = use_bf16

    def forward(self, batch: Batch) -> Tensor:
        """Loss of a batch, a scalar."""
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.use_bf16):
            return self.model.loss(batch)


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
        self.accelerator = accelerator or Accelerator(mixed_precision="no")
        self.model, self.config, self.folder = model, config, folder
        self.train_set, self.transform, self.validation_set = train_set, transform, validation_set
        self.start_step = checkpoint.step if checkpoint else 0
        self.steps = total_steps(config, len(train_set))
        self.schedule = schedule_of(config, samples=len(train_set))
        self.batch_size = micro_batch_size(config, self.accelerator.num_processes)
        self.show_bar = show_bar
        model.backbone.gradient_checkpointing = config.gradient_checkpointing
        _own_memory(model.to(self.accelerator.device).train())
        self.optimiser = build_optimiser(optimiser_groups(model, config))
        if checkpoint:
            restore_optimiser(checkpoint, self.optimiser)
        self.loss_of: nn.Module = self.accelerator.prepare(LossOf(model, use_bf16=config.precision == "bf16"))

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
                loss, norm = self._step(step, rate, batches, interval)
                progress.advance(loss, rate)
                self._after_step(step + 1, interval, progress, stop, {"learning_rate": rate, "grad_norm": norm})
        return self._save_model()

    def _step(self, step: int, rate: float, batches: Iterator[Batch], interval: Interval) -> tuple[float, float]:
        """One optimiser step; returns the loss of this process and the norm of the gradient."""
        torch.manual_seed(step_seed(self.config.seed, step, self.accelerator.process_index))
        set_learning_rate(self.optimiser, rate)
        step_loss, names = 0.0, []
        for part in range(self.config.accumulate):
            waited = time.perf_counter()
            batch = next(batches)
            interval.wait_s += time.perf_counter() - waited
            is_last = part == self.config.accumulate - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.loss_of):
                loss = self.loss_of(batch.to(self.accelerator.device)) / self.config.accumulate
                value = float(loss.detach())
                _check_finite("loss", value, step, batch.names)
                self.accelerator.backward(loss)
            step_loss += value
            names += batch.names
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or math.inf))
        _check_finite("norm of the gradient", norm, step, names)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        interval.add(step_loss, len(names))
        return step_loss, norm

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
        if self.validation_set is not None and (is_last or done % config.validate_every == 0):
            scores = self._validate(done, self.validation_set, progress)
        is_stopping = self._mean_over_processes(float(stop.signal or 0)) > 0
        if is_last or is_stopping or done % config.checkpoint_every == 0 or self._is_best(scores):
            self._save(done, scores)
        interval.began_s += time.perf_counter() - paused
        if is_stopping and not is_last:
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
        score, best = SCORE[self.config.task], self._best()
        if score not in scores:
            return False
        return best is None or is_better(self.config.task, scores[score], best.scores[score])

    def _save(self, done: int, scores: dict[str, float]) -> None:
        """Write a checkpoint and remove those that are not kept."""
        root = self.folder / CHECKPOINTS
        if self.accelerator.is_main_process:
            save_checkpoint(root, done, save_model=self.model.save, optimiser=self.optimiser, scores=scores)
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


def optimiser_groups(model: PerceptionModel, config: TrainConfig) -> list[dict[str, Any]]:
    """The model's parameters in the groups of the recipe.

    Raises:
        UsageError: If the published groups are asked for, and the model is not built like the published one.
    """
    names: dict[str, str] = {}
    if config.recipe == "reference":
        own = [name for name, _ in model.named_parameters() if not name.startswith("text_encoder.")]
        try:
            names = published_names(config.task, own)
        except KeyError as error:
            raise UsageError(
                f"recipe=reference sorts parameters as in the published model, and {error.args[0]}. "
                "Use recipe=default for this model."
            ) from error
    return parameter_groups(
        model.named_parameters(),
        task=config.task,
        recipe=config.recipe,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        unet_lr_scale=config.unet_lr_scale,
        published_name=names.__getitem__,
    )


def _own_memory(model: nn.Module) -> None:
    """Move weights out of mapped files: CPU kernels round differently where memory is not aligned."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _check_finite(what: str, value: float, step: int, names: list[str]) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(
            f"The {what} is {value} at step {step + 1}, on the samples {', '.join(names)}. Look at these samples; "
            "else lower learning_rate, set clip_norm, or use precision=no. The last checkpoint is unharmed."
        )
