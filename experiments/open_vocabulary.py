"""Train and measure a model of the world whose classes are given in words: how `world-open` was made.

python experiments/open_vocabulary.py train --out RUN          # again after an interruption: with --resume
python experiments/open_vocabulary.py measure RUN/model --out FILE.json
python experiments/pack.py RUN/model --out FOLDER ...
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run by its path, `experiments` is found by this
from experiments.open_measures import measure_words
from experiments.open_words import MOST_PROMPTS, SEPARATOR, WordedScenes, truth_of_prompts
from vpd.config import Recipe
from vpd.data.geometric import RandomFlip
from vpd.data.sample import SampleSet
from vpd.data.transforms import Pipeline
from vpd.files.atomic import write_json
from vpd.heads.open_vocabulary import OpenVocabularyHead
from vpd.inference.cache import FrozenCaches
from vpd.loading import load
from vpd.prompts.names import embed_names
from vpd.tasks.loss_settings import PLAIN, LossSettings
from vpd.tasks.losses import LossSum, overlapping_loss_sum
from vpd.tasks.segmentation import SegmentationModel
from vpd.tensors import IGNORE_LABEL, Batch
from vpd.training.run import train
from vpd.weights.shipped import LICENCE, WORLD

FEWEST_PROMPTS = 3
SETTINGS: dict[str, Any] = {
    "model": WORLD,
    "data": {"root": WORLD, "validation_split": None},
    "model_options": {
        "head": "open",
        "overlap": True,
        "templates": ["{}"],  # words as they are typed
        "head_channels": 32,
        "licence": LICENCE,
    },
    "mode": "lora",
    "lora": {"rank": 8, "alpha": 8.0},
    "crop_px": 128,
    "steps": 1500,
    "batch_size": 8,
    "optimiser": "muon",
    "learning_rate": 1e-3,
    "unet_lr_scale": 1.0,
    "weight_decay": 1e-3,
    "clip_norm": 1.0,
    "loss": {"kind": "cross_entropy_dice"},
    "schedule": {"kind": "poly", "power": 1.0, "warmup_steps": 100},
    "precision": "bf16",
    "workers": 0,
    "log_every": 25,
    "checkpoint_every": 50,
    "keep": 1,
    "pictures": 0,
    "trackers": (),
}


class WordedModel(SegmentationModel):
    """A segmentation model that learns from a list of prompts with each picture; saved, it is one like any other."""

    truth: ClassVar[str] = "labels"

    @classmethod
    def begin(
        cls, source: str | Path, samples: SampleSet, given: Mapping[str, Any], **options: Any
    ) -> SegmentationModel:
        """See `Task`; adapter and head start from where the prompts differ."""
        model = cls.from_diffusion(source, classes=samples.classes, **options)
        tell_apart(model, embeds_of(model, list(truth_of_prompts())))
        return model

    @classmethod
    def augmentation(cls, recipe: Recipe, crop_px: int, *, max_depth_m: float = 10.0) -> Pipeline:
        """Mirror images alone: other colours would be other words, and every scene is a new one."""
        return Pipeline((RandomFlip(),))

    def loss_sum(self, batch: Batch, *, caches: FrozenCaches | None = None, loss: LossSettings = PLAIN) -> LossSum:
        """As many prompts of each picture's list as a batch draws, by the names of its samples."""
        if batch.texts is None or batch.labels is None:  # a trial of the loop
            return super().loss_sum(batch, caches=caches, loss=loss)
        draw = zlib.crc32("".join(batch.names).encode())
        number = FEWEST_PROMPTS + draw % (MOST_PROMPTS - FEWEST_PROMPTS + 1)
        lists = [text.split(SEPARATOR)[:number] for text in batch.texts]
        logits = self(batch.images, torch.stack([embeds_of(self, prompts) for prompts in lists]), caches=caches)
        truth = torch.stack([fitting(prompts, labels) for prompts, labels in zip(lists, batch.labels, strict=True)])
        return overlapping_loss_sum(logits, truth, batch.labels.ne(IGNORE_LABEL), kind=loss.kind)


def embeds_of(model: SegmentationModel, texts: Sequence[str]) -> Tensor:
    """Prompts `(n, d)`, each made once for a model."""
    if model.text_encoder is None:
        raise ValueError("The model has no text encoder, which its prompts are made by.")
    known: dict[str, Tensor] = model.__dict__.setdefault("known_prompts", {})
    if new := [text for text in dict.fromkeys(texts) if text not in known]:
        known |= zip(new, embed_names(model.text_encoder, new, templates=model.config.templates), strict=True)
    return torch.stack([known[text] for text in texts]).to(model.device)


_TRUTH = truth_of_prompts()


def fitting(prompts: Sequence[str], labels: Tensor) -> Tensor:
    """Which pixels of fine labels `(H, W)` fit each prompt, `(n, H, W)` bool."""
    rows = torch.from_numpy(np.stack([_TRUTH[prompt] for prompt in prompts])).to(labels.device)
    return rows[:, labels.long().clamp(max=rows.shape[1] - 1)]


@torch.no_grad()
def tell_apart(model: SegmentationModel, embeds: Tensor) -> None:
    """Let adapter and head begin with what differs between prompts.

    The pooled embeddings of a small text encoder share nearly everything: `red things` and `blue things` differ by 3 %
    of their length, and learning would be spent on finding that. So the first layers that read them are set to see
    them centred, each number by its own deviation, and the adapter adds as much as they vary.

    Args:
        model: With the `open` head, before its first step.
        embeds: Prompts `(n, d)` like those it will learn from.
    """
    if not isinstance(model.head, OpenVocabularyHead):
        raise TypeError(f"{type(model.head).__name__} reads no prompts.")
    _centre(model.adapter.get_submodule("mlp.0"), embeds)
    model.adapter.gamma.data.fill_(0.5)
    norm, project = model.head.text.children()
    _centre(project, norm(model.adapter(embeds)))


def _centre(layer: torch.nn.Module, inputs: Tensor) -> None:
    """Fresh weights for a layer whose outputs shall be near zero mean and unit deviation over some inputs `(n, d)`."""
    if not isinstance(layer, torch.nn.Linear):
        raise TypeError(f"{type(layer).__name__} is no linear layer.")
    deviation = inputs.std(dim=0).clamp(min=1e-4)
    torch.nn.init.normal_(layer.weight, std=inputs.shape[1] ** -0.5)
    layer.weight.div_(deviation)
    layer.bias.copy_(-(layer.weight @ inputs.mean(dim=0)))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("train", "measure"):
        of_verb = verbs.add_parser(verb)
        of_verb.add_argument("--out", required=True, type=Path)
        if verb == "train":
            of_verb.add_argument("--resume", action="store_true")
            of_verb.add_argument("--set", nargs="*", default=[], metavar="KEY=JSON", help="such as steps=50")
        else:
            of_verb.add_argument("model")
            of_verb.add_argument("--scenes", type=int, default=300)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if given.verb == "train":
        changes = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in given.set)}
        scenes = WordedScenes("train", 20_000)
        layers = [changes] if given.resume else [SETTINGS, changes]  # the folder has the settings of a begun run
        print(train(WordedModel, given.out, *layers, resume=given.resume, data=(scenes, None)))
    else:
        found = measure_words(load(given.model, device="cpu"), scenes=given.scenes)
        write_json(given.out, found)
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
