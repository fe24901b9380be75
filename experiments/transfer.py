"""Does what a small model learnt of rendered scenes help with photographs? Backbones and options, equal budgets.

    python experiments/transfer.py run RESULTS.jsonl --data camvid=DIR --data nyu=DIR --data refer=DIR \
        --backbone text=world --backbone random=DIR [--backbone unconditional=DIR] [--seeds 3] [--minutes M]
    python experiments/transfer.py report RESULTS.jsonl

Each run is a training by the library and an evaluation on the test split, and leaves one line in RESULTS; one that is
there, with the same weights and settings, is not made again. The backbone `text` is also trained with single options of
the `reference` recipe.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run by its path, `experiments` is found by this
from experiments.claims_models import read_backbones, read_pairs, weights_hash
from experiments.paired_intervals import half_width
from vpd.datasets.layouts import open_data
from vpd.errors import UsageError
from vpd.evaluation.evaluate import evaluate
from vpd.files.atomic import append_json_line, read_json_lines
from vpd.loading import load
from vpd.tasks.table import TASKS
from vpd.training.run import train

COMMON = {"batch_size": 8, "crop_px": 128, "learning_rate": 1e-3, "unet_lr_scale": 1.0, "trackers": [], "workers": 0}
COMMON |= {"validate_every": 100_000, "checkpoint_every": 100_000, "keep": 1, "pictures": 0}
REFER_HEAD = {"head_channels": 64, "token_length": 16, "class_weights": [0.4, 2.0]}
DATA: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "camvid": ("segment", "test", {"steps": 150, "model_options": {"head_channels": 64}}),
    "nyu": ("depth", "test", {"steps": 150, "model_options": {"head_channels": 24, "feature_channels": 256}}),
    "refer": ("refer", "val", {"steps": 150, "model_options": REFER_HEAD}),
}
"""Name -> task, split that is measured, settings."""
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "latents unscaled": {"latent_scaling": "none"},
    "maps without gradient": {"detach_maps": True},
    "maps as probabilities": {"map_scale": "probability"},
}
"""Single options of the `reference` recipe, each in the place of the default's."""


def plan(data: dict[str, str], backbones: dict[str, str], seeds: int) -> Iterator[tuple[str, str, str, int]]:
    """Data set, backbone, options and seed of each run; all backbones first, then the options of `text`."""
    for seed in range(seeds):
        for name in data:
            for backbone in backbones:
                yield name, backbone, "default", seed
    for seed in range(seeds):
        for name in data:
            for options in [other for other in OPTIONS if other != "default"]:
                if "maps" not in options or DATA[name][0] != "depth":  # whose head takes no maps
                    yield name, "text", options, seed


def settings_hash(name: str, options: str) -> str:
    """Eight letters that change with what is the same in all runs of a data set and its options."""
    return f"{zlib.crc32(json.dumps([COMMON, DATA[name], OPTIONS[options]]).encode()):08x}"


def make(root: str, name: str, source: str, options: str, seed: int) -> dict[str, Any]:
    """Train and measure once."""
    task, split, settings = DATA[name]
    begin = time.process_time()
    model_options = {**settings["model_options"], "backbone_options": OPTIONS[options]}
    given = {**COMMON, **settings, "model": source, "seed": seed, "model_options": model_options}
    with tempfile.TemporaryDirectory() as folder:
        trained = train(task, Path(folder, "run"), {"data": {"root": root, "validation_split": None}}, given)
        report = evaluate(load(trained, device="cpu"), open_data(root, task, split=split), batch_size=8)
    metric = TASKS[task].score
    return {"score": report["metrics"][metric], "metric": metric, "cpu_s": round(time.process_time() - begin)}


def run_all(options: argparse.Namespace) -> None:
    """Make the runs that are not there yet."""
    torch.set_num_threads(1)
    data, backbones = read_pairs(options.data), read_backbones(options.backbone)
    weights = {
        name: weights_hash(*(Path(folder, part) for part in ("unet", "text_encoder", "vae")))
        for name, folder in backbones.items()
    }
    done, begin = {line["key"] for line in read_json_lines(options.results)}, time.monotonic()
    for name, backbone, arm, seed in plan(data, backbones, options.seeds):
        if backbone not in backbones:
            continue
        key = f"{name}, {backbone}, {arm}, seed {seed}, made with {weights[backbone]} {settings_hash(name, arm)}"
        if key in done:
            continue
        if options.minutes is not None and time.monotonic() - begin > 60 * options.minutes:
            print("Time is up.", flush=True)
            return
        try:
            line = make(data[name], name, backbones[backbone], arm, seed)
        except FloatingPointError as error:  # as made again it would be the same
            print(f"{key}: {error}", flush=True)
            line = {"score": None, "metric": TASKS[DATA[name][0]].score, "cpu_s": None}
        what = {"key": key, "data": name, "backbone": backbone, "options": arm, "seed": seed}
        append_json_line(options.results, what | line)
        print(f"{key}: {line['metric']} {line['score']}, CPU s {line['cpu_s']}", flush=True)


def report(options: argparse.Namespace) -> None:
    """Print a table in Markdown; differences are seed by seed, with the 95 % interval of their mean (Student's t)."""
    scores: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    for line in read_json_lines(options.results):
        if line["score"] is not None:
            scores[line["data"], line["backbone"], line["options"]][line["seed"]] = line["score"]
    print(
        "| data | backbone | options | seeds | mean | each | less `text`, `default` |",
        "|---|---|---|---|---|---|---|",
        sep="\n",
    )
    for (name, backbone, arm), found in scores.items():
        base = scores.get((name, "text", "default"), {})
        gaps = [score - base[seed] for seed, score in found.items() if seed in base]
        gap = "" if (backbone, arm) == ("text", "default") or len(gaps) < 2 else _interval(gaps)
        each = ", ".join(f"{score:.3f}" for score in found.values())
        print(f"| {name} | {backbone} | {arm} | {len(found)} | {np.mean(list(found.values())):.3f} | {each} | {gap} |")


def _interval(gaps: list[float]) -> str:
    mean, half = np.mean(gaps), half_width(gaps)
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run")
    command.set_defaults(run=run_all)
    command.add_argument("results", type=Path)
    command.add_argument("--data", action="append", required=True, metavar="NAME=FOLDER")
    command.add_argument("--backbone", action="append", required=True, metavar="NAME=FOLDER")
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--minutes", type=float, help="stop between two runs after so many")
    command = commands.add_parser("report")
    command.set_defaults(run=report)
    command.add_argument("results", type=Path)
    options = parser.parse_args()
    try:
        options.run(options)
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
