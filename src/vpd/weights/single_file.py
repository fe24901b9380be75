"""Stable Diffusion 1.x and 2.x in a single LDM file; the architecture is read off the tensors' shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from vpd.errors import UsageError
from vpd.weights.families import REMEDY, check_text_width, foreign_file
from vpd.weights.finite import warn_not_finite
from vpd.weights.key_names import LDM_UNET, ldm_unet_names, ldm_vae_name
from vpd.weights.untrusted import read_tensor_file, tensors_only

LDM_VAE = "first_stage_model."
TOKENS = ("embeddings.token_embedding.weight", "token_embedding.weight")
"""Embeddings of words, in CLIP's text encoder and OpenCLIP's."""
_TOKENS = re.compile(r"(?:^|(?<=\.))(?:embeddings\.)?token_embedding\.weight$")
_SCALING_FACTOR = 0.18215  # of every Stable Diffusion 1.x and 2.x autoencoder

MOST_TOLD = 3
"""Of the keys that do not fit, in a message."""
Shapes = dict[str, tuple[int, ...]]
"""Of tensors, by name."""


@dataclass(frozen=True)
class SingleFile:
    """The tensors of one LDM checkpoint, by part and without prefix."""

    path: Path
    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    rest: dict[str, Tensor]
    """All others by their full names; text encoders among them."""
    foreign: str = ""
    """What the file is where it is of another family, to stand after "is"."""

    def build_unet(self) -> UNet2DConditionModel:
        """The UNet, float32; without the layers after the last feature where the file has none, as nothing uses them.

        Raises:
            UsageError: If keys are missing or unexpected, or shapes do not fit a Stable Diffusion UNet.
        """
        self.check_family()
        unet = _empty(UNet2DConditionModel, infer_unet_config(self.unet, origin=str(self.path)), self.path)
        names = ldm_unet_names(unet.state_dict())
        if "out.2.weight" not in self.unet:
            last = ("conv_norm_out.", "conv_out.")
            names = {ours: theirs for ours, theirs in names.items() if not ours.startswith(last)}
            unet.conv_norm_out = unet.conv_out = None
        warn_not_finite(self.unet, self.path, unused=r"out\.")
        return load_renamed(unet, self.unet, names, origin=str(self.path))

    @property
    def text_prefix(self) -> str | None:
        """What the names of the text encoder begin with, whatever program wrote the file; none = it has none.

        Of several the one that fits the UNet.
        """
        width = self._unet_text_width
        found = [
            (value.ndim == 2 and value.shape[1] != width, len(key), key[: match.start()])
            for key, value in self.rest.items()
            if (match := _TOKENS.search(key)) and not key.startswith("model_ema.")
        ]
        return min(found)[2] if found else None

    @property
    def is_open_clip(self) -> bool:
        """Whether the text encoder is OpenCLIP's, as in Stable Diffusion 2.x."""
        return self.text_prefix is not None and f"{self.text_prefix}token_embedding.weight" in self.rest

    @property
    def _unet_text_width(self) -> int | None:
        weight = self.unet.get("middle_block.1.transformer_blocks.0.attn2.to_k.weight")
        return weight.shape[1] if weight is not None and weight.ndim == 2 else None

    def check_family(self) -> None:
        """Raise where the file is of another family or two models; its autoencoder may be the same for all that.

        Raises:
            UsageError: Naming the family, or the two widths.
        """
        if self.foreign:
            raise UsageError(f"{self.path} is {self.foreign}. {REMEDY}")
        names = (f"{self.text_prefix}{name}" for name in TOKENS)
        tokens = next((self.rest[name] for name in names if name in self.rest), None)
        needed = self._unet_text_width
        if tokens is not None and tokens.ndim == 2 and needed is not None:
            check_text_width(tokens.shape[1], needed, self.path)

    def build_vae(self) -> AutoencoderKL:
        """The autoencoder without its decoder, float32.

        Raises:
            UsageError: If keys are missing or unexpected, or shapes do not fit.
        """
        unused = ("decoder.", "post_quant_", "loss.")
        state = {key: as_linear(key, value) for key, value in self.vae.items() if not key.startswith(unused)}
        vae = _empty(AutoencoderKL, infer_vae_config(state, origin=str(self.path)), self.path)
        vae.decoder = vae.post_quant_conv = None
        warn_not_finite(state, self.path)
        return load_renamed(vae, state, {key: ldm_vae_name(key) for key in vae.state_dict()}, origin=str(self.path))


