"""What `gpu.py` measures, section by section; each writes into the dictionary that it is given as it goes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_profile import layout_changes, times_by_group
from gpu_setup import CLASSES, WAYS, OutOfTimeError, Setup, short, tried
from gpu_training import training
from random_models import random_model
from torch import Tensor

from vpd.bench.machine import describe_machine, machine_peaks, peak_bytes
from vpd.bench.many import example_jpeg, time_many
from vpd.bench.timing import time_runs
from vpd.inference.memory import network_bytes
from vpd.optimising import optimise
from vpd.prediction_jobs.job import PredictionJob
from vpd.prediction_jobs.worker import Predictor

ROOT = Path(__file__).parents[1]


def machine(setup: Setup, found: dict[str, Any]) -> None:
    """Card, driver, libraries."""
    found |= describe_machine(setup.device)
    found["python"] = sys.version.split()[0]


def peak(setup: Setup, found: dict[str, Any]) -> None:
    """Products of 8192 (64 where all is tiny) and large convolutions, 1e9 operations a second."""
    size = 64 if setup.size == "tiny" else None
    for dtype in (torch.bfloat16, torch.float32):
        found[str(dtype).removeprefix("torch.")] = machine_peaks(setup.device, dtype, size=size)


@torch.no_grad()
def network(setup: Setup, found: dict[str, Any]) -> None:
    """Latency and rate by way and batch."""
    for way in WAYS:
        points = found.setdefault(way, {})
        model = setup.model(way)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = way == "exact, TF32"
        try:
            for batch in setup.batches:
                if way.startswith("exact") and batch > 16:
                    continue
                images = setup.images(batch, model.dtype)

                def measure(model: Any = model, images: Tensor = images, batch: int = batch) -> dict[str, Any]:
                    if model.graphs is not None:
                        model.graphs.drop()  # recordings of other batches would count
                    point = short(time_runs(lambda: model.network(images, None), setup.device, 1), batch)
                    if model.graphs is not None and point["peak_mib"] is not None:
                        point["peak_mib"] += model.graphs.held_bytes / 2**20
                    return point

                tried(points, str(batch), measure, setup)
        finally:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        del model


@torch.no_grad()
def parts(setup: Setup, found: dict[str, Any]) -> None:
    """Encoder, UNet and whole network, without recordings."""
    fast = setup.model("fast, eager")
    _, layers = fast.read_prompts(None)
    for batch in (setup.batches[0], setup.batches[-1]):
        images = setup.images(batch, fast.dtype)
        latents = fast.backbone.encode(images)
        runs: dict[str, Callable[[], Any]] = {
            "encoder": lambda images=images: fast.backbone.encode(images),
            "unet": lambda latents=latents: fast.backbone(None, layers, latents=latents),
            "whole": lambda images=images: fast(images, None),
        }
        for name, run in runs.items():
            found.setdefault(name, {})[str(batch)] = short(time_runs(run, setup.device, 1), batch)


@torch.no_grad()
def profile(setup: Setup, found: dict[str, Any]) -> None:
    """Milliseconds of one pass by kind of kernel, in encoder and UNet; and operations that meet two memory orders."""
    fast = setup.model("fast, eager")
    _, layers = fast.read_prompts(None)
    batch = max(size for size in setup.batches if size <= 16)
    images = setup.images(batch, fast.dtype).contiguous(memory_format=torch.channels_last)
    latents = fast.backbone.encode(images)
    found["batch"] = batch
    runs: dict[str, Callable[[], Any]] = {
        "encoder": lambda: fast.backbone.encode(images),
        "unet": lambda: fast.backbone(None, layers, latents=latents),
        "whole": lambda: fast(images, None),
    }
    for name, run in runs.items():
        run()
        found[name] = times_by_group(run, setup.device)
    changes = layout_changes(runs["whole"])
    found["layout_changes"] = {"count": len(changes), "first": changes[:5]}


@torch.no_grad()
def accuracy(setup: Setup, found: dict[str, Any]) -> None:
    """Features of the fast model against float32: L2 distance over the norm, map by map."""
    with setup.device:  # drawn there, as torch and diffusers draw: larger weights make more of every rounding
        exact = random_model(setup.size, CLASSES)
    fast = optimise(exact, graphs=False)
    images = setup.images(1, exact.dtype)
    wanted = exact.backbone(images, exact.read_prompts(None)[1]).maps
    got = fast.backbone(images.to(fast.dtype), fast.read_prompts(None)[1]).maps
    found["features"] = [
        float((one.float() - other).norm() / other.norm()) for one, other in zip(got, wanted, strict=True)
    ]
    recorded = optimise(exact)
    pictures = images.to(fast.dtype)
    outputs = [recorded.network(pictures, None).float() for _ in range(4)]  # eager, recorded, replayed
    found["was_recorded"] = recorded.graphs is not None and recorded.graphs.held_bytes > 0
    plain = fast(pictures, None).float()
    found["recording_against_eager"] = float((outputs[-1] - plain).abs().max() / plain.abs().max())


def predict(setup: Setup, found: dict[str, Any]) -> None:
    """A folder of JPEG files through the job of `vpd predict`, and one call of `model.predict`, beside the network."""
    batch = max(size for size in setup.batches if size <= 16)
    fast = setup.model("fast")
    with torch.no_grad():
        images = setup.images(batch, fast.dtype)
        rate = short(time_runs(lambda: fast.network(images, None), setup.device, 1), batch)["images_per_s"]
    found |= {"batch": batch, "network_images_per_s": rate}
    points = [{"batch": batch, "images_per_s": rate}]
    found["call"] = time_many(fast, {}, points, px=setup.px, pictures=setup.pictures // 4)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "photos").mkdir()
        for number in range(setup.pictures):
            (root / f"photos/{number:05d}.jpg").write_bytes(example_jpeg(number, setup.px))
        options = {"size": setup.px}
        predictor = Predictor(setup.exact, root / "out", model_name="random", options=options, fast={})
        job = PredictionJob([str(root / "photos")], root / "out", predictor.origin, batch_size=batch)
        arrived = []
        for outcome in job.run(predictor.run):
            if outcome.error:
                raise RuntimeError(outcome.error)
            arrived.append(time.perf_counter())
    skipped = min(len(arrived) // 2, 4 * batch) - 1  # the model was made ready and recorded meanwhile
    seconds = arrived[-1] - arrived[skipped]
    job_rate = (len(arrived) - 1 - skipped) / max(seconds, 1e-9)
    found["job"] = {"pictures": len(arrived), "images_per_s": job_rate, "share_of_network": job_rate / rate}


@torch.no_grad()
def memory(setup: Setup, found: dict[str, Any]) -> None:
    """What a pass takes over weights and inputs: measured, and as `--memory` and tables of cards count it."""
    for way in ("exact", "fast, eager"):
        model = setup.model(way)
        for batch in setup.batches:
            images = setup.images(batch, model.dtype)

            def measure(model: Any = model, images: Tensor = images, batch: int = batch) -> dict[str, Any]:
                model(images, None)  # kernels have their workspaces
                taken = peak_bytes(lambda: model(images, None).float(), setup.device)
                counted = network_bytes(model, (batch, setup.px, setup.px))
                ratio = None if not taken else counted / taken
                return {"measured_mib": (taken or 0) / 2**20, "counted_mib": counted / 2**20, "counted_over": ratio}

            tried(found.setdefault(way, {}), str(batch), measure, setup)


@torch.no_grad()
def fp8(setup: Setup, found: dict[str, Any]) -> None:
    """Would 8 bits pay in linear layers of the UNet at batch 16? The product alone, and with converting its input."""
    if setup.device.type != "cuda" or torch.cuda.get_device_capability(setup.device) < (8, 9):
        found["left_out"] = "cards from compute capability 8.9 multiply fp8"
        return
    one, kind = torch.ones((), device=setup.device), torch.float8_e4m3fn
    for rows, inner, outer in ((65536, 320, 2560), (16384, 640, 5120), (4096, 1280, 10240)):
        left = torch.randn(rows, inner, device=setup.device, dtype=torch.bfloat16)
        right = torch.randn(outer, inner, device=setup.device, dtype=torch.bfloat16)
        narrow, weight = left.to(kind), right.to(kind).t()

        def product(narrow: Tensor, weight: Tensor = weight) -> Tensor:
            return torch._scaled_mm(narrow, weight, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

        runs = {
            "bfloat16": lambda left=left, right=right: left @ right.t(),
            "fp8": lambda narrow=narrow: product(narrow),
            "fp8 with conversion": lambda left=left: product((left / left.abs().amax() * 448).to(kind)),
        }
        timed = {name: time_runs(run, setup.device, 1)["device_s"]["median"] * 1000 for name, run in runs.items()}
        found[f"{rows}x{inner}x{outer}"] = timed


def tests(setup: Setup, found: dict[str, Any]) -> None:
    """The tests marked `gpu`, in a process of their own."""
    setup.check_time(30)
    where = [ROOT / "tests/gpu", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-W", "ignore", "--durations=5"]
    words = [sys.executable, "-m", "pytest", *where]
    left_s = setup.ends_s - time.monotonic()
    try:
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        if setup.device.type != "cuda":
            environment["VPD_GPU_TESTS_ON"] = setup.device.type
        told: dict[str, Any] = {"env": environment, "cwd": ROOT, "text": True, "timeout": left_s}
        done = subprocess.run(list(map(str, words)), check=False, capture_output=True, **told)
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise OutOfTimeError(f"pytest was stopped after {left_s:.0f} s; it said: {text[-2000:]}") from error
    if not done.stdout:  # there is no pytest
        raise RuntimeError(done.stderr[-500:])
    found |= {"status": done.returncode, "said": done.stdout[-6000:], "errors": done.stderr[-1000:]}


SECTIONS: dict[str, Callable[[Setup, dict[str, Any]], None]] = {
    "machine": machine,
    "peak": peak,
    "network": network,
    "predict": predict,
    "profile": profile,
    "accuracy": accuracy,
    "parts": parts,
    "memory": memory,
    "fp8": fp8,
    "training": training,
    "tests": tests,
}
"""In the order in which they run; training last of what measures, as it takes the card's memory."""
