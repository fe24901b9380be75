"""Full-size stand-ins for the weights that cannot be shipped: Stable Diffusion 1.5 and the published checkpoints.

They have the true keys, shapes and file formats with values made up by a recipe, so that converting, training and
predicting can be rehearsed at the true size and cost without the real files. Nothing sensible comes out of them.

    python benchmarks/full_size.py diffusion SD15                 # 4.3 GB, diffusers layout
    python benchmarks/full_size.py segment published.pth --keys full_size/seg_state_dict_keys.json      # 3.9 GB
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from random_models import SIZES
from transformers import CLIPTextConfig, CLIPTextModel

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

TEXT = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}


def write_diffusion(folder: Path, *, seed: int) -> None:
    """Write a folder of Stable Diffusion 1.5's size with random weights."""
    from vpd.prompts.tokenizer import clip_tokenizer

    torch.manual_seed(seed)
    UNet2DConditionModel(**SIZES["sd15"]["unet"]).save_pretrained(folder / "unet")
    AutoencoderKL(**SIZES["sd15"]["vae"]).save_pretrained(folder / "vae")
    CLIPTextModel(CLIPTextConfig(**TEXT)).save_pretrained(folder / "text_encoder")
    clip_tokenizer().save_pretrained(folder / "tokenizer")


def write_published(task: str, path: Path, *, keys: Path, seed: int) -> None:
    """Write a checkpoint in the published form, every key of `keys` with the weight that the recipe gives it."""
    from golden_models import _weight

    shapes = json.loads(keys.read_text(encoding="utf-8"))
    state = {
        key: torch.rand(entry["shape"]) if key.startswith("sd_model.") else _weight(key, entry["shape"], seed)
        for key, entry in shapes.items()
    }
    if task == "segment":
        torch.save({"meta": {"mmseg_version": "0.30.0", "iter": 80000}, "state_dict": state}, path)
    else:
        torch.save({"model": state}, path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["diffusion", "segment", "refer", "depth"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--keys", type=Path, help="key -> shape and dtype, JSON")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began_s = time.perf_counter()
    if given.what == "diffusion":
        write_diffusion(given.out, seed=given.seed)
    else:
        write_published(given.what, given.out, keys=given.keys, seed=given.seed)
    files = [given.out] if given.out.is_file() else [path for path in given.out.rglob("*") if path.is_file()]
    size_gb = sum(path.stat().st_size for path in files) / 1e9
    print(f"{given.out}: {size_gb:.2f} GB, {time.perf_counter() - began_s:.0f} s")


if __name__ == "__main__":
    main()
