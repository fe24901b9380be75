"""What `gpu.py` measures, section by section; each writes into the dictionary that it is given as it goes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from gpu_profile import layout_changes, times_by_group
from random_models import random_config
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig
from vpd.bench.machine import describe_machine, machine_peaks, now, peak_bytes, since
from vpd.bench.many import example_jpeg, time_many
from vpd.bench.measuring import count_gflop, with_random_weights
from vpd.bench.timing import time_runs
from vpd.inference.memory import network_bytes
from vpd.loading import build_model
from vpd.optimising import optimise
from vpd.prediction_jobs.job import PredictionJob
from vpd.prediction_jobs.worker import Predictor
from vpd.processes import find_processes
from vpd.tensors import Batch
from vpd.training.settings import resolve_config
from vpd.training.step import Stepper

ROOT = Path(__file__).parents[1]
CLASSES = 150
WAYS: dict[str, dict[str, Any] | None] = {
    "exact": None,
    "exact, TF32": None,
    "fast, eager": {"graphs": False},
    "fast": {},
    "small encoder": {},
}
"""Way -> arguments of `vpd.optimise`; none = the model as it is."""
TRAINED = ((4, False), (16, False), (16, True))
"""Batch, and whether the UNet's blocks are computed again."""


class OutOfTimeError(RuntimeError):
    """What is left of the time is not enough."""


@dataclass
class Setup:
    """What is measured, on what, and until when."""

    device: torch.device
    size: str
    px: int
    batches: tuple[int, ...]
    pictures: int
    steps: int
    ends_s: float
    """Of `time.monotonic`."""
    results: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def exact(self) -> Any:
        """The model as it is, random weights."""
        torch.manual_seed(0)
        return with_random_weights(random_config("segment", self.size, CLASSES), device=self.device)

    def model(self, way: str) -> Any:
        """The model that runs in a way."""
        arguments = WAYS[way]
        if arguments is None:
            return self.exact
        if way == "small encoder":
            backbone = self.exact.backbone
            channels = backbone.vae.config.latent_channels
            config = TinyEncoderConfig.for_vae(latent_stride=backbone.latent_stride, latent_channels=channels)
            arguments = {"encoder": TinyEncoder(config)}
        return optimise(self.exact, **arguments)

    def images(self, batch: int, dtype: torch.dtype) -> Tensor:
        """Random pictures in [-1, 1]."""
        drawn = torch.rand(batch, 3, self.px, self.px, generator=torch.Generator().manual_seed(1))
        return (drawn * 2 - 1).to(self.device, dtype)

    def check_time(self, needed_s: float = 0.0) -> None:
        """Raise where the time is over."""
        if (left := self.ends_s - time.monotonic()) < needed_s:
            raise OutOfTimeError(f"{max(left, 0):.0f} s are left, {needed_s:.0f} are needed")

    def peak_tflops(self, dtype: str = "bfloat16") -> float | None:
        """What products of this card reach, if they were measured."""
        rate = self.results.get("peak", {}).get(dtype, {}).get("matrix")
        return None if rate is None else rate / 1000


def tried(points: dict[str, Any], name: str, measure: Callable[[], Any], setup: Setup) -> None:
    """Add a point, or why there is none: a card may be too small for one and not for the next."""
    setup.check_time()
    try:
        points[name] = measure()
    except torch.OutOfMemoryError as error:
        points[name] = {"error": f"out of memory: {str(error).splitlines()[0][:200]}"}
        if setup.device.type == "cuda":
            torch.cuda.empty_cache()


