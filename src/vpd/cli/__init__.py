"""The command `vpd`.

Every verb is a function in a module of its own that imports what it needs when it runs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from vpd.cli import app, bench, compare, convert, data, demo, doctor, evaluate, export, info, predict, pretrain, train
from vpd.errors import UsageError, wrong_fields
from vpd.version import __version__

if TYPE_CHECKING:
    from pydantic import ValidationError

VERBS: dict[str, tuple[Callable[..., None], str]] = {
    "predict": (predict.predict, "Predict images or folders; goes on if stopped."),
    "train": (train.train, "Train a model on data; --resume goes on."),
    "eval": (evaluate.evaluate, "Measure a model on a data set."),
    "compare": (compare.compare, "Hold runs against one another, on the same samples."),
    "convert": (convert.convert, "Turn a published checkpoint into a model."),
    "export": (export.export, "Write a model for torch.export, ONNX or OpenVINO."),
    "app": (app.app, "A page and an HTTP service in front of models."),
    "bench": (bench.bench, "How fast a model is here, and which options pay."),
    "info": (info.info, "Tell what a model or checkpoint is."),
    "doctor": (doctor.doctor, "Check the installation."),
    "demo": (demo.demo, "Three tasks on fresh scenes, with pictures; --train."),
}
"""Name of each verb -> its function, and one line for the list of verbs."""
GROUPS = {"data": data.app, "pretrain": pretrain.app}
DEBUG_VARIABLE = "VPD_DEBUG"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    Exit status: 0 all done; 1 some inputs failed, each named; 2 the request is wrong, one message says how;
    130 interrupted; 143 stopped by SIGTERM. Without arguments, those of the process count.
    """
    _let_waiting_threads_sleep_soon()
    quiet_libraries()
    signal.signal(signal.SIGTERM, _stop)
    try:
        build_app()(args=arguments, prog_name="vpd")
    except Exception as error:
        message = None if os.environ.get(DEBUG_VARIABLE) else describe(error)
        if message is None:
            raise
        print(f"vpd: {message}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def quiet_libraries() -> None:
    """Show what `vpd` logs, and of other packages errors only; `VPD_DEBUG` lets them speak."""
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("vpd").setLevel(logging.INFO)
    if os.environ.get(DEBUG_VARIABLE):
        return
    warnings.simplefilter("ignore")
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # where torchao is installed, others import it
    for variable in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _let_waiting_threads_sleep_soon() -> None:
    """GNU's OpenMP would let them wait awake so long that on a busy machine they keep cores from those they wait for.

    It counts if torch was not loaded yet. `OMP_WAIT_POLICY=PASSIVE` lets them sleep at once, which doubles the time of
    small models where nothing else runs.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"vpd {__version__}")
        raise typer.Exit


def describe(error: Exception) -> str | None:
    """What to tell the user about an error that the request or the machine caused; none = a mistake of ours."""
    from pydantic import ValidationError  # takes long to import

    if isinstance(error, ValidationError):
        return _describe_fields(error)
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, OSError):
        return str(error) or type(error).__name__
    # torch's errors, told without importing it
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return "The device has not enough memory. Use a smaller --batch or --size, or --device cpu."
    if isinstance(error, NotImplementedError) and "MPS" in str(error):
        return (
            "torch lacks an operator for Apple GPUs. Set PYTORCH_ENABLE_MPS_FALLBACK=1, which lets the CPU compute it, "
            f"or give --device cpu. It says: {str(error).splitlines()[0]}"
        )
    if isinstance(error, ValueError):
        return f"{error} ({DEBUG_VARIABLE}=1 shows where)"
    return None


def _describe_fields(error: ValidationError) -> str:
    """Every wrong key with its path, what is wrong with it and what it was."""
    lines = []
    for field in wrong_fields(error):
        message = "unknown key" if field.kind == "extra_forbidden" else field.message
        given = repr(field.given)
        shown = "" if field.kind == "missing" else f" (got {given if len(given) <= 60 else given[:57] + '...'})"
        lines.append(f"{field.path or 'value'}: {message}{shown}")
    if len(lines) == 1:
        return f"{error.title}: {lines[0]}"
    return f"{error.title} has {len(lines)} wrong keys:\n  " + "\n  ".join(lines)


def build_app() -> typer.Typer:
    """The command line with all its verbs."""
    app = typer.Typer(
        help="Dense perception from a pre-trained text-to-image diffusion model: segmentation, referring, depth. "
        "Without weights and data: `world` names a small model (--model) and rendered scenes (--data); see demo.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_frame)
    for name, (verb, line) in VERBS.items():
        app.command(name, short_help=line)(verb)
    for name, group in GROUPS.items():
        app.add_typer(group, name=name)
    return app


def _frame(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose, as VPD_DEBUG=1 does.")] = False,
) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(143)
