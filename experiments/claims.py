"""Do the paper's claims hold? Models that differ in one thing, trained and tested on rendered scenes.

    python experiments/claims.py random DIR                            # a backbone of random weights
    python experiments/claims.py control DIR --unet FILE [--unet FILE] # one that was pre-trained without words
    python experiments/claims.py run RESULTS --backbone text=DIR --backbone random=DIR --backbone unconditional=DIR \
        [--seeds 3] [--minutes M] [--only task=refer,regime=full]
    python experiments/claims.py plan RESULTS --backbone ...           # what is done and what is left
    python experiments/claims.py report RESULTS --out docs/claims [--page docs/claims.md]

Each run is one line of RESULTS; one that is there is not made again, so a job may be stopped at any moment and
started anew. Several jobs may share a file: give each `--share 1/2`, `--share 2/2`. RESULTS may begin as the packed
file of an earlier report (`--from docs/claims/runs.jsonl.xz`).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run by its path, `experiments` is found by this
from experiments.autoencoder import load_autoencoder
from experiments.claims_arms import BACKBONES, RATES, Run, plan, trials
from experiments.claims_control import write_control
from experiments.claims_models import Sources, read_backbones
from experiments.claims_report import write_report
from experiments.claims_results import read_results
from experiments.claims_runs import Laboratory, Settings, best_rate
from experiments.diffusion import new_run
from experiments.miniature import save_diffusion_folder
from vpd.errors import UsageError
from vpd.files.atomic import append_json_line, read_json_lines
from vpd.model_folder import results_folder


def run_all(options: argparse.Namespace) -> None:
    """Make the runs that are not in the results yet, in the order of their importance."""
    results = options.results
    torch.set_num_threads(1)
    sources, settings = read_sources(options), read_settings(options)
    laboratory, begin = Laboratory(sources, settings), time.monotonic()
    if options.begun is not None and not results.exists():
        append_json_line(results, *read_results(options.begun))
    done = {line["key"]: line for line in read_json_lines(results)}
    weights = {name: sources.weights(name) for name in sources.folders}
    runs = chosen_runs(sources, options)

    def settings_of(run: Run) -> str:
        return settings.words(run.arm.task, run.arm.regime, weights[run.arm.backbone])

    for place, run in enumerate(runs, start=1):
        key = run.key(settings_of(run))
        if key in done:
            continue
        if options.minutes is not None and time.monotonic() - begin >= options.minutes * 60:
            print(f"Time is up: {place - 1} of {len(runs)} runs are done.", flush=True)
            return
        tried = [done[trial.key(settings_of(trial))] for trial in trials(run.arm)] if not run.is_trial else []
        rate = run.rate or (best_rate(tried) if tried else RATES[run.arm.regime, run.arm.task][0])
        line = {"key": key, **laboratory.make(run, rate)}
        append_json_line(results, line)
        done[key] = line
        shuffled = "" if line["shuffled_score"] is None else f", shuffled {line['shuffled_score']:.4f}"
        print(
            f"{place}/{len(runs)} {key}: {line['score']:.4f}{shuffled} at {rate:g}; CPU s {line['cpu_s']}", flush=True
        )
    print(f"All {len(runs)} runs are done.", flush=True)


def show_plan(options: argparse.Namespace) -> None:
    """Count runs by kind: planned, and left."""
    sources, settings = read_sources(options), read_settings(options)
    done = {line["key"] for line in read_json_lines(options.results)}
    weights = {name: sources.weights(name) for name in sources.folders}
    planned: Counter[tuple[Any, ...]] = Counter()
    left: Counter[tuple[Any, ...]] = Counter()
    for run in chosen_runs(sources, options):
        way = "cached" if run.arm.is_cached else run.arm.regime
        kind = (way, run.arm.task, run.arm.labels, "trial" if run.is_trial else "run")
        planned[kind] += 1
        left[kind] += run.key(settings.words(run.arm.task, run.arm.regime, weights[run.arm.backbone])) not in done
    for kind in sorted(planned):
        print(*kind, f"{planned[kind]} planned, {left[kind]} left")
    print(f"all: {planned.total()} planned, {left.total()} left")


def write_control_folder(options: argparse.Namespace) -> None:
    """A UNet that was pre-trained without words, with the shipped VAE; never over another model."""
    torch.set_num_threads(1)
    write_control(options.folder, options.unet, steps=options.steps, size_px=Settings.size_px)


def write_random(options: argparse.Namespace) -> None:
    """The shipped architecture before its training, with the shipped VAE; never over another model."""
    folder = results_folder(options.folder)
    run = new_run("text", seed=1, data="", size_px=Settings.size_px)
    save_diffusion_folder(folder, vae=load_autoencoder(None), unet=run.unet, text_encoder=run.text_encoder.model)
    print(f"Written: {folder}. Use it: --backbone random={folder}")


def chosen_runs(sources: Sources, options: argparse.Namespace) -> list[Run]:
    """The plan, filtered."""
    only = dict(pair.split("=", 1) for pair in options.only.split(",")) if options.only else {}
    share, shares = (int(part) for part in options.share.split("/"))
    planned = list(plan(options.seeds, sources.folders, only))
    if not planned:
        raise UsageError(f"--only {options.only}: no arm of these backbones is such.")
    return [run for run in planned if zlib.crc32(repr(run.arm.family).encode()) % shares == share - 1]


def read_sources(options: argparse.Namespace) -> Sources:
    """The backbones of the command line."""
    backbones = read_backbones(options.backbone)
    if unknown := sorted(set(backbones) - set(BACKBONES)):
        raise UsageError(f"Unknown backbones: {', '.join(unknown)}. Known: {', '.join(BACKBONES)}.")
    return Sources(backbones, options.cache_mb)


def read_settings(options: argparse.Namespace) -> Settings:
    """The settings of the command line."""
    return Settings(
        length=options.length,
        frozen_batch=options.batch_size,
        full_batch=options.full_batch_size,
        size_px=options.size,
        test_scenes=options.test_scenes,
        subset_scenes=min(Settings.subset_scenes, options.test_scenes),
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, do in (("run", run_all), ("plan", show_plan)):
        command = commands.add_parser(name, help=do.__doc__)
        command.set_defaults(do=do)
        command.add_argument("results", type=Path)
        command.add_argument("--backbone", action="append", required=True, metavar="NAME=FOLDER")
        command.add_argument("--seeds", type=int, default=3, help="of each arm")
        command.add_argument("--from", type=Path, dest="begun", help="packed results to begin with")
        command.add_argument("--minutes", type=float, help="stop between two runs after so many")
        command.add_argument("--only", default="", help="field=value,field=value|value,...; fields: those of `Arm`")
        command.add_argument("--share", default="1/1", help="which part of the runs, of how many")
        command.add_argument("--length", type=float, default=Settings.length, help="factor on all numbers of steps")
        command.add_argument("--batch-size", type=int, default=Settings.frozen_batch)
        command.add_argument("--full-batch-size", type=int, default=Settings.full_batch)
        command.add_argument("--size", type=int, default=Settings.size_px, help="side of the pictures, pixels")
        command.add_argument("--test-scenes", type=int, default=Settings.test_scenes)
        command.add_argument("--cache-mb", type=int, default=Sources.cache_mb, help="for each frozen backbone")
    random = commands.add_parser("random", help=write_random.__doc__)
    random.set_defaults(do=write_random)
    random.add_argument("folder", type=Path)
    control = commands.add_parser("control", help=write_control_folder.__doc__)
    control.set_defaults(do=write_control_folder)
    control.add_argument("folder", type=Path)
    control.add_argument("--unet", type=Path, action="append", required=True, help="its weights, or a part of them")
    control.add_argument("--steps", type=int, default=48, help="to find what it reads in the place of the empty text")
    report = commands.add_parser("report", help="Write tables and plots.")
    report.set_defaults(do=lambda options: write_report(options.results, options.out, options.page))
    report.add_argument("results", type=Path)
    report.add_argument("--out", type=Path, required=True, help="folder for tables, curves and packed runs")
    report.add_argument("--page", type=Path, help="page whose generated tables are written anew")
    options = parser.parse_args()
    try:
        options.do(options)
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