def short(timed: dict[str, Any], batch: int) -> dict[str, Any]:
    """Milliseconds and pictures a second of a timed run of a batch."""
    clock = "device_s" if "device_s" in timed else "wall_s"
    seconds = timed[clock]["median"]
    found = {"ms": 1000 * seconds, "waited_for_ms": 1000 * timed["wall_s"]["median"], "images_per_s": batch / seconds}
    return {**found, "runs": timed["runs"], "peak_mib": timed["peak_mib"]}


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
                    return short(time_runs(lambda: model.network(images, None), setup.device, 1), batch)

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
    exact, fast = setup.exact, setup.model("fast, eager")
    images = setup.images(1, exact.dtype)
    wanted = exact.backbone(images, exact.read_prompts(None)[1]).maps
    got = fast.backbone(images.to(fast.dtype), fast.read_prompts(None)[1]).maps
    found["features"] = [float((one.float() - other).norm() / other.norm()) for one, other in zip(got, wanted)]  # noqa: B905
    recorded = setup.model("fast")
    pictures = images.to(fast.dtype)
    outputs = [recorded.network(pictures, None).float() for _ in range(4)]  # eager, recorded, replayed
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
    found["call"] = time_many(fast, {}, points, px=setup.px, pictures=setup.pictures)
    del fast
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
    skipped = min(len(arrived) // 3, 4 * batch)  # the model was made ready and recorded meanwhile
    seconds = arrived[-1] - arrived[skipped]
    job_rate = (len(arrived) - 1 - skipped) / max(seconds, 1e-9)
    found["job"] = {"pictures": len(arrived), "images_per_s": job_rate, "share_of_network": job_rate / rate}


def training(setup: Setup, found: dict[str, Any]) -> None:
    """Optimiser steps of segmentation, all weights, bfloat16 autocast."""
    del setup.__dict__["exact"]  # a card has no room for both
    found["gflop_per_image"] = gflop = training_gflop(setup)
    for batch, is_checkpointed in TRAINED:

        def measure(batch: int = batch, is_checkpointed: bool = is_checkpointed) -> dict[str, Any]:
            return time_steps(setup, batch, is_checkpointed, gflop)

        tried(found, f"{batch}{', checkpointed' if is_checkpointed else ''}", measure, setup)


def time_steps(setup: Setup, batch: int, is_checkpointed: bool, gflop: float) -> dict[str, Any]:
    """Seconds of a step, pictures a second, memory, share of the peak."""
    given = {
        "model": "random",
        "data": {"root": "random"},
        "gradient_checkpointing": is_checkpointed,
        "precision": "bf16",
        "channels_last": True,
        "crop_px": setup.px,
        "batch_size": batch,
        "optimiser": "adamw",
        "steps": 100,
        "on_bad_loss": "skip",
    }
    model = with_random_weights(random_config("segment", setup.size, CLASSES), device=setup.device)
    stepper = Stepper(model, resolve_config("segment", given), find_processes())
    labels = torch.randint(CLASSES, (batch, setup.px, setup.px), generator=torch.Generator().manual_seed(2))
    images = setup.images(batch, torch.float32).cpu()
    batches = repeat(Batch(images=images, names=["random"] * batch, labels=labels))
    if setup.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setup.device)
    seconds = []
    for step in range(setup.steps + 3):
        setup.check_time()
        began = now(setup.device)
        stepper.take(step, 1e-6, batches)
        seconds.append(since(began, setup.device)["wall_s"])
    counted = sorted(seconds[3:])
    median = counted[len(counted) // 2]
    peak_gib = torch.cuda.max_memory_allocated(setup.device) / 2**30 if setup.device.type == "cuda" else None
    stepper.close()
    tflops, limit = gflop * batch / median / 1000, setup.peak_tflops()
    share = None if limit is None else tflops / limit
    found = {"ms": 1000 * median, "images_per_s": batch / median, "peak_gib": peak_gib}
    return {**found, "tflop_per_s": tflops, "share_of_peak": share}


@torch.no_grad()
def training_gflop(setup: Setup) -> float:
    """Operations that a step needs for one picture: forward pass, and twice those of what trains."""
    model = build_model(random_config("segment", setup.size, CLASSES)).eval()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.backbone.encode(torch.empty(1, 3, setup.px, setup.px, device="meta"))
    encoder = counter.get_total_flops() / 1e9
    return 3 * (count_gflop(model, px=setup.px) - encoder) + encoder


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
    """Would 8 bits pay in linear layers of the UNet? Product alone and with the conversion of its input, at batch 16."""
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
        done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, timeout=left_s)
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise OutOfTimeError(f"pytest was stopped after {left_s:.0f} s; it said: {text[-2000:]}") from error
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
