"""A model's options one after another: seconds of the network and of a whole `predict`, memory, what they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vpd.backbones.tiny_encoder import TinyEncoder, load_tiny_encoder
from vpd.bench.machine import clock_of, describe_machine, machine_peaks
from vpd.bench.many import time_many
from vpd.bench.timing import time_runs
from vpd.config import BackboneConfig, Resize, SegmentConfig, TaskConfig
from vpd.errors import UsageError
from vpd.inference.heap import free_heap, keep_heap
from vpd.loading import build_model
from vpd.optimising import optimise
from vpd.tasks.model import PerceptionModel
from vpd.tasks.table import TaskKind
from vpd.version import __version__

FORMAT_VERSION = 2
PARTS = ("network", "predict")
"""What is timed: images in, the network's outputs out; and a picture in, its prediction out."""
_MANY_PICTURES = 64
_SLOW_SECONDS = 1.0
_TEXT = "the red ball on the left"
SD15: dict[str, dict[str, Any]] = {
    "unet": {
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "sample_size": 64,
    },
    "vae": {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
        "sample_size": 512,
    },
}
"""Arguments of diffusers' UNet and autoencoder that make those of Stable Diffusion 1.5."""


@dataclass(frozen=True)
class Option:
    """One way to run a model."""

    name: str
    how: str
    """What a user writes for it."""
    arguments: Mapping[str, Any] | None = None
    """Of `vpd.optimise`; none = the model as it is."""
    keeps_heap: bool = False
    """Whether freed memory is kept while it runs."""


def find_options(
    device: torch.device, *, encoder: TinyEncoder | None = None, encoder_name: str = "", is_compiled: bool = False
) -> list[Option]:
    """The options that are measured on a device, the model as it is first.

    On a CPU keeping freed memory is one of them, and part of `--fast`; `torch.compile` takes minutes.
    """
    is_cpu = device.type == "cpu"
    options = [Option("exact", "as it is")]
    if is_cpu and keep_heap():  # glibc alone can
        free_heap()
        options.append(Option("heap kept", "--keep-heap", keeps_heap=True))
    options.append(Option("fast", "--fast", {}, is_cpu))
    if encoder is not None:
        options.append(Option("small encoder", f"--encoder {encoder_name}", {"encoder": encoder}, is_cpu))
    if is_compiled:
        call = 'vpd.optimise(model, compile_mode="reduce-overhead")'
        options.append(Option("compiled", call, {"compile_mode": "reduce-overhead"}, is_cpu))
    return options


