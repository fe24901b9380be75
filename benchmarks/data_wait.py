"""How long the training loop waits for data: the share of the time, for each task's real small data.

    VPD_TEST_DATA=DIR python benchmarks/data_wait.py [TASK ...] [--workers N] [--steps N] [--out FILE.json]

DIR holds `camvid`, `refer` and `nyu_depth_v2`. Model, crops and batches are those of docs/small-data.md: the miniature
with an autoencoder of stride 8, from random weights. Beside the share of the time, which says little on a machine that
does other things as well, it prints CPU time: what a sample costs the readers, also at the published crops (512 px,
depth 480 px), what a step costs the loop, how many readers one loop needs, and the load average.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # where `experiments` is
from experiments.autoencoder import build_autoencoder
from experiments.miniature import write_diffusion_folder
from experiments.vae import CHANNELS
from vpd.files.atomic import read_json_lines, write_json
from vpd.training.loop import Training
from vpd.training.settings import resolve_config
from vpd.training.setup import build_data, pin_sources, start_model, training_transform

SETTINGS = {
    "segment": {"data": {"root": "camvid"}, "crop_px": 256},
    "refer": {"data": {"root": "refer"}, "crop_px": 224},
    "depth": {"data": {"root": "nyu_depth_v2"}, "crop_px": 192},
}
HEADS = {
    "segment": {"head_channels": 64},
    "refer": {"head_channels": 64, "token_length": 16},
    "depth": {"head_channels": 32, "feature_channels": 256},
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(SETTINGS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    data = Path(os.environ["VPD_TEST_DATA"])
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        diffusion = Path(folder) / "diffusion"
        write_diffusion_folder(diffusion, vae=build_autoencoder(CHANNELS[8], seed=0))
        for task in given.tasks:
            figures[task] = measure(task, data, diffusion, Path(folder) / task, given.workers, given.steps)
            print(json.dumps({"task": task, **figures[task]}))
    if given.out:
        write_json(given.out, figures)


def measure(task: str, data: Path, diffusion: Path, folder: Path, workers: int, steps: int) -> dict[str, float]:
    """Train a little; what it took."""
    settings = SETTINGS[task] | {"model": str(diffusion), "model_options": HEADS[task], "workers": workers}
    settings["data"] = settings["data"] | {"root": str(data / settings["data"]["root"]), "validation_split": None}
    settings |= {"steps": steps, "epochs": None, "log_every": 1, "checkpoint_every": 10**6, "trackers": []}
    settings |= {"learning_rate": 1e-3, "unet_lr_scale": 1.0, "batch_size": 8}
    config = pin_sources(resolve_config(task, settings))
    train_set, _ = build_data(config)
    model = start_model(config, train_set)
    transform = training_transform(config, model)
    sample_s = cpu_of_samples(train_set, transform)
    sizeless = {name: value for name, value in settings.items() if name != "crop_px"}  # then it is the recipe's
    published = config.model_copy(update={"crop_px": resolve_config(task, sizeless).crop_px})
    published_s = cpu_of_samples(train_set, training_transform(published, model))
    before = (cpu_s(resource.RUSAGE_SELF), time.perf_counter())
    Training(model, train_set, transform, config, folder).run()
    step_s = (cpu_s(resource.RUSAGE_SELF) - before[0]) / steps
    lines = [line for line in read_json_lines(folder / "log.jsonl") if line["kind"] == "train"]
    lines = lines[len(lines) // 4 :]  # readers start, and torch warms up
    batch_s = sample_s * config.batch_size
    return {
        "wait_share": round(statistics.mean(line["wait_share"] for line in lines), 4),
        "wait_share_worst": round(max(line["wait_share"] for line in lines), 4),
        "cpu_ms_per_sample": round(1000 * sample_s, 1),
        "cpu_ms_per_sample_at_published_crop": round(1000 * published_s, 1),
        "cpu_ms_per_batch": round(1000 * batch_s, 1),
        "cpu_ms_per_step": round(1000 * step_s, 1),
        "readers_needed": round(batch_s / step_s, 3),
        "wall_s": round(time.perf_counter() - before[1], 1),
        "workers": workers,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }


def cpu_of_samples(train_set: object, transform: object, count: int = 24) -> float:
    """CPU seconds that reading and augmenting a sample takes."""
    import numpy as np

    from vpd.data.batches import collate

    places = np.random.default_rng(0).permutation(len(train_set))[:count]  # type: ignore[arg-type]
    began = cpu_s(resource.RUSAGE_SELF)
    for place in places:
        sample = transform(train_set[int(place)], np.random.default_rng(int(place)))  # type: ignore[operator, index]
        collate([sample], pad_px=transform.pad_px)  # type: ignore[attr-defined]
    return (cpu_s(resource.RUSAGE_SELF) - began) / len(places)


def cpu_s(who: int) -> float:
    """CPU seconds of this process, or of its children that ended."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
