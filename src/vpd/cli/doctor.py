"""`vpd doctor`: what of an installation is there, what is known to go wrong, and the way out."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from vpd.errors import first_line
from vpd.version import __version__

Verdict = Literal["ok", "warn", "bad"]
DISTRIBUTION = "vpd-perception"
_NEEDED_FREE_GB = 10
_NEEDED_MEMORY_GB = 8


@dataclass(frozen=True)
class Finding:
    """One line of a diagnosis."""

    verdict: Verdict
    """`bad` = something will not work; `warn` = something works less well."""
    subject: str
    """What was looked at."""
    message: str
    """What was found, and what to do where it is not `ok`."""


def doctor() -> None:
    """Check the installation and name causes of trouble.

    Exit status 1 if something will not work.
    """
    verdicts = []
    for finding in diagnose():
        print(f"{finding.verdict:<5} {finding.subject}: {finding.message}", flush=True)
        verdicts.append(finding.verdict)
    bad, warned = verdicts.count("bad"), verdicts.count("warn")
    if bad or warned:
        print(f"{bad} bad, {warned} to look at.")
    else:
        print("All is well.")
    if bad:
        raise typer.Exit(1)


def diagnose() -> Iterator[Finding]:
    """Every check, the ones that explain later failures first."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        check_python,
        check_packages,
        check_torchvision,
        check_imports,
        check_device,
        check_processor,
        check_memory,
        check_tokenizer,
        check_hub_cache,
    )
    for check in checks:
        yield from check()


def check_python() -> Iterator[Finding]:
    """Version of Python and of this package."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("ok", "python", f"{found}; vpd {__version__}")


def check_packages() -> Iterator[Finding]:
    """Installed versions of what this package requires, and of its extras."""
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Finding("warn", "packages", f"{DISTRIBUTION} is not installed (run from its sources): versions unknown.")
        return
    found = []
    for requirement in map(Requirement, lines):
        if requirement.marker is not None:  # an extra
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding("bad", requirement.name, f"is not installed. Run: pip install '{requirement}'")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version}")
        else:
            yield Finding("bad", requirement.name, f"{version} does not fit. Run: pip install '{requirement}'")
    yield Finding("ok", "packages", ", ".join(found))
    for extra, module in (("train", "tensorboard"), ("nyu", "h5py"), ("figures", "matplotlib")):
        if importlib.util.find_spec(module) is None:
            hint = f"pip install '{DISTRIBUTION}[{extra}]'"
            yield Finding("ok", f"extra {extra}", f"not installed; where you need {module}: {hint}")


def check_torchvision() -> Iterator[Finding]:
    """A torchvision that does not fit torch makes transformers and diffusers fail to import."""
    from importlib import metadata

    if importlib.util.find_spec("torchvision") is None:
        yield Finding("ok", "torchvision", "not installed, and not needed")
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a broken binary raises whatever it likes
        yield Finding(
            "bad",
            "torchvision",
            f"is installed but does not fit torch ({first_line(error)}), so transformers and diffusers cannot be "
            "imported either. vpd does not need it. Run: pip uninstall torchvision",
        )
    else:
        yield Finding("ok", "torchvision", f"{metadata.version('torchvision')} fits torch; not needed")


def check_imports() -> Iterator[Finding]:
    """The large libraries load."""
    for name in ("torch", "transformers", "diffusers", "accelerate"):
        try:
            importlib.import_module(name)
            if name == "diffusers":  # loads its models lazily
                importlib.import_module("diffusers.models.unets.unet_2d_condition")
        except Exception as error:  # whatever is wrong with it
            yield Finding("bad", name, f"cannot be imported: {first_line(error)}. Install it again.")
            return
    yield Finding("ok", "imports", "torch, transformers, diffusers and accelerate load")


def check_device() -> Iterator[Finding]:
    """Where models will run."""
    try:
        import torch
    except Exception:  # named by check_imports
        return
    if torch.cuda.is_available():
        gigabytes = torch.cuda.get_device_properties(0).total_memory / 2**30
        yield Finding("ok", "device", f"{torch.cuda.get_device_name(0)}, {gigabytes:.0f} GB; CUDA {torch.version.cuda}")
    elif torch.backends.mps.is_available():
        yield Finding("ok", "device", "Apple GPU (mps)")
    elif torch.version.cuda:
        yield Finding(
            "warn",
            "device",
            f"torch was built for CUDA {torch.version.cuda} but sees no GPU: is there one, and does `nvidia-smi` show "
            "a driver that is new enough? Models run on the CPU.",
        )
    else:
        yield Finding("ok", "device", f"CPU, {torch.get_num_threads()} threads; this torch has no GPU support")


def check_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Iterator[Finding]:
    """Whether bfloat16 is fast on this CPU; only Linux tells."""
    if not cpuinfo.exists():
        yield Finding("ok", "processor", f"{platform.processor() or platform.machine()}; features not told")
        return
    flags = set(cpuinfo.read_text(errors="replace").split())
    fast = [
        name
        for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512 BF16"), ("bf16", "NEON BF16"))
        if flag in flags
    ]
    if fast:
        yield Finding("ok", "processor", f"fast bfloat16 ({', '.join(fast)}): predict and eval use it with --fast")
    else:
        yield Finding("ok", "processor", "no fast bfloat16: stay with float32 on the CPU")


def check_memory() -> Iterator[Finding]:
    """Main memory against what a model of Stable Diffusion's size takes."""
    try:
        gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):  # not on every system
        return
    if gigabytes < _NEEDED_MEMORY_GB:
        yield Finding(
            "warn", "memory", f"{gigabytes:.1f} GB: models of Stable Diffusion's size want {_NEEDED_MEMORY_GB} GB."
        )
    else:
        yield Finding("ok", "memory", f"{gigabytes:.0f} GB")


