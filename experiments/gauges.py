"""How well a small diffusion model uses its text: loss without the right words, attention on named objects, samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray

from experiments.captions import the
from experiments.diffusion_training import embed_texts, noise_loss
from experiments.latents import LatentSet, encode
from experiments.measures import nearest_colour
from vpd.backbones.unet_walk import walk_unet
from vpd.demo.samples import draw_samples, embed_padded
from vpd.pretraining.pictures import to_batch
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.segmentation import SegmentationModel
from vpd.world.expressions import noun_phrase
from vpd.world.render import Rendering
from vpd.world.scenes import CLASSES, MATERIALS, OBJECT_COLOURS, SHAPES

GAP_TIMESTEPS = (100, 400, 550, 700, 850)
CHUNK = 64


@torch.no_grad()
def text_gap(
    unet: UNet2DConditionModel, encoder: TextEncoder, scheduler: DDIMScheduler, data: LatentSet, *, count: int = 512
) -> dict[int, float]:
    """How much more the noise error is with the captions of other pictures, as a share of that with the right ones.

    Args:
        unet: The network.
        encoder: Its text encoder.
        scheduler: The noise schedule.
        data: Pictures that were not trained on.
        count: How many of them.

    Returns:
        Timestep -> share; 0.1 = ten per cent more.
    """
    count = min(count, len(data))
    latents = data.latents[:count, 0].float()
    texts = [captions[0] for captions in data.captions[:count]]
    embeds = torch.cat([embed_padded(encoder, texts[start : start + CHUNK]) for start in range(0, count, CHUNK)])
    gaps = {}
    for timestep in GAP_TIMESTEPS:
        right, wrong = (
            sum(
                float(
                    noise_loss(
                        unet,
                        latents[start : start + CHUNK],
                        words[start : start + CHUNK],
                        scheduler.alphas_cumprod,
                        torch.Generator().manual_seed(timestep * 1000 + start),
                        torch.full((len(latents[start : start + CHUNK]),), timestep),
                    ).sum()
                )
                for start in range(0, count, CHUNK)
            )
            for words in (embeds, embeds.roll(1, dims=0))
        )
        gaps[timestep] = wrong / right - 1
    return gaps


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
            embeds = embed_texts(encoder, [text])
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
