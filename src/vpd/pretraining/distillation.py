"""What a small encoder learns from pictures: the latents that a VAE makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor, nn

from vpd.backbones.tiny_encoder import TinyEncoder
from vpd.backbones.vae_walk import encode_mode, scale_latents
from vpd.inference.cache import FrozenCaches
from vpd.model_folder import WEIGHTS_FILE
from vpd.tasks.losses import LossSum
from vpd.tensors import Batch
from vpd.training.config import DataSettings, ScheduleSettings, TrainConfig

PIXELS_PER_STEP = 2 * 128 * 128
"""Of the pictures of a step together, but one picture at least."""


class Distillation(nn.Module):
    """A small encoder that learns to make a VAE's latents; what the training loop needs of a model.

    Args:
        encoder: Whom to train.
        wanted: Images `(b, 3, H, W)` in [-1, 1] -> the latents that are wanted of them, without gradient. Neither
            trained nor saved with the encoder.
    """

    score: ClassVar[str] = ""
    """None: it is not measured on the way."""
    score_is_error: ClassVar[bool] = True

    def __init__(self, encoder: TinyEncoder, wanted: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.backbone = encoder
        self._wanted = wanted

    def loss_sum(self, batch: Batch, *, caches: FrozenCaches | None = None) -> LossSum:
        """Squared error of the latents, and their square as its weight: a loss of 1 is as far off as zeros."""
        with torch.autocast(batch.images.device.type, enabled=False):  # the teacher is not to be rounded
            wanted = self._wanted(batch.images)
        return (self.backbone(batch.images).float() - wanted).square().sum(), wanted.square().sum()

    def save(self, folder: Path) -> None:
        """Write the weights for a checkpoint."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS_FILE)


def distillation_config(
    *, model: str, images: str, size_px: int, steps: int, seed: int, workers: int, use_bf16: bool
) -> TrainConfig:
    """How a small encoder is trained; arguments as for `pretrain_encoder`.

    Muon halves the error that AdamW leaves after as many steps. The rate is right for a network without norms.
    """
    return TrainConfig(
        task="encoder",  # none of perception
        model=model,
        data=DataSettings(root=images),
        crop_px=size_px,
        steps=steps,
        batch_size=max(1, PIXELS_PER_STEP // size_px**2),
        optimiser="muon",
        learning_rate=1e-3,
        unet_lr_scale=1.0,
        weight_decay=0.01,
        schedule=ScheduleSettings(warmup_steps=min(50, steps // 2)),
        clip_norm=1.0,
        precision="bf16" if use_bf16 else "no",
        channels_last=True,
        seed=seed,
        workers=workers,
        log_every=50,
        checkpoint_every=50,
        keep=1,
        trackers=(),
        max_bad_share=1.0,  # what cannot be read is named, and left out
    )


@torch.no_grad()
def wanted_latents(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """The mode of the VAE's latents times its factor, float32."""
    return scale_latents(vae, encode_mode(vae, images).float())


@torch.no_grad()
def latent_error(encoder: TinyEncoder, vae: AutoencoderKL, pictures: Iterable[Tensor]) -> float | None:
    """Relative L2 error of a small encoder's latents over all pictures; 1 = as far off as zeros.

    Args:
        encoder: In eval mode.
        vae: Whose latents are wanted.
        pictures: Each `(b, 3, H, W)` in [-1, 1].

    Returns:
        The error; none where there is no picture.
    """
    error, square = torch.zeros(()), torch.zeros(())
    for images in pictures:
        wanted = wanted_latents(vae, images)
        error += (encoder(images) - wanted).square().sum()
        square += wanted.square().sum()
    return float(error.sqrt() / square.sqrt()) if square else None
