"""TAESD's encoder in the place of the VAE's: how it runs, and how diffusers' `AutoencoderTiny` folders are read.

The only file that knows diffusers' `AutoencoderTiny`. Its decoder is never built: it is not needed, and may be missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from diffusers import __version__ as diffusers_version
from diffusers.models.autoencoders.vae import EncoderTiny
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from pydantic import BaseModel, Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vpd.errors import UsageError, first_line, wrong_fields
from vpd.files.atomic import atomic_write, read_json, write_json
from vpd.weights.finite import not_finite, told_not_finite
from vpd.weights.folder_files import encoder_files
from vpd.weights.hub import download, is_hub_id
from vpd.weights.single_file import listed, mismatches
from vpd.weights.untrusted import plain_name, read_shapes

CLASS_NAME = "AutoencoderTiny"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "diffusion_pytorch_model.safetensors"
_HOW_TO_MAKE = "Make one for this model's VAE: vpd pretrain encoder --images DIR --model MODEL --out DIR"

_TYPES = ("F64", "F32", "F16", "BF16")

_Width = Annotated[int, Field(ge=1, le=1024)]
_Blocks = Annotated[int, Field(ge=0, le=16)]


class TinyEncoderConfig(BaseModel, extra="ignore", frozen=True, use_attribute_docstrings=True):
    """What of an `AutoencoderTiny`'s configuration its encoder depends on, within bounds: it is somebody's file."""

    in_channels: Literal[3] = 3
    """Of the pictures."""
    latent_channels: Annotated[int, Field(ge=1, le=64)] = 4
    """Of what it makes."""
    encoder_block_out_channels: Annotated[tuple[_Width, ...], Field(min_length=1, max_length=8)] = (64,) * 4
    """Width of each level, finest first, all the same; each after the first halves the resolution."""
    num_encoder_blocks: tuple[_Blocks, ...] = (1, 3, 3, 3)
    """Residual blocks of each level."""
    act_fn: Literal["relu"] = "relu"
    """Activation: that of every published one."""
    scaling_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Times what the encoder makes = latents as the UNet was pre-trained with; 1, as TAESD makes just these."""
    shift_factor: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Subtracted first."""

    @model_validator(mode="after")
    def _check_levels(self) -> TinyEncoderConfig:
        if len(self.num_encoder_blocks) != len(self.encoder_block_out_channels):
            raise ValueError("num_encoder_blocks and encoder_block_out_channels must be of one length")
        if len(set(self.encoder_block_out_channels)) > 1:
            raise ValueError("encoder_block_out_channels must all be the same")
        return self

    @classmethod
    def for_vae(cls, *, latent_stride: int, latent_channels: int) -> TinyEncoderConfig:
        """TAESD's architecture for a VAE's latents: at stride 8 as published, with a level less at stride 4."""
        levels = latent_stride.bit_length()
        return cls(
            latent_channels=latent_channels,
            encoder_block_out_channels=(64,) * levels,
            num_encoder_blocks=(1, *(3,) * (levels - 1)),
        )

    @property
    def latent_stride(self) -> int:
        """Image pixels to one latent."""
        return int(2 ** (len(self.encoder_block_out_channels) - 1))


class TinyEncoder(nn.Module):
    """Pictures -> latents times the VAE's factor, by 3x3 convolutions alone; nine times fewer operations than SD's.

    Shape:
        `(b, 3, H, W)` in [-1, 1], sides multiples of the latent stride -> `(b, latent_channels, h, w)`.

    Source: TAESD, Ollin Boer Bohan 2023 (https://github.com/madebyollin/taesd).
    """

    def __init__(self, config: TinyEncoderConfig) -> None:
        super().__init__()
        self.config = config
        depths, widths = config.num_encoder_blocks, config.encoder_block_out_channels
        self.encoder = EncoderTiny(config.in_channels, config.latent_channels, depths, widths, config.act_fn)

    def forward(self, images: Tensor) -> Tensor:
        """Latents of images; see the class for shapes."""
        hidden = images.add(1).div(2)
        for layer in self.encoder.layers:
            hidden = _residual_block(layer, hidden) if type(layer) is AutoencoderTinyBlock else layer(hidden)
        return (hidden - self.config.shift_factor) * self.config.scaling_factor

    def check_fit(self, *, latent_stride: int, latent_channels: int) -> None:
        """Make sure that it makes latents of a VAE's form.

        Raises:
            UsageError: If stride or channels are others.
        """
        own, wanted = (self.config.latent_stride, self.config.latent_channels), (latent_stride, latent_channels)
        if own != wanted:
            raise UsageError(
                f"The small encoder makes latents of stride {own[0]} with {own[1]} channels; the model needs stride "
                f"{wanted[0]} with {wanted[1]}. {_HOW_TO_MAKE}"
            )


def _residual_block(block: Any, hidden: Tensor) -> Tensor:
    """`block(hidden)`; without gradient the same bits in fewer passes over memory."""
    can_overwrite = not torch.is_grad_enabled()
    first, _, second, _, third = block.conv
    inner = F.relu(first(hidden), inplace=can_overwrite)
    inner = F.relu(second(inner), inplace=can_overwrite)
    inner, skipped = third(inner), block.skip(hidden)
    return F.relu(inner.add_(skipped) if can_overwrite else inner + skipped, inplace=can_overwrite)


def load_tiny_encoder(source: str | Path) -> TinyEncoder:
    """The encoder of an `AutoencoderTiny` in diffusers layout, in float32 and eval mode.

    Args:
        source: A folder that `vpd pretrain encoder` or diffusers wrote, or a hub id such as `madebyollin/taesd`.

    Raises:
        UsageError: If there is none, or its files are of something else, damaged, or do not fit one another.
    """
    folder = _find_folder(source)
    config = _read_config(folder / CONFIG_FILE)
    with torch.device("meta"):
        encoder = TinyEncoder(config)
    encoder.load_state_dict(_read_weights(folder / WEIGHTS_FILE, encoder.state_dict()), assign=True)
    return encoder.eval().requires_grad_(False)


def save_tiny_encoder(encoder: TinyEncoder, folder: str | Path) -> None:
    """Write a folder that `load_tiny_encoder` reads, and diffusers' `AutoencoderTiny` with a random decoder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    with atomic_write(folder / WEIGHTS_FILE) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    config: dict[str, Any] = {"_class_name": CLASS_NAME, "_diffusers_version": diffusers_version}
    config |= encoder.config.model_dump(mode="json")
    config["decoder_block_out_channels"] = config["encoder_block_out_channels"]
    config["num_decoder_blocks"] = config["num_encoder_blocks"][::-1]
    write_json(folder / CONFIG_FILE, config)


def _find_folder(source: str | Path) -> Path:
    if not str(source).strip():
        raise UsageError(f"The small encoder has no name. Give a folder, or a hub id. {_HOW_TO_MAKE}")
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UsageError(f"{path} is a file; a small encoder is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}.")
    if not is_hub_id(source):
        raise UsageError(
            f"There is no small encoder {source}. Give a folder, or a hub id such as madebyollin/taesd. {_HOW_TO_MAKE}"
        )
    return download(str(source), encoder_files)


def _read_config(path: Path) -> TinyEncoderConfig:
    if not path.is_file():
        raise UsageError(f"{path.parent} has no {CONFIG_FILE}: it is not the folder of an {CLASS_NAME}. {_HOW_TO_MAKE}")
    contents = read_json(path)
    kind = contents.get("_class_name") if isinstance(contents, dict) else None
    if kind != CLASS_NAME:
        raise UsageError(
            f"{path} is of {'something else' if kind is None else repr(kind)[:80]}, not of an {CLASS_NAME}, whose "
            f"encoder is the small one. {_HOW_TO_MAKE}"
        )
    try:
        return TinyEncoderConfig.model_validate(contents)
    except ValidationError as error:
        wrong = "; ".join(map(str, wrong_fields(error)[:5]))
        raise UsageError(f"{path} is not of an encoder that can be used here: {wrong}") from None


def _read_weights(path: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's tensors, in float32; those of a decoder are not read."""
    if not path.is_file() and any(path.parent.glob("*.bin")):
        raise UsageError(
            f"{path.parent} has pickled weights only (.bin), which are not read as they can run code. Convert them to "
            "safetensors where you trust them."
        )
    header = {name: entry for name, entry in read_shapes(path).items() if name.startswith("encoder.")}
    shapes = {name: shape for name, (_, shape) in header.items()}
    problems = mismatches(shapes, {name: tuple(value.shape) for name, value in expected.items()})
    problems += [
        f"{name} is of type {header[name][0]}, needs one of {', '.join(_TYPES)}"
        for name in expected
        if name in header and header[name][0] not in _TYPES
    ]
    if problems:
        told = listed(problems, 20)
        raise UsageError(f"{path} does not fit its {CONFIG_FILE} ({len(problems)} keys); copy it again:{told}")
    try:
        with safe_open(path, "pt") as file:
            stored = {plain_name(name): name for name in file.keys()}  # noqa: SIM118, it is no dictionary
            tensors = {
                name: cast(Tensor, file.get_tensor(stored[name])).to(torch.float32, copy=True) for name in expected
            }
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged ({first_line(error)}). Copy it again.") from None
    if bad := not_finite(tensors):
        raise UsageError(told_not_finite(bad, len(tensors), path))
    return tensors
