"""`vpd doctor`: what of an installation is there, what is known to go wrong, and the way out."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import typer

from vpd.cli.gpu_findings import Finding, check_devices
from vpd.errors import first_line
from vpd.version import __version__

DISTRIBUTION = "vpd-perception"
_EXTRAS = {"train": "tensorboard", "nyu": "h5py", "figures": "matplotlib"}
_LIBRARIES = ("torch", "transformers", "diffusers", "accelerate")
_FAST_BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "bf16": "NEON BF16"}  # as /proc/cpuinfo has them
_NEEDED_FREE_GB = 10
_NEEDED_MEMORY_GB = 8


def doctor() -> None:
    """Check the installation and name causes of trouble.

    Exit status 1 if something will not work.
    """
    verdicts = []
    for finding in diagnose():
        print(f"{finding.verdict:<5} {finding.subject}: {finding.message}", flush=True)
        verdicts.append(finding.verdict)
    bad, warned = verdicts.count("bad"), verdicts.count("warn")
    print(f"{bad} bad, {warned} to look at." if bad or warned else "All is well.")
    if bad:
        raise typer.Exit(1)


def diagnose() -> Iterator[Finding]:
    """Every check, the ones that explain later failures first."""
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("ok", "python", f"{found}; vpd {__version__}")
    yield from check_packages()
    yield check_torchvision()
    yield check_imports()
    yield from check_device()
    for check in (
        check_processor,
        check_memory,
        check_tokenizer,
        check_hub_cache,
        check_hub_access,
    ):
        if (finding := check()) is not None:
            yield finding


def check_packages() -> Iterator[Finding]:
    """Installed versions of what this package requires, and of its extras."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        yield Finding("warn", "packages", f"{DISTRIBUTION} is not installed (run from its sources): versions unknown.")
        return
    found = []
    for requirement in requirements:
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
    for extra, module in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            hint = f"pip install '{DISTRIBUTION}[{extra}]'"
            yield Finding("ok", f"extra {extra}", f"not installed; where you need {module}: {hint}")


def check_torchvision() -> Finding:
    """A torchvision that does not fit torch makes transformers and diffusers fail to import."""
    if importlib.util.find_spec("torchvision") is None:
        return Finding("ok", "torchvision", "not installed, and not needed")
    reason = _why_not("torchvision")
    if not reason:
        return Finding("ok", "torchvision", f"{metadata.version('torchvision')} fits torch; not needed")
    return Finding(
        "bad",
        "torchvision",
        f"is installed but does not fit torch ({reason}), so transformers and diffusers cannot be imported either. "
        "vpd does not need it. Run: pip uninstall torchvision",
    )


def check_imports() -> Finding:
    """The large libraries load."""
    for name in (*_LIBRARIES, "diffusers.models.unets.unet_2d_condition"):  # diffusers loads its models lazily
        if reason := _why_not(name):
            return Finding("bad", name.partition(".")[0], f"cannot be imported: {reason}. Install it again.")
    return Finding("ok", "imports", f"{', '.join(_LIBRARIES[:-1])} and {_LIBRARIES[-1]} load")


def _why_not(module: str) -> str:
    """Why a module cannot be imported; empty if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken binary raises whatever it likes
        return first_line(error)
    return ""


def check_device() -> Iterator[Finding]:
    """Where models will run, and what they miss there."""
    if not _why_not("torch"):  # else check_imports named it
        yield from check_devices()


def check_processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """Whether bfloat16 is fast on this CPU; only Linux tells."""
    if not cpuinfo.exists():
        return Finding("ok", "processor", f"{platform.processor() or platform.machine()}; features not told")
    words = set(cpuinfo.read_text(errors="replace").split())
    if fast := ", ".join(name for flag, name in _FAST_BF16.items() if flag in words):
        return Finding("ok", "processor", f"fast bfloat16 ({fast}): predict and eval use it with --fast")
    return Finding("ok", "processor", "no fast bfloat16: stay with float32 on the CPU")


def check_memory() -> Finding | None:
    """Main memory against what a model of Stable Diffusion's size takes."""
    try:
        gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):  # not on every system
        return None
    if gigabytes >= _NEEDED_MEMORY_GB:
        return Finding("ok", "memory", f"{gigabytes:.0f} GB")
    wanted = f"models of Stable Diffusion's size want {_NEEDED_MEMORY_GB} GB."
    return Finding("warn", "memory", f"{gigabytes:.1f} GB: {wanted}")


def check_tokenizer() -> Finding:
    """CLIP's tokenizer is whole; transformers hands out an empty one, silently, where files are missing."""
    try:
        from vpd.prompts.tokenizer import VOCABULARY_SIZE, clip_tokenizer

        ids = clip_tokenizer()("a photo of a dog").input_ids
    except Exception as error:  # whatever is wrong with transformers or the shipped file
        return Finding("bad", "tokenizer", f"CLIP's tokenizer cannot be built: {first_line(error)}. Install vpd again.")
    if ids == [49406, 320, 1125, 539, 320, 1929, 49407]:
        return Finding("ok", "tokenizer", f"CLIP's, {VOCABULARY_SIZE:,} tokens")
    return Finding(
        "bad",
        "tokenizer",
        f"CLIP's tokenizer gives wrong tokens {ids}: this version of transformers reads it differently. "
        "Run: pip install 'transformers>=5,<6'",
    )


def check_hub_cache() -> Finding | None:
    """Where downloaded models are kept, whether it can be written, and what is in it."""
    if _why_not("huggingface_hub.constants"):  # named by check_packages
        return None
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        remedy = "so nothing can be downloaded. Set HF_HOME to a folder."
        return Finding("warn", "hub cache", f"{cache} cannot be written, {remedy}")
    models = sorted(path.name.removeprefix("models--").replace("--", "/") for path in cache.glob("models--*"))
    held = f"{cache} holds {', '.join(models)}" if models else f"{cache} is empty"
    if constants.HF_HUB_OFFLINE:
        return Finding("warn", "hub cache", f"{held}; HF_HUB_OFFLINE is set: only these and folders can be used.")
    free_gb = shutil.disk_usage(existing).free / 1e9
    if free_gb < _NEEDED_FREE_GB:
        return Finding("warn", "hub cache", f"{held}; {free_gb:.1f} GB free: a model takes 2 to 5 GB.")
    return Finding("ok", "hub cache", f"{held}; {free_gb:.0f} GB free")


def check_hub_access() -> Finding | None:
    """How the hub would be reached; asks nothing of it."""
    if _why_not("huggingface_hub.constants"):  # named by check_packages
        return None
    from huggingface_hub import constants, get_token

    from vpd.weights.hub import proxy_in_use

    told = [constants.ENDPOINT, f"proxy {proxy_in_use()}" if proxy_in_use() else "no proxy"]
    told.append("a token is set" if get_token() else "no token (gated models need one: `hf auth login` or HF_TOKEN)")
    return Finding("ok", "hub access", "; ".join(told))
