"""Many small pictures, a model that is quick with them, and what must be in the folder afterwards."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from PIL import Image

import vpd
from tiny import write_tiny_diffusion
from vpd.cli import main
from vpd.config import Resize


def write_pictures(folder: Path, number: int) -> Path:
    """Noise of 32x32 pixels, in ten folders."""
    generator = np.random.default_rng(0)
    for index in range(number):
        path = folder / f"part-{index % 10}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return folder


def write_quick_model(folder: Path) -> Path:
    """A segmenter that takes a few milliseconds an image."""
    diffusion = write_tiny_diffusion(folder / "diffusion", block_out_channels=(8, 8, 8, 8))
    options = {"classes": ["sky", "tree", "car"], "head_channels": 8, "fit": Resize(size_px=32)}
    vpd.SegmentationModel.from_diffusion(diffusion, **options).save(folder / "model")
    return folder / "model"


class Jobs:
    """Starts `vpd` in processes of their own, without importing everything anew for each."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["vpd.cli", "vpd.prediction_jobs.job", "vpd.prediction_jobs.worker"])

    def start(self, *words: object) -> BaseProcess:
        process = self._context.Process(target=main, args=([str(word) for word in words],))
        process.start()
        return process

    def finish(self, *words: object) -> None:
        process = self.start(*words)
        process.join()
        assert process.exitcode == 0


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def lines_of(manifest: Path) -> list[dict]:
    """Whole lines of a manifest; the last may be torn."""
    text = manifest.read_text() if manifest.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def assert_same_outputs(folder: Path, other: Path, *, number: int) -> None:
    """Outputs and manifest agree to the last byte; each image is listed once. A killed job leaves temporary files."""
    files = outputs_of(folder)
    assert files == outputs_of(other)
    assert len(files) == 2 * number + 1
    sources = [line["source"] for line in lines_of(folder / "predictions.jsonl")]
    assert len(sources) == len(set(sources)) == number


def outputs_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".tmp-"))
    named = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: path.read_bytes() for name, path in sorted(named.items()) if not name.startswith("shards/")}
