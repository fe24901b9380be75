"""The ways that are compared: what each makes of images and prompts, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig
from vpd.backbones.vae_walk import scale_latents
from vpd.benchmark.other_ways import HookedUNet, diffusers_encode, reference_encode, reference_features
from vpd.errors import UsageError
from vpd.optimising import optimise
from vpd.prompts.adapter import PreparedText
from vpd.tasks.model import PerceptionModel
from vpd.tensors import Features

WAYS = {
    "reference": "the reference's way, restated: every attention matrix, forced checkpointing, float32, NCHW",
    "diffusers": "plain diffusers: its own forward of UNet and VAE, hooks, an attention processor that collects",
    "exact": "this library as it comes",
    "fast-float32": "vpd.optimise(model, dtype='float32')",
    "fast": "vpd.optimise(model)",
    "small-encoder": "vpd.optimise(model, encoder=...), TAESD's architecture with random weights",
    "merged": "vpd.optimise(model, merge_above=4096): as fast up to 512 x 512 with Stable Diffusion",
    "int8": "vpd.optimise(model, int8=True)",
    "compiled": "vpd.optimise(model, compile_mode='reduce-overhead'): CUDA graphs on a GPU",
    "exported": "ONNX Runtime on two exported graphs, encoder and UNet, in float32",
}
"""Name of each way and what it is."""
HEAP = "+heap"
"""After a name: freed memory is kept (`vpd.inference.heap.keep_heap`), as `--fast` does."""
DEFAULT = ("reference", "diffusers", "exact", "fast", "fast+heap", "exported")
FIRST = "reference"
"""What errors are measured against."""
_EXPORT_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Way:
    """One way from images to features."""

    name: str
    encode: Callable[[Tensor], Tensor]
    """Images in [-1, 1], in its type -> latents."""
    prepare: Callable[[Tensor], Any]
    """Text embeddings `(1, k, d)` in float32 -> what `features` takes; not timed, as it is done once for fixed text."""
    features: Callable[[Tensor, Any], tuple[Tensor, ...]]
    """Latents and prepared text -> maps, finest first, then attention, finer first."""
    dtype: torch.dtype
    device: torch.device

    @property
    def keeps_heap(self) -> bool:
        """Whether freed memory is kept while it runs."""
        return self.name.endswith(HEAP)

    @property
    def has_random_weights(self) -> bool:
        """Whether part of it is random: then time and memory are true, and its features are not the model's."""
        return self.name.startswith("small-encoder")

    @property
    def is_spared_work(self) -> bool:
        """Whether it gains by fewer operations, for which it must not be counted as quick at them."""
        return self.name.startswith(("small-encoder", "merged"))

    @property
    def is_torch(self) -> bool:
        """Whether torch does the work, so that its memory can be seen by torch's profiler."""
        return not self.name.startswith("exported")


def check_names(names: Sequence[str]) -> None:
    """Make sure that all ways are known.

    Raises:
        UsageError: If one is not, or there is none, or one stands twice.
    """
    unknown = [name for name in names if name.removesuffix(HEAP) not in WAYS]
    if unknown or not names or len(set(names)) < len(names):
        wrong = f"Unknown way {unknown[0]!r}." if unknown else f"Ways are none or stand twice: {list(names)}."
        raise UsageError(f"{wrong} Choose among: {', '.join(WAYS)}; {HEAP} after a name keeps freed memory.")


def find_ways(model: PerceptionModel, names: Sequence[str], folder: Path) -> tuple[list[Way], dict[str, str]]:
    """The ways of these names, and those that cannot be run here with the reason.

    Args:
        model: In float32 and eval mode, without low-rank layers; on the meta device, operations can be counted.
        names: Of `WAYS`, perhaps with `HEAP`.
        folder: An empty folder for graphs that are exported.

    Raises:
        UsageError: If a name is unknown.
    """
    check_names(names)
    found: dict[str, Way] = {}
    skipped: dict[str, str] = {}
    for name in names:
        base = name.removesuffix(HEAP)
        if reason := _obstacle(base, model.device):
            skipped[name] = reason
        elif base not in found:
            found[base] = _find_way(base, model, folder)
    return [replace(found[name.removesuffix(HEAP)], name=name) for name in names if name not in skipped], skipped


def _obstacle(base: str, device: torch.device) -> str:
    """Why a way cannot be run here; nothing where it can."""
    if base == "int8" and find_spec("torchao") is None:
        return 'torchao not installed: pip install "vpd-perception[int8]"'
    if base == "exported":
        if device.type != "cpu":
            return "the exported graphs are run on CPUs only"
        if missing := [package for package in _EXPORT_PACKAGES if find_spec(package) is None]:
            return f'{", ".join(missing)} not installed: pip install "vpd-perception[export]"'
    return ""


def _find_way(base: str, model: PerceptionModel, folder: Path) -> Way:
    if base in ("reference", "diffusers"):
        return _other(base, model)
    if base == "exact":
        return _ours(base, model, model)
    if base == "exported":
        from vpd.benchmark.exported_way import exported_way

        return exported_way(model, folder)
    if base == "compiled":
        return _ours(base, optimise(model, compile_mode="reduce-overhead"), model)
    # without data, only operations count, which are the same in every type; packed layers need data
    is_float32 = base == "fast-float32" or model.device.type == "meta"
    options: dict[str, Any] = {"dtype": "float32" if is_float32 else "auto"}
    if base == "small-encoder":
        options["encoder"] = _random_encoder(model)
    elif base == "merged":
        options["merge_above"] = 4096
    elif base == "int8":
        options["int8"] = True
    return _ours(base, optimise(model, **options), model)


def _random_encoder(model: PerceptionModel) -> TinyEncoder:
    channels = model.backbone.vae.config.latent_channels
    return TinyEncoder(TinyEncoderConfig.for_vae(latent_stride=model.backbone.latent_stride, latent_channels=channels))


def _other(base: str, model: PerceptionModel) -> Way:
    backbone = model.backbone
    hooked = HookedUNet(backbone.unet) if base == "diffusers" else None

    def encode(images: Tensor) -> Tensor:
        latents = (reference_encode if hooked is None else diffusers_encode)(backbone.vae, images)
        return latents if backbone.config.latent_scaling == "none" else scale_latents(backbone.vae, latents)

    def features(latents: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        adapted = model.adapter(text.expand(len(latents), -1, -1))
        timestep = backbone.config.timestep
        if hooked is None:
            maps, attention = reference_features(backbone.unet, latents, adapted, timestep=timestep)
        else:
            maps, attention = hooked.features(latents, adapted, timestep=timestep)
        return (*maps, *attention)

    return Way(base, encode, lambda text: text.to(model.device), features, model.dtype, model.device)


def _ours(base: str, runs: PerceptionModel, model: PerceptionModel) -> Way:
    """The way of a model, which may be an optimised copy of `model`."""

    def prepare(text: Tensor) -> Any:
        text = text.to(model.device)
        if not runs.is_optimised:
            return text
        adapted = model.adapter(text)
        return PreparedText(adapted, model.backbone.read_text(adapted)).to(runs.dtype).layers

    def features(latents: Tensor, text: Any) -> tuple[Tensor, ...]:
        adapted = model.adapter(text) if isinstance(text, Tensor) else text
        return in_order(runs.backbone(None, adapted, latents=latents))

    return Way(base, runs.backbone.encode, prepare, features, runs.dtype, model.device)


def in_order(features: Features) -> tuple[Tensor, ...]:
    """Maps, finest first, then attention, finer first."""
    return (*features.maps, *(features.attention[stride] for stride in sorted(features.attention)))