def read_single_file(path: Path) -> SingleFile:
    """Read an LDM checkpoint (`.safetensors`, or `.ckpt` with weights only).

    Raises:
        UsageError: If it is unreadable or has no UNet or VAE in it.
    """
    contents = read_tensor_file(path)
    state = contents.get("state_dict", contents)
    if not isinstance(state, dict):
        raise UsageError(f"{path} is not a Stable Diffusion checkpoint: its `state_dict` is no dictionary.")
    tensors = tensors_only(state)
    unet, vae = with_prefix(tensors, LDM_UNET), with_prefix(tensors, LDM_VAE)
    rest = {key: value for key, value in tensors.items() if not key.startswith((LDM_UNET, LDM_VAE))}
    groups = {str(key): () for key, value in contents.items() if isinstance(value, dict)}  # as of textual inversions
    foreign = foreign_file({**shapes_of(tensors), **groups})
    single = SingleFile(path=path, unet=unet, vae=vae, rest=rest, foreign=foreign)
    if not unet or not vae:
        single.check_family()
        raise UsageError(
            f"{path} is not a Stable Diffusion checkpoint: it has no keys under {LDM_UNET} or {LDM_VAE} "
            f"(it begins with {', '.join(sorted(tensors)[:2]) or 'no tensors at all'}). "
            "A published VPD checkpoint is read by `vpd convert`."
        )
    return single


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, by the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _empty(model_class: Any, config: dict[str, Any], origin: Path) -> Any:
    """A model on the meta device: it has shapes but no weights yet."""
    try:
        with torch.device("meta"):
            return model_class.from_config(config)
    except (ValueError, RuntimeError) as error:  # such as channels that no group norm can split
        raise UsageError(f"{origin} does not have the shapes of Stable Diffusion: {error}") from None


def as_linear(key: str, value: Tensor) -> Tensor:
    """The VAE's attention has 1x1 convolutions in LDM and linear layers in diffusers; other tensors stay."""
    return value.flatten(1) if "encoder.mid.attn_1." in key and value.ndim == 4 else value


def load_renamed(
    module: nn.Module, state: dict[str, Tensor], names: dict[str, str], *, origin: str, most: int = MOST_TOLD
) -> Any:
    """Load `state` into a module that may be on the meta device, strictly, in float32; `names` are our key -> theirs.

    Raises:
        UsageError: If a key is missing or unexpected or a shape differs; `most` of them are named.
    """
    wanted = {names[ours]: value for ours, value in module.state_dict().items()}
    if problems := mismatches(shapes_of(state), shapes_of(wanted)):
        raise UsageError(f"{origin} does not fit ({len(problems)} keys):{listed(problems, most)}")
    tensors = {ours: state[theirs] for ours, theirs in names.items()}
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    module.load_state_dict(tensors, strict=True, assign=True)
    return module


