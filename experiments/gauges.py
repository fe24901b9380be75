"""How well a small diffusion model uses its text: loss without the right words, attention on named objects, samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from experiments.captions import the
from experiments.diffusion_training import noise_loss
from experiments.measures import nearest_colour
from experiments.scenes import SceneSet, encode
from vpd.backbones.unet_walk import walk_unet
from vpd.demo.samples import draw_samples
from vpd.pretraining.pictures import to_batch
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.segmentation import SegmentationModel
from vpd.world.expressions import noun_phrase
from vpd.world.render import Rendering
from vpd.world.scenes import CLASSES, MATERIALS, OBJECT_COLOURS, SHAPES

GAP_TIMESTEPS = (100, 400, 550, 700, 850)
GAP_SCENES, CHUNK = 512, 64


@torch.no_grad()
def noise_errors(
    unet: UNet2DConditionModel, encoder: TextEncoder, scheduler: DDIMScheduler, latents: Tensor, tokens: Tensor
) -> dict[int, float]:
    """The weighted noise error at some timesteps; the noise is the same on all devices and for all models.

    Args:
        unet: The network.
        encoder: Its text encoder.
        scheduler: The noise schedule.
        latents: `(b, c, h, w)` of pictures that were not trained on, scaled; on the network's device.
        tokens: Of their texts, `(b, k)`.

    Returns:
        Timestep -> mean error.
    """
    errors = dict.fromkeys(GAP_TIMESTEPS, 0.0)
    for start in range(0, len(latents), CHUNK):
        part = latents[start : start + CHUNK].float()
        embeds = encoder.model(tokens[start : start + CHUNK]).last_hidden_state
        for timestep in GAP_TIMESTEPS:
            noise = torch.Generator().manual_seed(timestep * 1000 + start)
            timesteps = torch.full((len(part),), timestep)
            loss = noise_loss(unet, part, embeds, scheduler.alphas_cumprod.to(part.device), noise, timesteps)
            errors[timestep] += float(loss.sum()) / len(latents)
    return errors


def text_gap(
    unet: UNet2DConditionModel,
    encoder: TextEncoder,
    scheduler: DDIMScheduler,
    data: SceneSet,
    *,
    count: int = GAP_SCENES,
) -> tuple[dict[int, float], dict[int, float]]:
    """The noise error, and how much more it is with the captions of other pictures, as a share.

    Args:
        unet: The network.
        encoder: Its text encoder.
        scheduler: The noise schedule.
        data: Pictures that were not trained on, on the network's device.
        count: How many of them.

    Returns:
        Timestep -> error with the right long captions; timestep -> share, 0.1 = ten per cent more.
    """
    latents, tokens = data.latents[:count, 0], data.tokens[:count, 0, 0].long()
    right, wrong = (noise_errors(unet, encoder, scheduler, latents, words) for words in (tokens, tokens.roll(1, 0)))
    return right, {timestep: wrong[timestep] / right[timestep] - 1 for timestep in right}


@torch.no_grad()
def attention_ratio(
    unet: UNet2DConditionModel,
    encoder: TextEncoder,
    vae: AutoencoderKL,
    renderings: Sequence[Rendering],
    *,
    timestep: int = 1,
) -> dict[int, float]:
    """Attention to an object's noun on the object, over its mean in the picture; 1 = the words are not found.

    Each object of each picture is named by itself (`the red cube`), and the shape's token is looked at.

    Args:
        unet: The network, whole or stripped.
        encoder: Its text encoder.
        vae: Its autoencoder.
        renderings: Pictures with instances, of one size.
        timestep: At which the network is read.

    Returns:
        Level of the UNet (1 = half the latents' resolution) -> mean ratio over objects.
    """
    ratios: dict[int, list[float]] = {}
    for rendering in renderings:
        latents = encode(vae, to_batch([rendering.image]))
        for index, thing in enumerate(rendering.scene.things):
            mask = torch.from_numpy(rendering.instances == index + 1)[None, None].float()
            if not mask.any():
                continue
            text = the(noun_phrase(thing, ("colour", "shape")))
            embeds = encoder.tokens([text], length=len(encoder.tokenizer(text).input_ids))
            _, attention = walk_unet(unet, latents, timestep=timestep, text_embeds=embeds)
            for level, maps in attention.items():
                of_noun = maps[:, -2][:, None]  # the last token ends the text
                share = torch.nn.functional.adaptive_avg_pool2d(mask, (of_noun.shape[-2], of_noun.shape[-1]))
                on_object = float((of_noun * share).sum() / share.sum())
                ratios.setdefault(level, []).append(on_object / float(of_noun.mean()))
    return {level: float(np.mean(values)) for level, values in ratios.items()}


def follow_rates(segmenter: SegmentationModel, *, repeats: int = 3, batch_size: int = 32) -> dict[str, float]:
    """Share of the shipped model's samples with what the prompt asks for, as a segmenter trained on labels sees them.

    Every colour with every shape, in turn in each material, named in a caption of the kind that the model was trained
    with: *a room with ...: a large red matte cube near in the middle*.

    Args:
        segmenter: A model of the world's classes.
        repeats: Samples of each pair.
        batch_size: Samples that are made together.

    Returns:
        `colour`, `shape` and `both` -> share of the samples.
    """
    pairs = [(colour, shape) for _ in range(repeats) for colour in OBJECT_COLOURS for shape in SHAPES]
    room = "a room with a gray floor and beige walls, lit from the left"
    texts = [
        f"{room}: a large {colour} {MATERIALS[number % len(MATERIALS)]} {shape} near in the middle"
        for number, (colour, shape) in enumerate(pairs)
    ]
    found = []
    for start in range(0, len(pairs), batch_size):
        pictures = draw_samples(texts[start : start + batch_size], seed=start)
        seen = segmenter.predict(pictures, batch_size=len(pictures))
        for (colour, shape), picture, prediction in zip(pairs[start:], pictures, seen, strict=False):
            found.append(follows(colour, shape, picture, prediction.labels.numpy(), label=CLASSES.index(SHAPES[0])))
    colours, shapes = (np.array(part) for part in zip(*found, strict=True))
    return {
        "colour": float(colours.mean()),
        "shape": float(shapes.mean()),
        "both": float((colours & shapes).mean()),
    }


def follows(
    colour: str, shape: str, picture: NDArray[np.uint8], labels: NDArray[np.uint8], *, label: int
) -> tuple[bool, bool]:
    """Whether a sample has the colour and the shape that were asked for.

    Args:
        colour: What was asked for.
        shape: What was asked for.
        picture: The sample, `(H, W, 3)`.
        labels: Its classes as a segmenter trained on labels sees them, `(H, W)`.
        label: The first class that is an object's; the shapes follow in their order.

    Returns:
        Right colour (hue of the object's pixels), right shape (most frequent object class).
    """
    is_object = labels >= label
    if is_object.mean() < 0.02:
        return False, False
    counts = np.bincount(labels[is_object] - label)
    return nearest_colour(picture[is_object]) == colour, SHAPES[int(counts.argmax())] == shape
