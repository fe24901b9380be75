"""Pre-train a small VAE, or a small text-to-image model on the rendered world: how the shipped `world` was made.

python experiments/pretrain.py vae --images world --out DIR
python experiments/pretrain.py render --out SCENES
python experiments/pretrain.py diffusion --scenes SCENES --out DIR
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run by its path, `experiments` is found by this
from vpd.cli import describe, quiet_libraries
from vpd.cli.options import DeviceOption, OutOption

if TYPE_CHECKING:
    from experiments.image_training import ImageRun

app = typer.Typer(
    help="Make a small diffusion model to start from.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Objective(StrEnum):
    """What `diffusion` can teach; the words of `experiments.diffusion_training.Objective`."""

    text = "text"
    unconditional = "unconditional"
    masked = "masked"


_STEPS_A_LINE = 50

MinutesOption = Annotated[float | None, typer.Option(metavar="M", help="Minutes; 10 if no steps, or as begun.")]
StepsOption = Annotated[int | None, typer.Option(metavar="N", help="Steps; same seed and steps, same weights.")]
CropOption = Annotated[int, typer.Option(metavar="N", help="Side of the training crops, pixels.")]
SeedOption = Annotated[int, typer.Option(metavar="S", help="Of weights and draws.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on where a run in the same folder was stopped.")]


@app.callback()
def _group() -> None:
    """Make a small diffusion model to start from."""


@app.command()
def vae(
    images: Annotated[
        str,
        typer.Option(metavar="DIR", help="Folder of images, or `world` for rendered scenes.", show_default=False),
    ],
    out: OutOption,
    minutes: MinutesOption = None,
    steps: StepsOption = None,
    size: CropOption = 128,
    stride: Annotated[int, typer.Option(metavar="N", help="Pixels to one latent: 4 or 8.")] = 4,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    resume: ResumeOption = False,
) -> None:
    """Train a small VAE and write a complete miniature diffusion folder around it.

    UNet and text encoder of the folder are random: it is a place for `vpd train --model` to start from.
    """
    from experiments.vae import pretrain_vae

    with _bar() as show:
        report = pretrain_vae(
            images,
            out,
            steps=steps,
            minutes=minutes,
            size_px=size,
            stride_px=stride,
            seed=seed,
            resume=resume,
            device=device,
            on_step=show,
        )
    done = f"{report.steps} steps in {report.minutes:.1f} minutes"
    _exit_if_stopped(report.stopped_by, done)
    quality = "" if report.psnr_db is None else f" PSNR {report.psnr_db:.1f} dB on pictures not trained on"
    hue = "" if report.hue is None else f", hue of {100 * report.hue:.0f} % of objects kept"
    print(f"Trained: {done}.{quality}{hue}. Use it: vpd train TASK --model {Path(out)} --data DIR --out DIR")


@app.command()
def render(
    out: OutOption,
    count: Annotated[int, typer.Option(metavar="N", help="Scenes to train on, a multiple of 250.")] = 40_000,
    val: Annotated[int, typer.Option(metavar="N", help="Others, to measure on; rendered first.")] = 1000,
    size: Annotated[int, typer.Option(metavar="N", help="Side of the pictures, pixels, a multiple of 32.")] = 128,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the scenes.")] = 0,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that render.")] = 2,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="Begin no more scenes after so long; those that are there count.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Render scenes for `diffusion`: latents of pictures and mirror images, tokens of long and short captions.

    The same command goes on where it was stopped. Pictures are encoded on the GPU if there is one, by the shipped VAE.
    """
    from tqdm import tqdm

    from experiments.scenes import prepare_scenes

    splits: tuple[tuple[Literal["train", "val"], int], ...] = (("val", val), ("train", count))
    for split, asked in splits:
        with (
            _told_of_interrupts("the same command"),
            tqdm(total=asked, desc=split, unit=" scenes", disable=None) as bar,
        ):

            def show(shards: int, of: int, bar: Any = bar) -> None:
                bar.update(bar.total * shards // of - bar.n)

            there = prepare_scenes(
                out,
                split=split,
                count=asked,
                size_px=size,
                seed=seed,
                workers=workers,
                seconds=seconds if split == "train" else None,
                device=device,
                on_shard=show,
            )
        print(f"{there:,} of {asked:,} {split} scenes are in {Path(out)}", flush=True)
    print(f"Use them: python experiments/pretrain.py diffusion --scenes {Path(out)} --out DIR")


@app.command()
def diffusion(
    out: OutOption,
    scenes: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder that `render` wrote; runs may share it.", show_default=False)
    ],
    objective: Annotated[
        Objective, typer.Option(help="What the UNet learns; the last two make controls for experiments.")
    ] = Objective.text,
    steps: StepsOption = None,
    seconds: Annotated[
        float | None,
        typer.Option(metavar="S", help="Or time; the speed of the first 80 steps says how many there will be."),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Pictures of a step.")] = 256,
    seed: Annotated[int, typer.Option(metavar="S", help="Of weights and draws.")] = 0,
    device: DeviceOption = "auto",
    resume: ResumeOption = False,
) -> None:
    """Pre-train a small text-to-image model on rendered scenes, from nothing; 1,100 steps if nothing is said.

    UNet and text encoder learn together, with the scenes on the device. The folder is laid out as Stable Diffusion's;
    its `pretraining.jsonl` is the log. For a control of equal length, give it the steps of the run with text.
    """
    from tqdm import tqdm

    from experiments.diffusion import pretrain_diffusion
    from experiments.diffusion_training import DiffusionRun

    with _told_of_interrupts(), tqdm(desc="training", unit="step", disable=None) as done:

        def show(run: DiffusionRun, loss: float) -> None:
            done.total = run.limit
            done.set_postfix(loss=f"{loss:.4f}", refresh=False)
            done.update(run.step - done.n)
            _say(done, run.step, loss, run.step / run.limit if run.limit else 0.0)

        report = pretrain_diffusion(
            out,
            scenes,
            objective=objective.value,
            steps=steps,
            seconds=seconds,
            batch_size=batch,
            seed=seed,
            resume=resume,
            device=device,
            on_step=show,
        )
    words = f"{report.steps} steps in {report.minutes:.1f} minutes"
    _exit_if_stopped(report.stopped_by, words)
    print(f"Trained: {words}.")
    if report.text_gap:
        gaps = ", ".join(f"{100 * gap:+.1f} % at t={timestep}" for timestep, gap in report.text_gap.items())
        print(f"Noise error with the captions of other pictures: {gaps}.")
    print(f"Use it: vpd train TASK --model {Path(out)} --data DIR --out DIR")


@contextmanager
def _told_of_interrupts(how: str = "the same command with --resume") -> Iterator[None]:
    """Say what becomes of a run that is stopped while no step is under way that could be finished first."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        print(f"Stopped. What is saved stays; go on by {how}.", flush=True)
        raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 143) from None


@contextmanager
def _bar() -> Iterator[Callable[[ImageRun, float], None]]:
    """A progress bar of a run on pictures; yields what its steps are told to."""
    from tqdm import tqdm

    form = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
    with _told_of_interrupts(), tqdm(total=100.0, unit="%", bar_format=form, disable=None) as bar:

        def show(run: ImageRun, loss: float) -> None:
            bar.set_postfix(step=run.step, loss=f"{loss:.4f}", refresh=False)
            bar.update(100 * run.share_done() - bar.n)
            _say(bar, run.step, loss, run.share_done())

        yield show


def _say(bar: Any, step: int, loss: float, share_done: float) -> None:
    """Where nobody watches a terminal, a line now and then takes the bar's place."""
    if bar.disable and (step % _STEPS_A_LINE == 0 or share_done >= 1):
        print(f"step {step}, {share_done:.0%} done: loss {loss:.4f}", flush=True)


def _exit_if_stopped(number: int | None, done: str) -> None:
    if number is not None:
        print(f"Stopped after {done}. Go on by the same command with --resume.")
        raise typer.Exit(128 + number)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit, as `vpd` does: 2 where the request is wrong, 130 and 143 where it was stopped."""
    quiet_libraries()
    signal.signal(signal.SIGTERM, _stop)
    try:
        app(args=arguments, prog_name="pretrain.py")
    except Exception as error:
        message = describe(error)
        if message is None:
            raise
        print(f"pretrain.py: {message}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _stop(_signal: int, _frame: object) -> NoReturn:
    sys.exit(143)


if __name__ == "__main__":
    main()