def check_tokenizer() -> Iterator[Finding]:
    """CLIP's tokenizer is whole; transformers hands out an empty one, silently, where files are missing."""
    try:
        from vpd.prompts.tokenizer import VOCABULARY_SIZE, clip_tokenizer

        ids = clip_tokenizer()("a photo of a dog").input_ids
    except Exception as error:  # whatever is wrong with transformers or the shipped file
        yield Finding("bad", "tokenizer", f"CLIP's tokenizer cannot be built: {first_line(error)}. Install vpd again.")
        return
    if ids != [49406, 320, 1125, 539, 320, 1929, 49407]:
        yield Finding(
            "bad",
            "tokenizer",
            f"CLIP's tokenizer gives wrong tokens {ids}: this version of transformers reads it differently. "
            "Run: pip install 'transformers>=5,<6'",
        )
    else:
        yield Finding("ok", "tokenizer", f"CLIP's, {VOCABULARY_SIZE:,} tokens")


def check_hub_cache() -> Iterator[Finding]:
    """Where downloaded models are kept, whether it can be written, and what is in it."""
    try:
        from huggingface_hub import constants
    except ImportError:  # named by check_packages
        return
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        yield Finding(
            "warn", "hub cache", f"{cache} cannot be written, so nothing can be downloaded. Set HF_HOME to a folder."
        )
        return
    models = sorted(path.name[len("models--") :].replace("--", "/") for path in cache.glob("models--*"))
    held = f"holds {', '.join(models)}" if models else "is empty"
    if constants.HF_HUB_OFFLINE:
        yield Finding(
            "warn", "hub cache", f"{cache} {held}; HF_HUB_OFFLINE is set: only these and folders can be used."
        )
        return
    free_gb = shutil.disk_usage(existing).free / 1e9
    if free_gb < _NEEDED_FREE_GB:
        yield Finding("warn", "hub cache", f"{cache} {held}; {free_gb:.1f} GB free: a model takes 2 to 5 GB.")
    else:
        yield Finding("ok", "hub cache", f"{cache} {held}; {free_gb:.0f} GB free")
