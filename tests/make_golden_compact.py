"""Make the compact golden set from the full one: `python tests/make_golden_compact.py FULL OUT`.

What is left out, what is kept only at every n-th row and column (`key@n`), and what is stored once for two tasks
(`aliases`) is written to `manifest.json`; `golden_set.py` reads it. Larger files are packed (`.xz`).
"""

from __future__ import annotations

import argparse
import json
import lzma
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

TASKS = ("seg", "refer", "depth")
PLAIN_BYTES = 4096
"""Files up to this size are not compressed."""
FLOATS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 1, "lp": 2}]
"""How files are packed: most hold numbers of four bytes, whose bytes are alike place by place."""
LEFT_OUT = "left out for size"


class CompactSet:
    """The set that is being written.

    Args:
        full: Folder of the full set.
        out: Folder to write.
    """

    def __init__(self, full: Path, out: Path) -> None:
        self.full, self.out = full, out
        self.omitted: dict[str, str] = {}
        self.aliases: dict[str, str] = {}

    def tensors(self, file: str, keep: Iterable[str] | None = None, every: dict[str, int] | None = None) -> None:
        """Keep some keys of a file (none = all) and others at every n-th row and column."""
        every = every or {}
        kept = {}
        for key, value in load_file(self.full / file).items():
            if key == "target" and not value.is_floating_point():
                value = value.to(torch.uint8)  # class numbers and 255
            if keep is None or key in keep:
                kept[key] = value
                continue
            step = every.get(key)
            self.omitted[f"{file}:{key}"] = f"only every {step}th row and column" if step else LEFT_OUT
            if step:
                kept[f"{key}@{step}"] = value[..., ::step, ::step].contiguous()
        self._write(file, save(kept))

    def json(self, file: str, *, digits: int | None = None) -> None:
        """Keep a JSON file, its numbers in full or at some significant digits."""
        contents = json.loads((self.full / file).read_text())
        if digits:
            contents = rounded(contents, digits)
        self._write(file, json.dumps(contents, separators=(",", ":")).encode())

    def omit(self, *files: str) -> None:
        for file in files:
            self.omitted[file] = LEFT_OUT

    def alias(self, file: str, key: str, other: str) -> None:
        """Point to the equal tensor of another file instead of storing it."""
        if not torch.equal(load_file(self.full / file)[key], load_file(self.full / other)[key]):
            raise ValueError(f"{key} of {file} and {other} differ")
        del self.omitted[f"{file}:{key}"]
        self.aliases[f"{file}:{key}"] = f"{other}:{key}"

    def finish(self) -> None:
        manifest = {
            "about": "Part of the golden numbers recorded from the original implementation, small enough to ship. "
            "`omitted`: files and `file:key` entries of the full set that are not here; `aliases`: tensors that are "
            "stored under another name; a tensor `key@n` is every n-th row and column of `key`.",
            "aliases": self.aliases,
            "omitted": self.omitted,
        }
        (self.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")

    def _write(self, file: str, contents: bytes) -> None:
        path = self.out / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(contents) > PLAIN_BYTES:
            path, contents = path.with_name(path.name + ".xz"), lzma.compress(contents, filters=FLOATS)
        path.write_bytes(contents)


def rounded(value: Any, digits: int) -> Any:
    """Every number in a JSON value at so many significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(entry, digits) for key, entry in value.items()}
    return [rounded(entry, digits) for entry in value] if isinstance(value, list) else value


def make(full: Path, out: Path) -> None:
    """Write the compact set."""
    compact = CompactSet(full, out)
    for task in TASKS:
        compact.json(f"{task}/config.json")
        compact.json(f"{task}/state_dict_keys.json")
        compact.json(f"full_size/{task}_state_dict_keys.json")
        compact.json(f"procedures/{task}.json")
    small = ["latents", "text_adapted", "feat2", "feat3", "attn16", "attn32", "logits_low"]
    halved = {"feat0": 2, "feat1": 2, "logits": 8}
    compact.tensors(
        "seg/golden.safetensors", ["image", "target", "neck2", "neck3", *small], {**halved, "neck0": 4, "neck1": 2}
    )
    compact.tensors("refer/golden.safetensors", ["target", "text_features", *small], halved)
    compact.alias("refer/golden.safetensors", "image", "seg/golden.safetensors")
    compact.tensors(
        "depth/golden.safetensors",
        ["class_ids", "latents", "text_adapted", "feat3"],
        {"feat0": 4, "feat1": 4, "feat2": 2, "conv_feats": 2, "pred_d": 8},
    )
    for task in ("seg", "refer"):
        file = f"{task}/golden_train.safetensors"
        compact.tensors(file, [key for key in load_file(full / file) if key.startswith("bn_after/")])
        compact.json(f"{task}/golden_train.json", digits=8)
        compact.tensors(
            f"{task}/golden_float64.safetensors",
            ["latents", "text_adapted"],
            {"feat0": 8, "feat1": 4, "feat2": 2, "feat3": 2, "output_stride2": 8},
        )
        compact.json(f"{task}/golden_float64.json", digits=8)
    for name in ("golden_train", "golden_float64"):
        compact.omit(f"depth/{name}.json", f"depth/{name}.safetensors")
    compact.omit("depth/golden_480.safetensors", "depth/golden_512.safetensors")
    compact.tensors("procedures/seg_metrics.safetensors")
    compact.tensors("procedures/refer_metrics.safetensors")
    compact.tensors("procedures/depth_metrics.safetensors", ["imagepath/gt", "imagepath/pred"])
    for name in ("seg_slide", "depth_validate_model", "depth_validate_stub"):
        compact.omit(f"procedures/{name}.safetensors")
    compact.json("real/nyu_class_list.json")
    compact.json("real/nyu_scene_of_file_name.json")
    compact.omit("real/ade20k_class_embeddings.safetensors", "real/nyu_class_embeddings.safetensors")
    compact.finish()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("full", type=Path, help="folder of the full golden set")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    make(arguments.full, arguments.out)
