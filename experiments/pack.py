"""Pack an adapted model of the world as the shipped ones are: float16, without what it shares with `world`.

    python experiments/pack.py RUN/model --out FOLDER --kilobytes 85 --made-by "vpd train segment ..."

What training changed in the matrices of the UNet is cut to the directions that matter most, so many that they take
`--kilobytes`: less than LoRA was trained with, for what the model card says that it costs.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.loading import load
from vpd.tasks.model import PerceptionModel
from vpd.tasks.segmentation import SegmentationModel
from vpd.weights.shipped import LICENCE, WORLD
from vpd.world.scenes import CLASSES

BYTES = 2
"""Of a stored value."""


@torch.no_grad()
def cut(model: PerceptionModel, values: int) -> None:
    """Cut what training changed in the UNet's matrices to so many values of low-rank factors, in place.

    Directions are kept in the order of their share of all squared changes for each value that they take: at 172 kB of
    690 this cost `world-refer` 1.6 points of oIoU where the same rank for all matrices cost 4.7 (80 scenes of the val
    split).
    """
    base = StableDiffusionBackbone.from_pretrained(WORLD).state_dict()
    changes = {name: weight - base[name] for name, weight in model.backbone.named_parameters() if weight.ndim == 2}
    parts = {name: torch.linalg.svd(change, full_matrices=False) for name, change in changes.items() if change.any()}
    directions = [
        (float(strength) ** 2 / sum(changes[name].shape), name)
        for name, (_, strengths, _) in parts.items()
        for strength in strengths
    ]
    ranks: Counter[str] = Counter()  # a matrix's directions come in falling order
    for _, name in sorted(directions, reverse=True):
        if (size := sum(changes[name].shape)) <= values:
            ranks[name] += 1
            values -= size
    for name, (left, strengths, right) in parts.items():
        rank = ranks[name]
        model.backbone.get_parameter(name).copy_(base[name] + (left[:, :rank] * strengths[:rank]) @ right[:rank])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--kilobytes", type=int, required=True)
    parser.add_argument("--made-by", required=True, help="the command, for the model's notes")
    given = parser.parse_args(arguments)
    model = load(given.model, device="cpu")
    model.merge_lora()  # of a checkpoint
    if isinstance(model, SegmentationModel) and model.config.overlap:
        model = model.with_classes(CLASSES)  # instead of those of its last batch
    cut(model, given.kilobytes * 1000 // BYTES)
    notes = {
        "made by": f"{given.made_by}, then experiments/pack.py --kilobytes {given.kilobytes}",
        "card": "README.md beside the weights",
        "training": model.config.notes.get("training"),  # not what was measured before the cut
    }
    model.config = model.config.model_copy(update={"notes": notes, "licence": LICENCE})
    model.save(given.out, base=WORLD, half=True)


if __name__ == "__main__":
    main()