def measure_speed(
    model: PerceptionModel,
    *,
    px: int | None = None,
    rounds: int = 3,
    batches: Sequence[int] | None = None,
    encoder: str | None = None,
    is_compiled: bool = False,
    pictures: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All figures of a model on its device, as a dictionary for JSON.

    Args:
        model: As it was loaded, in eval mode and not optimised.
        px: Side of the random picture, pixels; none = the size that the model predicts at.
        rounds: Times that everything is timed.
        batches: Numbers of pictures that go through the network together; none = 1 and 4, on a GPU also 16, or 1
            where a picture takes more than a second.
        encoder: A small encoder to try: folder or hub id.
        is_compiled: Whether to try `torch.compile`.
        pictures: JPEG files that one call of `predict` is timed on beside the network; none = 64 on a GPU, else 0.
        say: Told what goes on.

    Raises:
        UsageError: If the model was optimised, a number is less than 1, or the encoder cannot be read.
    """
    if model.is_optimised:
        raise UsageError("This model was made by vpd.optimise. Measure the model that it was made from.")
    for word, number in (
        ("px", px or 1),
        ("rounds", rounds),
        ("batches", min(batches or (1,))),
        ("pictures", pictures or 1),
    ):
        if number < 1:
            raise UsageError(f"{word}: got {number}; give 1 or more.")
    small = None if encoder is None else load_tiny_encoder(encoder)
    options = find_options(model.device, encoder=small, encoder_name=encoder or "", is_compiled=is_compiled)
    machine, side = describe_machine(model.device), px or model.config.fit.size_px
    many = (_MANY_PICTURES if model.device.type == "cuda" else 0) if pictures is None else pictures
    wanted, found, left_out = None, dict[str, Any](), dict[str, str]()
    for option in options:
        say(f"{option.name} ...")
        try:
            figures, output = _measure(option, model, px=side, rounds=rounds, batches=batches, pictures=many)
        except UsageError:
            raise
        except Exception as error:  # whatever torch.compile misses on this machine
            if option.name != "compiled":
                raise
            left_out[option.name] = f"torch.compile failed: {str(error).strip().splitlines()[0]}"
            continue
        finally:
            free_heap()
        wanted = output if wanted is None else wanted
        batches = batches or [point["batch"] for point in figures["batches"]]
        figures["difference"] = float((output - wanted).norm() / wanted.norm())
        found[option.name] = figures
    peaks = {figures["dtype"]: getattr(torch, figures["dtype"]) for figures in found.values()}
    rates = {name: machine_peaks(model.device, dtype) for name, dtype in peaks.items()}
    _compare(found, rates, clock_of(model.device))
    return {
        "format_version": FORMAT_VERSION,
        "vpd_version": __version__,
        "task": model.config.task,
        "px": side,
        "rounds": rounds,
        "clock": clock_of(model.device),
        "machine": machine,
        "peak_gflop_per_s": rates,
        "weights_mib": sum(value.nbytes for value in model.state_dict().values()) / 2**20,
        "options": found,
        "left_out": left_out,
    }


def _measure(
    option: Option, model: PerceptionModel, *, px: int, rounds: int, batches: Sequence[int] | None, pictures: int
) -> tuple[dict[str, Any], Tensor]:
    """Figures of one option, and what its network makes of one picture, float32 on the CPU."""
    if option.keeps_heap:
        keep_heap()
    runs: Any = model if option.arguments is None else optimise(model, **option.arguments)
    prompts, device = _example_prompts(model), model.device

    def timed(run: Callable[[], Any]) -> dict[str, Any]:
        if runs.graphs is None:
            return time_runs(run, device, rounds)
        runs.graphs.drop()  # recordings of other sizes would count
        figures = time_runs(run, device, rounds)
        return {**figures, "peak_mib": (figures["peak_mib"] or 0) + runs.graphs.held_bytes / 2**20}

    @torch.no_grad()
    def network(batch: int) -> tuple[dict[str, Any], Tensor]:
        images = torch.rand(batch, 3, px, px, generator=torch.Generator().manual_seed(1)) * 2 - 1
        images = images.to(device, runs.dtype)
        text = None if prompts is None else prompts.to(images)
        output = runs.network(images, text).float().cpu()
        figures: dict[str, Any] = {"batch": batch, **timed(lambda: runs.network(images, text))}
        figures["images_per_s"] = batch / figures[_network_clock(figures, "wall_s")]["median"]
        return figures, output

    first, output = network(1)
    if batches is None:
        usual = (1, 4, 16) if device.type == "cuda" else (1, 4)
        batches = usual if first["wall_s"]["median"] <= _SLOW_SECONDS else (1,)
    points = [first if batch == 1 else network(batch)[0] for batch in batches]
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (px, px, 3), dtype=np.uint8))
    words = {"text": _TEXT} if "text" in model.words else {}
    return {
        "how": option.how,
        "dtype": str(runs.dtype).removeprefix("torch."),
        "gflop": count_gflop(model, option.arguments, px=px),
        "network": dict(first),
        "predict": timed(lambda: runs.predict(picture, size=px, **words)),
        "batches": points,
        **({"many": time_many(runs, words, points, px=px, pictures=pictures)} if pictures else {}),
    }, output


def _network_clock(figures: Mapping[str, Any], clock: str) -> str:
    """The clock of the network: of a GPU its own, of which no waiting is part."""
    return "device_s" if "device_s" in figures else clock


def _example_prompts(model: PerceptionModel) -> Tensor | None:
    """Prompts for the network, where it has none of its own."""
    return None if model.constant_prompts() is not None else model.example_prompts(1)


@torch.no_grad()
def count_gflop(model: PerceptionModel, arguments: Mapping[str, Any] | None = None, *, px: int) -> float:
    """Operations (2 a multiply-add) of the network for one picture, 1e9, counted on tensors without data.

    Those of attention are counted whatever kernel does it. What `vpd.optimise` does once is not counted.

    Args:
        model: Not optimised.
        arguments: Of `vpd.optimise`; none = the model as it is.
        px: Side of the picture, pixels.
    """
    twin = build_model(model.config, type(model)).eval()
    if arguments is not None:  # packed layers and compiled code do the same operations, and need data
        counted = {name: value for name, value in arguments.items() if name != "compile_mode"}
        twin = optimise(twin, **{**counted, "dtype": "float32"})
    images, prompts = torch.empty(1, 3, px, px, device="meta"), _example_prompts(model)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        twin(images, None if prompts is None else prompts.to(images))
    return float(counter.get_total_flops() / 1e9)


def _compare(found: dict[str, Any], rates: dict[str, dict[str, float]], clock: str) -> None:
    """Add how many times faster each option is than the first, and its share of what the machine reaches."""
    first = next(iter(found.values()))
    for figures in found.values():
        for part in PARTS:
            timer = _network_clock(figures[part], clock) if part == "network" else clock
            figures[part]["times_faster"] = first[part][timer]["median"] / figures[part][timer]["median"]
        network = figures["network"]
        rate = figures["gflop"] / network[_network_clock(network, clock)]["median"]
        figures["share_of_peak"] = rate / rates[figures["dtype"]]["matrix"]


def random_sd15(device: str | torch.device = "cpu") -> PerceptionModel:
    """A segmentation model of Stable Diffusion 1.5's size, 150 classes, 512 px, with random weights and prompts."""
    names = tuple(f"class {number}" for number in range(150))
    config = SegmentConfig(classes=names, backbone=BackboneConfig(**SD15), fit=Resize())
    model: PerceptionModel = with_random_weights(config, device=device)
    return model


def with_random_weights(config: TaskConfig, task: TaskKind | None = None, *, device: str | torch.device = "cpu") -> Any:
    """A model in eval mode, filled in one pass: diffusers' own draw takes a minute at Stable Diffusion's size.

    Args:
        config: Of the model.
        task: Its class; none = the one of the table.
        device: Where its weights are drawn: on a GPU in no time.
    """
    model = build_model(config, task).to_empty(device=device)
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            if value.ndim > 1:
                value.normal_(std=value[0].numel() ** -0.5)
            else:
                value.fill_(float(name.endswith(("weight", "running_var"))))
    return model.eval()
