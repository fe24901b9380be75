"""A tiny autoencoder of the Stable Diffusion family: what it is, what it is trained for, how it is kept."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from vpd.files.atomic import atomic_write, write_json
from vpd.weights.shipped import FOLDER

SHIPPED = FOLDER / "vae"
"""The autoencoder that comes with the package."""
CHROMA_WEIGHT = 2.0
"""Without it, four latent channels drop the difference between red and green of one brightness."""
KL_WEIGHT = 1e-5
"""Only keeps latents from running away; the squared error decides."""
START_LOG_VARIANCE = -6.0
"""Of a latent's noise; fresh weights would begin with noise seven times the signal, and learn to undo that first."""
RGB_TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
"""ITU-R BT.601, full range."""


def build_autoencoder(
    channels: tuple[int, ...] = (32, 64, 64), *, latent_channels: int = 4, seed: int = 0
) -> AutoencoderKL:
    """A small `AutoencoderKL` with random weights; each level after the first halves the resolution.

    Stride 4, not Stable Diffusion's 8, is the default: at 128 pixels four numbers for 4x4 pixels keep shapes
    and colours, four for 8x8 do not (best linear code: 26.0 against 22.6 dB). There is no attention in the
    middle, so its cost grows with the picture's area and not with the square of it.

    Args:
        channels: Width of each level, finest first, multiples of 8.
        latent_channels: Channels of the latents.
        seed: Of the random weights; the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=channels,
            layers_per_block=1,
            latent_channels=latent_channels,
            norm_num_groups=8,
            sample_size=128,
            mid_block_add_attention=False,
        )
    with torch.no_grad():
        vae.quant_conv.weight[latent_channels:] = 0
        vae.quant_conv.bias[latent_channels:] = START_LOG_VARIANCE
    return vae


def load_autoencoder(folder: str | Path | None = None) -> AutoencoderKL:
    """An autoencoder in diffusers layout, float32, ready to use; the shipped one by default.

    Args:
        folder: A `vae` folder.

    Raises:
        FileNotFoundError: If the folder holds no autoencoder.
    """
    folder = SHIPPED if folder is None else Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json: it is not the vae folder of a diffusion model.")
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True).eval()


def save_autoencoder(vae: AutoencoderKL, folder: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write `config.json` and `diffusion_pytorch_model.safetensors`, as diffusers reads them.

    Args:
        vae: The autoencoder; `vae.config.scaling_factor` should be measured.
        folder: Folder to write into; made if missing.
        dtype: Type of the stored numbers.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(dtype).contiguous() for name, tensor in vae.state_dict().items()}
    with atomic_write(folder / "diffusion_pytorch_model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    config: dict[str, Any] = json.loads(vae.to_json_string())
    write_json(folder / "config.json", {key: value for key, value in config.items() if key != "_name_or_path"})


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Absolute, squared and gradient error in YCbCr with weighted chroma.

    Args:
        decoded: `(b, 3, H, W)`, RGB in [-1, 1].
        images: The same, the truth.

    Returns:
        Scalar.
    """
    error = torch.einsum("dc,bchw->bdhw", decoded.new_tensor(RGB_TO_YCBCR), decoded - images)
    weights = decoded.new_tensor([1.0, CHROMA_WEIGHT, CHROMA_WEIGHT])[:, None, None]
    gradients = (weights * error.diff(dim=-1).abs()).mean() + (weights * error.diff(dim=-2).abs()).mean()
    return (weights * (error.abs() + 4 * error.square())).mean() + 0.5 * gradients


def autoencoder_loss(vae: AutoencoderKL, images: Tensor, noise: torch.Generator) -> Tensor:
    """Training loss: reconstruction from a sampled latent, and a tiny pull towards the unit normal.

    Args:
        vae: The autoencoder.
        images: `(b, 3, H, W)`, RGB in [-1, 1].
        noise: Draws the latent's noise.
    """
    posterior = vae.encode(images).latent_dist
    mean, std = posterior.mean.float(), posterior.std.float()
    latents = mean + std * torch.randn(mean.shape, generator=noise).to(mean.device)
    decoded = vae.decode(latents).sample.float()
    kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.clamp_min(1e-6).log()).mean()
    return reconstruction_loss(decoded, images) + KL_WEIGHT * kl


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, batches: Iterable[Tensor]) -> None:
    """Give every latent channel mean 0 and deviation 1 on these images; pictures come out as before.

    The change of scale goes into the two 1x1 convolutions around the latents, one the inverse of the other.

    Args:
        vae: The autoencoder; changed in place.
        batches: Images `(b, 3, H, W)`, RGB in [-1, 1], each batch of any size.
    """
    values = torch.cat([posterior_mode(vae, images).movedim(1, 0).flatten(1) for images in batches], dim=1).double()
    mean, std = values.mean(dim=1).float(), values.std(dim=1).float()
    channels = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:channels] /= std[:, None, None, None]
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()  # log variance of the noise
    after.bias += after.weight[:, :, 0, 0] @ mean
    after.weight *= std[:, None, None]


@torch.no_grad()
def measured_scaling(vae: AutoencoderKL, batches: Iterable[Tensor]) -> float:
    """Factor that gives the latents of these images unit standard deviation.

    Args:
        vae: The autoencoder.
        batches: Images `(b, 3, H, W)`, RGB in [-1, 1], each batch of any size.
    """
    values = torch.cat([posterior_mode(vae, images).flatten() for images in batches])
    return 1.0 / float(values.std())


def posterior_mode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Latents without noise, not scaled."""
    return vae.encode(images).latent_dist.mode().float()


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Encode and decode without noise; `(b, 3, H, W)` in [-1, 1] to the same."""
    return vae.decode(posterior_mode(vae, images)).sample.float().clamp(-1, 1)
