"""A training step in the reference's way and in ours, for referring segmentation, each in a process of its own.

    python benchmarks/training_ways.py                                          # tiny: does it run
    python benchmarks/training_ways.py --size sd15 --px 512 --optimiser sgd     # Stable Diffusion 1.5's size

Prints a line of JSON for each way, then a table with ratios to the first. Weights and pictures are random, and
expressions are embedded already. The reference's way is restated (`other_ways.py`): float32, every attention
matrix, every block of the UNet through checkpointing, its autoencoder; head, loss and step are ours. Time is CPU time
of all threads, and wall time on a GPU. `--optimiser sgd` has no state: the passes cost the same in less memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import torch
from other_ways import reference_encode, reference_features
from random_models import random_config
from step_costs import PARTS, each_in_a_process, measure_steps
from torch import Tensor

from vpd.bench.measuring import with_random_weights
from vpd.config import LoraSettings
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.tasks.referring import ReferringModel
from vpd.tensors import Batch, Features, Text
from vpd.training.settings import resolve_config

BF16 = {"precision": "bf16", "channels_last": True}
WAYS: dict[str, dict[str, Any]] = {
    "reference": {},
    "float32, checkpointing": {"gradient_checkpointing": True},
    "bf16, checkpointing": {**BF16, "gradient_checkpointing": True},
    "bf16, checkpointing, NCHW": {"precision": "bf16", "gradient_checkpointing": True},
    "bf16": BF16,
    "bf16, LoRA": {**BF16, "mode": "lora"},
    "bf16, cached latents": {**BF16, "cache_mb": 64},
}
"""Name of each way and the settings of its training."""


class OwnWay(ReferringModel):
    """Referring segmentation whose expressions are embedded already."""

    def encode_texts(self, texts: list[str], caches: FrozenCaches | None = None) -> Tensor:
        """The same random tokens for each."""
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randn(1, self.config.token_length, self.backbone.text_dim, generator=generator)
        return tokens.expand(len(texts), -1, -1).to(self.device)


class ReferenceWay(OwnWay):
    """The same with features as the reference computes them."""

    def _features(self, images: Tensor, adapted: Text, caches: FrozenCaches | None = None) -> Features:
        backbone = self.backbone
        with torch.no_grad():
            latents = reference_encode(backbone.vae, images)
        maps, attention = reference_features(backbone.unet, latents, adapted, timestep=backbone.config.timestep)
        return Features(maps, backbone.strides, dict(zip(backbone.attention_strides, attention, strict=True)))


def measure(way: str, given: argparse.Namespace) -> dict[str, Any]:
    """Steps of one way, in this process."""
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    settings = {"model": "random", "data": {"root": "random"}, "crop_px": given.px, "batch_size": given.batch}
    config = resolve_config("refer", settings, {"epochs": None, "steps": 9, "optimiser": given.optimiser}, WAYS[way])
    kind = ReferenceWay if way == "reference" else OwnWay
    wanted = random_config("refer", given.size)
    backbone = wanted.backbone.model_copy(update={"latent_scaling": "none"})  # as published
    model: Any = with_random_weights(wanted.model_copy(update={"backbone": backbone}), kind)
    if config.mode == "lora":
        model.add_lora(LoraSettings())
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        images=torch.rand(given.batch, 3, given.px, given.px, generator=generator) * 2 - 1,
        names=["random"] * given.batch,
        masks=torch.randint(2, (given.batch, given.px, given.px), generator=generator),
        texts=["random"] * given.batch,
    )
    caches = FrozenCaches(latents=TensorCache(config.cache_mb * 2**20)) if config.cache_mb else None
    return {"way": way, **measure_steps(model, config, batch, steps=given.steps, caches=caches)}


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as Markdown, with ratios to the first."""
    lines = [
        "| way | forward, s | backward, s | both | ratio | optimiser, s | peak over weights, MiB | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        forward, backward, optimiser = (run["seconds"][part] for part in PARTS)
        first = runs[0]["seconds"]
        lines.append(
            f"| {run['way']} | {forward:.2f} | {backward:.2f} | {forward + backward:.2f} "
            f"| {(forward + backward) / (first['forward'] + first['backward']):.2f} | {optimiser:.2f} "
            f"| {run['peak_mib']:.0f} | {run['peak_mib'] / runs[0]['peak_mib']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "sd15"], default="tiny")
    parser.add_argument("--px", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed, after one that is not")
    parser.add_argument("--optimiser", choices=["adamw", "adamw_8bit", "sgd"], default="adamw")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS), metavar="WAY", help="; ".join(WAYS))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.only, given)))
        return
    print(table(each_in_a_process(__file__, [[way] for way in given.ways], sys.argv[1:])))


if __name__ == "__main__":
    main()