def listed(problems: list[str], most: int = MOST_TOLD) -> str:
    """Some of many problems, one a line, and how many more there are."""
    more = [f"and {len(problems) - most:,} more"] * (len(problems) > most)
    return "".join(f"\n  {problem}" for problem in problems[:most] + more)


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Shape of each tensor, by name."""
    return {name: tuple(value.shape) for name, value in tensors.items()}


def mismatches(found: Shapes, wanted: Shapes) -> list[str]:
    """Every way in which weights do not fit a module: missing and unexpected keys, other shapes; empty = they fit."""
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"unexpected {name}" for name in sorted(found.keys() - wanted.keys())]
    problems += [
        f"{name} has shape {found[name]}, needs {shape}"
        for name, shape in wanted.items()
        if found.get(name, shape) != shape
    ]
    return problems


def run_length(state: dict[str, Tensor], pattern: str) -> int:
    """How many of the numbers 0, 1, 2 ... the keys have without a gap; a stray large number counts nothing."""
    numbers = {int(match[1]) for key in state if (match := re.match(pattern, key)) and len(match[1]) < 6}
    return next(number for number in range(len(numbers) + 1) if number not in numbers)


def _check_counts(levels: int, layers: int, state: dict[str, Tensor], *, origin: str) -> None:
    """Refuse a file whose keys promise more layers than it has tensors, before anything is built from it."""
    if not 0 < levels * layers <= len(state):
        raise UsageError(
            f"{origin} is no Stable Diffusion model: {levels} levels of {layers} layers in {len(state)} tensors. "
            "The file is incomplete or damaged."
        )


def infer_unet_config(state: dict[str, Tensor], *, origin: str, heads: int | None = None) -> dict[str, Any]:
    """Configuration of diffusers' UNet, from the shapes of LDM's tensors.

    The shapes do not tell the attention heads of a layer: `heads`, or 8, or 64 channels a head where the text is 1024
    wide.

    Raises:
        UsageError: If the keys are not those of a Stable Diffusion UNet.
    """
    try:
        blocks = range(1, run_length(state, r"input_blocks\.(\d+)\."))
        ends = [block for block in blocks if f"input_blocks.{block}.0.op.weight" in state]
        layers = ends[0] - 1 if ends else len(blocks)
        firsts = [1] + [end + 1 for end in ends]
        _check_counts(len(firsts), layers, state, origin=origin)
        channels = [state[f"input_blocks.{first}.0.out_layers.3.weight"].shape[0] for first in firsts]
        with_attention = [f"input_blocks.{first}.1.norm.weight" in state for first in firsts]
        text_dim = state["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
        linear = state["middle_block.1.proj_in.weight"].ndim == 2
        in_channels = state["input_blocks.0.0.weight"].shape[1]
        out_channels = state["out.2.weight"].shape[0] if "out.2.weight" in state else in_channels
    except KeyError as error:
        raise UsageError(f"{origin} has no Stable Diffusion UNet in it: {error} is missing.") from None
    except IndexError:
        raise UsageError(f"{origin} has no Stable Diffusion UNet in it: its tensors have too few dimensions.") from None
    usual = [max(1, width // 64) if text_dim == 1024 else 8 for width in channels]
    num_heads = usual if heads is None else [heads] * len(channels)
    for width, count in zip(channels, num_heads, strict=True):
        if count < 1 or width < 1 or width % count:
            raise UsageError(f"{origin}: {width} channels cannot be split into {count} heads; give another --heads.")
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in with_attention],
        "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(with_attention)],
        "cross_attention_dim": text_dim,
        "attention_head_dim": num_heads,  # diffusers' name for the number of heads
        "use_linear_projection": linear,
        "upcast_attention": text_dim == 1024,
        "sample_size": 64,
    }


def infer_vae_config(state: dict[str, Tensor], *, origin: str) -> dict[str, Any]:
    """Configuration of diffusers' autoencoder, from the shapes of LDM's tensors.

    Raises:
        UsageError: If the keys are not those of a Stable Diffusion autoencoder.
    """
    try:
        levels = run_length(state, r"encoder\.down\.(\d+)\.")
        layers = run_length(state, r"encoder\.down\.0\.block\.(\d+)\.")
        _check_counts(levels, layers, state, origin=origin)
        channels = [state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in range(levels)]
        latent_channels = state["encoder.conv_out.weight"].shape[0] // 2
    except KeyError as error:
        raise UsageError(f"{origin} has no Stable Diffusion autoencoder in it: {error} is missing.") from None
    except IndexError:
        raise UsageError(
            f"{origin} has no Stable Diffusion autoencoder in it: its tensors have too few dimensions."
        ) from None
    return {
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": channels,
        "layers_per_block": layers,
        "latent_channels": latent_channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": _SCALING_FACTOR,
        "sample_size": 512,
    }
