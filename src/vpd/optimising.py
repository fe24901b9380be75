"""A model made ready for fast prediction: constants folded, weights in the type and order the processor likes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from vpd.backbones.packed_layers import can_pack, pack_layers
from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.backbones.tiny_encoder import TinyEncoder, load_tiny_encoder
from vpd.backbones.unet_walk import fold_timestep, pack_feed_forward
from vpd.errors import UsageError
from vpd.inference.cuda_recorder import graphs_on
from vpd.loading import assign_weights, build_model, find_dtype, has_fast_bf16
from vpd.prompts.adapter import PreparedText
from vpd.tasks.model import PerceptionModel

Model = TypeVar("Model", bound=PerceptionModel)
CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
_MODES = ("default", "reduce-overhead", "max-autotune")


@torch.no_grad()
def optimise(
    model: Model,
    *,
    dtype: str | torch.dtype = "auto",
    encoder: str | Path | TinyEncoder | None = None,
    merge_above: int | None = None,
    compile_mode: CompileMode | None = None,
    graphs: bool = True,
) -> Model:
    """A copy of a model that predicts the same, faster; it can neither be trained nor saved.

    Exact but for rounding (features within 1e-5 of the model's in float32): low-rank layers are merged; what the
    constant timestep gives is added to biases; a segmentation model's own prompts go once through adapter and
    key/value projections. Not exact: bfloat16, features within 4e-2; with it maps lie in channels-last order, and on
    a CPU weights in the order that its kernels read, neither of which gains anything in float32.

    Args:
        model: Of any task; it is not changed and shares nothing with the copy. The copy is for the device that
            the model is on.
        dtype: `auto` = bfloat16 where the processor computes in it, else the model's own; or as for `vpd.load`.
        encoder: Encode by this small encoder in the VAE's place: a folder that `vpd pretrain encoder` wrote, or
            a folder or hub id of diffusers' `AutoencoderTiny`, such as `madebyollin/taesd`, made for this very VAE.
            Not exact at all: docs/performance.md has the price.
        merge_above: In self-attention over more positions than this, keys and values of 2x2 neighbours become one, the
            mean, and queries stay; 4096 leaves pictures up to 512x512 as they are with Stable Diffusion. Not exact.
        compile_mode: Let `torch.compile` make kernels for encoder and UNet, each as a whole, in this mode of its. For
            GPUs, and few sizes: it takes minutes at the first image of each size, and after torch's limit of 8 sizes
            and batch sizes in a process others run without.
        graphs: On a GPU, record what the network launches at the second call of a shape, and replay it from then on:
            the same kernels without Python between them. All recordings hold at most a quarter of the memory that was
            free at the first. Does nothing with the modes `reduce-overhead` and `max-autotune`, which record graphs
            of their own. Not measured. See `vpd.inference.graphs`.

    Raises:
        UsageError: If the model was optimised already, an option is unknown or not to be had here, or the encoder
            cannot be read or makes latents of another form than the model's VAE.
    """
    found = found_options(
        model, dtype=dtype, encoder=encoder, merge_above=merge_above, compile_mode=compile_mode, graphs=graphs
    )
    target = found["dtype"]
    small = copy.deepcopy(found["encoder"]) if isinstance(encoder, TinyEncoder) else found["encoder"]
    fast: Any = _copy_of(model)
    fast.merge_lora()
    backbone = fast.backbone
    if small is not None:
        backbone.use_small_encoder(small.to(model.device).requires_grad_(False))
    backbone.merge_above = merge_above
    fold_timestep(backbone.unet, backbone.config.timestep)
    prepared = None
    if (own := fast.constant_prompts()) is not None:
        adapted = fast.adapter(own)
        prepared = PreparedText(adapted, backbone.read_text(adapted)).to(target)
    is_half = target in (torch.bfloat16, torch.float16)
    fast.to(dtype=target, memory_format=torch.channels_last if is_half else torch.preserve_format)
    fast.prepared_text = prepared  # only now: keys are four-dimensional too, but no maps
    _unshare(fast, model)
    if model.text_encoder is not None:
        fast.text_encoder = copy.deepcopy(model.text_encoder)  # as precise as it was: a small part of the time
    fast.is_optimised = True
    fast.is_of_one_thread = compile_mode in ("reduce-overhead", "max-autotune")
    if compile_mode is not None:
        backbone.compile_parts(mode=compile_mode)
    elif model.device.type == "cpu" and target == torch.bfloat16 and can_pack():
        pack_feed_forward(backbone.unet)
        for part in (backbone.unet, small or backbone.vae, fast.head):
            pack_layers(part)
    if graphs and not fast.is_of_one_thread:  # those modes record graphs of their own
        fast.graphs = graphs_on(model.device)
    return fast


def found_options(
    model: PerceptionModel,
    *,
    dtype: str | torch.dtype = "auto",
    encoder: str | Path | TinyEncoder | None = None,
    merge_above: int | None = None,
    compile_mode: str | None = None,
    graphs: bool = True,
) -> dict[str, Any]:
    """Options of `vpd.optimise`, with the type and the encoder that they name; all may be given to it again.

    Raises:
        UsageError: As `vpd.optimise` would.
    """
    if not isinstance(model.backbone, StableDiffusionBackbone):
        raise UsageError(
            f"vpd.optimise knows Stable Diffusion's UNet, and this backbone is a {type(model.backbone).__name__}."
        )
    if model.is_optimised:
        raise UsageError("This model was made by vpd.optimise already. Give it the model that it was made from.")
    if compile_mode not in (None, *_MODES):
        raise UsageError(f"Unknown compile mode {compile_mode!r}. Choose one of: {', '.join(_MODES)}.")
    if merge_above is not None and (not isinstance(merge_above, int) or merge_above < 1):
        raise UsageError(f"merge_above={merge_above!r}: give a number of positions, 1 or more.")
    target = fast_dtype(model.device, model.dtype) if dtype == "auto" else find_dtype(dtype)
    if encoder is not None:
        encoder = encoder if isinstance(encoder, TinyEncoder) else load_tiny_encoder(encoder)
        channels = model.backbone.vae.config.latent_channels
        encoder.check_fit(latent_stride=model.backbone.latent_stride, latent_channels=channels)
    options = {"merge_above": merge_above, "compile_mode": compile_mode, "graphs": graphs}
    return {"dtype": target, "encoder": encoder, **options}


def fast_dtype(device: torch.device, fallback: torch.dtype = torch.float32) -> torch.dtype:
    """The fastest type in which predictions stay what they are: bfloat16 where a device computes in it, or `fallback`.

    Float16 is none: on CPUs it is slow, and Stable Diffusion 2.1 overflows in it.

    Args:
        device: Where the model runs.
        fallback: The type where there is no bfloat16.
    """
    return torch.bfloat16 if has_fast_bf16(device) else fallback


def _copy_of(model: PerceptionModel) -> PerceptionModel:
    """The same network in eval mode, with the same tensors for weights, and without text encoder; nothing trains."""
    twin: PerceptionModel = build_model(model.config, type(model))
    tensors = {key: value for key, value in model.state_dict().items() if not key.startswith("text_encoder.")}
    if model.config.backbone.lora is not None:  # merging them writes into weights
        tensors = {key: value.clone() for key, value in tensors.items()}
    assign_weights(twin, tensors)
    twin.backbone.config = model.backbone.config
    return twin.eval().requires_grad_(False)


def _unshare(fast: PerceptionModel, model: PerceptionModel) -> None:
    """Copy what is still the same memory: converting has copied the rest, tensor by tensor."""
    shared = {value.untyped_storage().data_ptr() for value in model.state_dict().values()}
    for tensor in (*fast.parameters(), *fast.buffers()):
        if tensor.untyped_storage().data_ptr() in shared:
            tensor.data = tensor.data.clone()
