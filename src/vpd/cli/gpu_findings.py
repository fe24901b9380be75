"""What `vpd doctor` says of GPUs: which there are, and what of this package's speed they cannot use."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from vpd.errors import first_line

_PLAIN_WAY = "models run, the plain way"


class Finding(NamedTuple):
    """One line of a diagnosis."""

    verdict: Literal["ok", "warn", "bad"]
    """`bad` = something will not work; `warn` = something works less well."""
    subject: str
    """What was looked at."""
    message: str
    """What was found, and what to do where it is not `ok`."""


def check_devices() -> Iterator[Finding]:
    """Where models will run, and what they will miss there. Torch must be there."""
    import torch

    with warnings.catch_warnings():  # an old driver's; it is told below
        warnings.simplefilter("ignore")
        has_cuda = torch.cuda.is_available()
    if has_cuda:
        yield from _check_cuda()
    elif torch.backends.mps.is_available():
        yield Finding("ok", "device", "Apple GPU (mps)")
        missing = "no Triton kernels, no CUDA graphs, no pinned memory, no bfloat16 by --fast"
        yield Finding("ok", "Apple GPU", f"{_PLAIN_WAY}: {missing}; none of this was measured there")
    elif not (torch.version.cuda or torch.version.hip):
        yield Finding("ok", "device", f"CPU, {torch.get_num_threads()} threads; this torch has no GPU support")
    else:
        yield Finding("warn", "device", f"{_why_no_gpu()} Models run on the CPU.")


def _why_no_gpu() -> str:
    """What torch says where it was built for GPUs and sees none."""
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.init()
    except Exception as error:  # torch and drivers fail in their own ways
        reason = first_line(error)
    else:
        reason = "no device is visible; CUDA_VISIBLE_DEVICES may hide them"
    remedy = "Does `nvidia-smi` show the card?"
    if "too old" in reason:
        remedy = f"Get a newer driver, or a torch that was built for an older CUDA than {torch.version.cuda}."
    return f"torch was built for {built} but sees no GPU ({reason.rstrip('.')}). {remedy}"


def _check_cuda() -> Iterator[Finding]:
    import torch

    count, works = torch.cuda.device_count(), True
    for number in range(count):
        finding = _check_card(number, "device" if count == 1 else f"device cuda:{number}")
        works = works and finding.verdict == "ok"
        yield finding
    if not works:
        return
    if count > 1:
        yield Finding("ok", "devices", f"{count} GPUs: predict takes cuda:0, torchrun trains on all (docs/scale.md)")
    old = [name for name, capability in _cards() if capability < (8, 0)]
    if old:
        missing = "no bfloat16 (compute capability under 8.0), so --fast stays in float32 and precision=bf16 is slow"
        yield Finding("warn", "bfloat16", f"{', '.join(old)}: {missing}.")
    else:
        yield Finding("ok", "bfloat16", "the card computes in it: predict and eval use it with --fast")
    yield check_triton()
    yield _check_tf32()


def _cards() -> list[tuple[str, tuple[int, int]]]:
    """Name and compute capability of each GPU."""
    import torch

    numbers = range(torch.cuda.device_count())
    return [(torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number)) for number in numbers]


def _check_card(number: int, subject: str) -> Finding:
    """One GPU: its memory, and whether this torch has kernels for it."""
    import torch

    try:
        torch.ones(1, device=f"cuda:{number}").add(1).item()
        free, total = torch.cuda.mem_get_info(number)
    except Exception as error:  # kernels for another card, a card in use by another alone, a driver that failed
        name = f"cuda:{number}"
        with suppress(Exception):  # which a card that failed may not tell either
            name = torch.cuda.get_device_name(number)
        told = f"{name} cannot be used: {first_line(error)}"
        return Finding("bad", subject, f"{told}. Get a torch that was built for it, or hide it: CUDA_VISIBLE_DEVICES=")
    major, minor = torch.cuda.get_device_capability(number)
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    memory = f"{total / 2**30:.0f} GB, {free / 2**30:.1f} free"
    name = torch.cuda.get_device_name(number)
    return Finding("ok", subject, f"{name}, {memory}; compute capability {major}.{minor}; {built}")


def check_triton() -> Finding:
    """Whether group norms of GPUs go through the Triton kernels."""
    from vpd.backbones.group_norm import why_no_kernel

    if reason := why_no_kernel("cuda"):
        lost = "so group norms take torch's way, which copies every map between memory orders twice"
        return Finding("warn", "Triton", f"{reason}, {lost}. It comes with torch's CUDA builds: pip install triton")
    return Finding("ok", "Triton", "our kernels for group norm run")


def _check_tf32() -> Finding:
    """Whether float32 means float32."""
    import torch

    state: dict[str, Any] = {}
    for name, backend in (("convolutions", torch.backends.cudnn), ("products", torch.backends.cuda.matmul)):
        try:
            state[name] = "on" if backend.allow_tf32 else "off"
        except RuntimeError:  # it was set in a way that cannot be told so
            state[name] = "unknown"
    told = ", ".join(f"{value} for {name}" for name, value in state.items())
    meaning = "where on, float32 keeps 10 bits of each factor; torch.backends.cudnn.allow_tf32 = False is exact"
    return Finding("ok", "TF32", f"{told}; {meaning}")
