"""What keeping the latents of images brings where each has several sentences: CPU seconds of an evaluation.

    python benchmarks/caches.py DATA --split val --size sd15 --px 256 --dtype bfloat16 --limit 40

DATA is a folder in REFER's layout. Prints a line of JSON without and with a cache. Weights are random: the figures of
the model mean nothing, but must agree.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from full_size import TEXT
from random_models import SIZES
from transformers import CLIPTextConfig, CLIPTextModel

from vpd import ReferringModel, StableDiffusionBackbone
from vpd.config import ReferConfig, Resize
from vpd.datasets.layouts import open_data
from vpd.evaluation.evaluate import measure
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.prompts.encoder import TextEncoder
from vpd.prompts.tokenizer import clip_tokenizer


def build_model(size: str, px: int) -> ReferringModel:
    """A referring model with random weights."""
    parts = SIZES[size]
    width = parts["unet"]["cross_attention_dim"]
    text = TEXT if size == "sd15" else TEXT | {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2}
    backbone = StableDiffusionBackbone(unet=UNet2DConditionModel(**parts["unet"]), vae=AutoencoderKL(**parts["vae"]))
    config = ReferConfig(backbone=backbone.config, fit=Resize(mode="squash", size_px=px))
    encoder = TextEncoder(CLIPTextModel(CLIPTextConfig(**text)), clip_tokenizer())
    return ReferringModel(config, backbone=backbone, text_encoder=encoder).eval()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    parser.add_argument("--size", choices=["tiny", "sd15"], default="tiny")
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, given.dtype))
    model = build_model(given.size, given.px)
    torch.set_default_dtype(torch.float32)
    data = open_data(given.data, "refer", split=given.split)
    model.predict(data[0].image, text="warm up")
    cache = TensorCache(2**28)
    for name, caches in (("without", FrozenCaches()), ("with", FrozenCaches(latents=cache))):
        began_s = time.process_time()
        report: dict[str, Any] = measure(model, data, limit=given.limit, caches=caches).report()
        line = {"cache": name, "sentences": report["samples"], "cpu_s": round(time.process_time() - began_s, 1)}
        print(json.dumps(line | {"oIoU": report["metrics"]["oIoU"], "hits": cache.hits, "misses": cache.misses}))
    print(json.dumps({"kept_mib": cache.num_bytes / 2**20}))


if __name__ == "__main__":
    main()
