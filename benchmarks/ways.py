"""The ways that are compared, made from a model: what each makes of images and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from exported_way import exported_way
from other_ways import HookedUNet, diffusers_encode, reference_encode, reference_features
from torch import Tensor
from way import HEAP, Way, check_names, in_order

from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig
from vpd.backbones.vae_walk import scale_latents
from vpd.optimising import optimise
from vpd.prompts.adapter import PreparedText
from vpd.tasks.model import PerceptionModel

_EXPORT_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


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
