"""What the runs on pictures share: which pictures, limits, checkpoints, signals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from torch import Tensor

from experiments.crops import photo_batches, world_batches
from experiments.image_training import NO_LIMITS, Limits, Run, train_on_images
from experiments.run_state import refuse_other_runs, saving_steps
from vpd.errors import UsageError
from vpd.files.atomic import writable_folder
from vpd.files.lock import only_run_in
from vpd.pretraining.pictures import HELD_OUT, KEPT_TIMES, Photographs, check_size, find_photographs, middles, to_batch
from vpd.training.signals import stop_request
from vpd.weights.shipped import WORLD
from vpd.world.dataset import split_seed
from vpd.world.render import Rendering, render
from vpd.world.sample_scene import sample_scene

SECONDS_BETWEEN_CHECKPOINTS = 60.0
DEFAULT_MINUTES = 10.0


@dataclass(frozen=True)
class Pictures:
    """Photographs, or scenes of the world, to train and to measure on."""

    name: str
    """Folder, or `world`."""
    size_px: int
    """Side of the crops, pixels."""
    seed: int
    """Of scenes and draws."""
    files: tuple[Path, ...] = ()
    """To train on; none = scenes."""
    kept: tuple[Path, ...] = ()
    """To measure on."""

    @classmethod
    def find(cls, images: str | Path, *, size_px: int, seed: int) -> Pictures:
        """Those of a folder and below it, or `world`.

        Every tenth file, at most `HELD_OUT`, is kept to measure on; a few files serve for both.

        Raises:
            UsageError: If there are none, or the size does not fit.
        """
        check_size(size_px)
        if str(images) == WORLD:
            return cls(WORLD, size_px, seed)
        files, kept = find_photographs(images)
        return cls(str(images), size_px, seed, tuple(files), tuple(kept))

    @property
    def mark(self) -> str:
        """Name and size, and of photographs which files: other ones would be drawn in another order."""
        paths = "\n".join(str(path) for path in (*self.files, *self.kept))
        which = f" ({len(self.files)} files, {crc32(paths.encode()):08x})" if self.files else ""
        return f"{self.name}{which} at {self.size_px} px"

    def batches(self, start: int) -> Iterator[Tensor]:
        """Training batches from number `start` on."""
        size_px = self.size_px
        if self.files:
            return photo_batches(self.files, size_px, seed=self.seed, start=start)
        sizes_px = (size_px // 16 * 8, size_px * 3 // 32 * 8, size_px, size_px)  # about 1/2, 3/4, 1 and 1
        return world_batches(sizes_px, seed=split_seed(self.seed, "train"), start=start)

    def held_out(self) -> list[Tensor]:
        """Pictures `(1, 3, H, W)` in [-1, 1] that were not trained on; none where no file can be read."""
        if not self.files:
            return [to_batch([rendering.image]) for rendering in self.held_out_scenes()]
        return list(middles(Photographs(self.kept, KEPT_TIMES * self.size_px), self.size_px))

    def held_out_scenes(self) -> list[Rendering]:
        """Scenes of the validation split."""
        world_seed = split_seed(self.seed, "val")
        return [render(sample_scene(world_seed, number), self.size_px) for number in range(HELD_OUT)]


def check_limits(steps: int | None, minutes: float | None) -> None:
    """Make sure that limits are such.

    Raises:
        UsageError: If one of them is not more than 0.
    """
    if (steps is not None and steps < 1) or (minutes is not None and minutes <= 0):
        raise UsageError(f"steps={steps}, minutes={minutes}: both must be more than 0.")


def train_in_folder(
    run: Run,
    pictures: Pictures,
    checkpoint: Path,
    *,
    result: Path,
    steps: int | None,
    minutes: float | None,
    resume: bool,
    on_step: Callable[[Run, float], None] | None = None,
) -> int | None:
    """Train to the end or until a signal comes, with a checkpoint every minute and then.

    Args:
        run: What is trained; changed in place.
        pictures: What on.
        checkpoint: The file, in the folder that nothing else may train in meanwhile.
        result: Where the caller will put the weights; what is there already is not written over.
        steps: Steps in all. Where neither they nor minutes are given, a run that is gone on with keeps its limits,
            and a new one gets `DEFAULT_MINUTES`.
        minutes: Time in all, whichever ends first.
        resume: Go on from the checkpoint, if there is one.
        on_step: Called after each step with the run and its loss.

    Returns:
        The signal, after which the checkpoint is there; none = trained to the end.

    Raises:
        UsageError: If there is a checkpoint that is not to be resumed, is of another run or has passed new limits, or
            a result.
    """
    folder = writable_folder(checkpoint.parent)
    refuse_other_runs(checkpoint, result=result, resume=resume)
    limits = Limits(steps, minutes)
    if checkpoint.is_file():
        run.restore(checkpoint)
        if limits not in (NO_LIMITS, run.limits) and run.share_done(limits) >= 1:
            asked = ", ".join(f"{name}={value:g}" for name, value in limits._asdict().items() if value)
            raise UsageError(
                f"The run in {folder} has done {run.step} steps in {run.seconds / 60:.1f} minutes, which is all of "
                f"{asked}. Give more, or no limit to go on as it was begun."
            )
    if limits == NO_LIMITS:
        limits = Limits(minutes=DEFAULT_MINUTES) if run.limits == NO_LIMITS else run.limits
    with only_run_in(folder), stop_request() as stop:
        go_on = saving_steps(checkpoint, stop, every_s=SECONDS_BETWEEN_CHECKPOINTS, on_step=on_step)
        train_on_images(run, pictures.batches(run.step), **limits._asdict(), go_on=go_on)
    run.save(checkpoint)  # also at the end: what is left may still be interrupted
    return stop.signal
