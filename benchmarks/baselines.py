"""What trained models must beat on small data: answers that need no network, measured with the same metrics.

    python benchmarks/baselines.py segment DATA --model MODEL     # majority class; linear probe on the VAE's latents
    python benchmarks/baselines.py depth DATA --split test        # mean depth; mean depth of each pixel
    python benchmarks/baselines.py depth DATA --split test --list-file LIST      # on some of the split: NYU's layout
    python benchmarks/baselines.py refer DATA --split val         # everything; a box in the middle

Each line of output is a name and the metrics as JSON.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import vpd
from vpd.datasets.layouts import open_data
from vpd.inference.resize import fit_image
from vpd.metrics.depth import DepthMetrics
from vpd.metrics.referring import ReferringMetrics
from vpd.metrics.segmentation import SegmentationMetrics


def segment(data: str, split: str, model_folder: str) -> dict[str, Any]:
    """Majority class, and logistic regression from one latent to the class of its pixels."""
    train, test = open_data(data, "segment", split="train"), open_data(data, "segment", split=split)
    model, num_classes = vpd.load(model_folder, device="cpu"), len(train.classes)

    def latents_of(sample: Any) -> Tensor:
        with torch.no_grad():
            return model.backbone.encode(fit_image(Image.fromarray(sample.image), model.config.fit))[0]

    features, targets = [], []
    for index in range(len(train)):
        latents = latents_of(train[index])
        labels = torch.from_numpy(train[index].labels)[None, None].float()
        labels = F.interpolate(labels, latents.shape[-2:], mode="nearest")[0, 0].long()
        features.append(latents.flatten(1).T[labels.flatten() != 255])
        targets.append(labels.flatten()[labels.flatten() != 255])
    inputs, classes = torch.cat(features), torch.cat(targets)
    mean, std = inputs.mean(0), inputs.std(0)
    probe = torch.nn.Linear(inputs.shape[1], num_classes)
    optimiser = torch.optim.LBFGS(probe.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(probe((inputs - mean) / std), classes)
        loss.backward()
        return loss

    optimiser.step(closure)
    probed, constant = SegmentationMetrics(num_classes), SegmentationMetrics(num_classes)
    majority = int(torch.bincount(classes).argmax())
    for index in range(len(test)):
        sample = test[index]
        latents = latents_of(sample)
        logits = probe((latents.flatten(1).T - mean) / std).T.reshape(1, num_classes, *latents.shape[-2:])
        labels = torch.from_numpy(sample.labels)
        probed.update(F.interpolate(logits.detach(), labels.shape, mode="bilinear").argmax(1)[0], labels)
        constant.update(torch.full_like(labels, majority), labels)
    return {"linear probe on latents": probed.compute()["mIoU"], "majority class": constant.compute()["mIoU"]}


def depth(data: str, split: str, **options: Any) -> dict[str, Any]:
    """The training set's mean depth, everywhere or pixel by pixel."""
    train, test = open_data(data, "depth", split="train"), open_data(data, "depth", split=split, **options)
    maps = np.stack([train[index].depth_m for index in range(len(train))])
    counts = (maps > 0).sum(0)
    constant = maps.sum() / (maps > 0).sum()
    by_pixel = np.where(counts > 0, maps.sum(0) / np.maximum(counts, 1), constant)
    results = {}
    for name, answer in (("mean depth", np.full_like(by_pixel, constant)), ("mean depth of each pixel", by_pixel)):
        metrics = DepthMetrics(crop="nyu")
        for index in range(len(test)):
            metrics.update(torch.from_numpy(answer), torch.from_numpy(test[index].depth_m))
        results[name] = metrics.compute()
    return results


def refer(data: str, split: str) -> dict[str, Any]:
    """The whole image, and the box in the middle that overlaps best on the training set."""
    train, test = open_data(data, "refer", split="train"), open_data(data, "refer", split=split)

    def box(shape: tuple[int, int], share: float) -> np.ndarray:
        height, width = shape
        mask = np.zeros(shape, dtype=bool)
        top, left = round(height * (1 - share) / 2), round(width * (1 - share) / 2)
        mask[top : height - top, left : width - left] = True
        return mask

    def score(samples: Any, share: float) -> dict[str, Any]:
        metrics = ReferringMetrics()
        for index in range(len(samples)):
            truth = samples[index].mask
            metrics.update(torch.from_numpy(box(truth.shape, share)), torch.from_numpy(truth))
        return metrics.compute()

    shares = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    best = max(shares, key=lambda share: score(train, share)["oIoU"])
    return {"whole image": score(test, 1.0), f"middle box, {best} of each side": score(test, best)}


def main() -> None:
    """Read the command line, print one line a baseline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["segment", "depth", "refer"])
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", help="segment: model whose autoencoder makes the latents")
    parser.add_argument("--list-file", help="depth: the pairs of the split that count")
    options = parser.parse_args()
    if options.task == "segment" and not options.model:
        parser.error("segment needs --model: its autoencoder makes the latents")
    run = {"segment": segment, "depth": depth, "refer": refer}[options.task]
    extra = (options.model,) if options.task == "segment" else ()
    named = {"list_file": options.list_file} if options.list_file else {}
    for name, metrics in run(options.data, options.split, *extra, **named).items():
        print(f"{name}: {json.dumps(metrics)}")


if __name__ == "__main__":
    main()
