"""Save what all later releases must read: models, a run that was stopped, predictions.

    python tests/make_saved.py      # once for each release X.Y.0; writes tests/saved_by_X_Y_Z.tar.xz

`test_saved.py` reads every such file, and what this makes now.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import vpd
from tiny import write_tiny_diffusion
from tiny_data import write_segment_data
from vpd.cli import build_app
from vpd.config import Resize
from vpd.prompts.tokenizer import clip_tokenizer
from vpd.training.run import train

CLASSES = ("sky", "tree", "car")
_COARSE = 256
"""Weights are rounded to this part of one, since random digits do not pack."""


def write_saved(folder: Path) -> None:
    """Write everything into a new folder, and beside its models what they answer."""
    folder.mkdir()
    torch.manual_seed(0)
    diffusion = write_tiny_diffusion(
        folder / "sd", block_out_channels=(16,) * 4, layers_per_block=1, cross_attention_dim=8
    )
    for path in diffusion.rglob("*.safetensors"):
        save_file({key: (value * _COARSE).round() / _COARSE for key, value in load_file(path).items()}, path)
    photo = folder / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (7, 9, 3), np.uint8)).resize((90, 70)).save(photo)
    for name, model in new_models(diffusion).items():
        model.save(folder / "models" / name)
    shutil.rmtree(folder / "models" / "refer" / "tokenizer")  # 3.6 MB that the package has anyway
    np.savez_compressed(folder / "answers.npz", **answers(folder))
    predict = [
        "predict",
        "segment",
        "photo.png",
        "--model",
        "models/segment",
        "--out",
        "predictions",
        "--device",
        "cpu",
    ]
    here = Path.cwd()
    os.chdir(folder)  # the manifest's names are as they were given
    try:
        done = CliRunner().invoke(build_app(), predict)
    finally:
        os.chdir(here)
    if done.exit_code:
        raise RuntimeError(done.output)
    write_stopped_run(folder, diffusion)
    shutil.rmtree(diffusion)


def new_models(diffusion: Path) -> dict[str, Any]:
    """Tiny models of all tasks, both recipes, and of several ways to fit pictures."""
    short = Resize(mode="resize_short", size_px=64)
    torch.manual_seed(1)
    depth: dict[str, Any] = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}
    return {
        "segment": vpd.SegmentationModel.from_diffusion(diffusion, classes=CLASSES, head_channels=8, fit=short),
        "segment-reference": vpd.SegmentationModel.from_diffusion(
            diffusion, classes=CLASSES, head_channels=8, recipe="reference", templates=("a photo of a {}.",)
        ),
        "depth": vpd.DepthModel.from_diffusion(diffusion, scenes=("kitchen", "office"), fit=short, **depth),
        "depth-far": vpd.DepthModel.from_diffusion(
            diffusion, scenes=("road",), max_depth_m=80.0, fit=short.model_copy(update={"flip": True}), **depth
        ),
        "refer": vpd.ReferringModel.from_diffusion(
            diffusion, head_channels=8, token_length=8, fit=Resize(mode="squash", size_px=64)
        ),
    }


def answers(saved: Path) -> dict[str, np.ndarray]:
    """What the models of such a folder say about its photo; those for words need a tokenizer beside them."""
    found = {}
    for name, scene in (("depth", "kitchen"), ("depth-far", "road")):
        found[f"{name}.depth_m"] = load(saved / "models" / name).predict(saved / "photo.png", scene=scene).depth_m
    for name in ("segment", "segment-reference"):
        found[f"{name}.scores"] = load(saved / "models" / name).predict(saved / "photo.png", scores=True).scores
    with tempfile.TemporaryDirectory() as folder:
        refer = shutil.copytree(saved / "models" / "refer", Path(folder) / "refer")
        clip_tokenizer().save_pretrained(refer / "tokenizer")
        found["refer.probability"] = load(refer).predict(saved / "photo.png", text="the left one").probability
    return {name: value.numpy() for name, value in found.items()}


def load(folder: Path) -> Any:
    """On the CPU, wherever there are others."""
    return vpd.load(folder, device="cpu")


def write_stopped_run(folder: Path, diffusion: Path) -> None:
    """`run`, stopped after two of four steps, and the weights that it ends in, `run_end.safetensors`."""
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "run"
        settings = {
            "model": str(diffusion),
            "data": {"root": str(write_segment_data(Path(temporary) / "data"))},
            "model_options": {"head_channels": 8},
            "mode": "frozen",
            "crop_px": 64,
            "steps": 4,
            "batch_size": 2,
            "learning_rate": 1e-3,
            "workers": 0,
            "log_every": 1,
            "validate_every": 2,
            "checkpoint_every": 2,
            "keep": 4,
            "pictures": 0,
            "trackers": [],
        }
        train("segment", whole, settings)
        run = folder / "run"
        shutil.copytree(whole / "checkpoints" / "step-00000002", run / "checkpoints" / "step-00000002")
        shutil.copy(whole / "config.yaml", run)
        lines = (whole / "log.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (run / "log.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= 2), "utf-8")
        shutil.copy(whole / "checkpoints" / "step-00000004" / "model.safetensors", folder / "run_end.safetensors")


def main() -> None:
    """Write the file of this release, which must not be there yet."""
    name = f"saved_by_{vpd.__version__.replace('.', '_')}"
    packed = Path(__file__).with_name(f"{name}.tar.xz")
    if packed.exists():
        sys.exit(f"{packed.name} is there, and what a release saved stays as it is.")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_saved(Path(folder) / name)
        with tarfile.open(packed, "w:xz", preset=9) as archive:
            archive.add(Path(folder) / name, name)
    print(f"{packed}: {packed.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
