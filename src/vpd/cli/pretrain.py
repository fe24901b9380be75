"""`vpd pretrain`: train small networks from pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpd.cli.options import DeviceOption, OutOption

if TYPE_CHECKING:
    from vpd.pretraining.image_training import ImageRun

app = typer.Typer(help="Train a small network from pictures.", no_args_is_help=True, rich_markup_mode=None)


_STEPS_A_LINE = 50

MinutesOption = Annotated[float | None, typer.Option(metavar="M", help="Minutes; 10 if no steps, or as begun.")]
StepsOption = Annotated[int | None, typer.Option(metavar="N", help="Steps; same seed and steps, same weights.")]
CropOption = Annotated[int, typer.Option(metavar="N", help="Side of the training crops, pixels.")]
SeedOption = Annotated[int, typer.Option(metavar="S", help="Of weights and draws.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on where a run in the same folder was stopped.")]


@app.callback()
def _group() -> None:
    """Train a small network from pictures."""


@app.command()
def encoder(
    images: Annotated[
        str,
        typer.Option(metavar="DIR", help="Folder of images, or `world` for rendered scenes.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Whose VAE to imitate: a diffusion model (folder, hub id, single file, `world`), or a model folder.",
            show_default=False,
        ),
    ],
    out: OutOption,
    minutes: MinutesOption = None,
    steps: StepsOption = None,
    size: CropOption = 128,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    resume: ResumeOption = False,
) -> None:
    """Train a small encoder to make a VAE's latents, for `vpd predict --encoder` and `vpd eval --encoder`.

    It has TAESD's architecture, and nine times fewer operations than Stable Diffusion's encoder. Pictures need no
    labels; take such as will be predicted.
    """
    from vpd.pretraining.encoder import pretrain_encoder

    with _bar() as show:
        report = pretrain_encoder(
            images,
            out,
            model=model,
            steps=steps,
            minutes=minutes,
            size_px=size,
            seed=seed,
            resume=resume,
            device=device,
            on_step=show,
        )
    done = f"{report.steps} steps in {report.minutes:.1f} minutes"
    _exit_if_stopped(report.stopped_by, done)
    error = "" if report.latent_error is None else f" Latents {report.latent_error:.1%} off on pictures not trained on."
    print(f"Trained: {done}.{error} Use it: vpd predict TASK IMAGES --model MODEL --encoder {Path(out)} --out DIR")


@contextmanager
def _told_of_interrupts() -> Iterator[None]:
    """Say what becomes of a run that is stopped while no step is under way that could be finished first."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        print("Stopped. What is saved stays; go on by the same command with --resume.", flush=True)
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


def _exit_if_stopped(signal: int | None, done: str) -> None:
    if signal is not None:
        print(f"Stopped after {done}. Go on by the same command with --resume.")
        raise typer.Exit(128 + signal)
