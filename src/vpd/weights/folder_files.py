"""Which files of a folder or hub repository a model needs, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import NamedTuple

_NAME = r"(?:\.(?P<before>\w+))?(?:-(?P<number>\d{5})-of-(?P<count>\d{5}))?(?:\.(?P<after>\w+))?\.safetensors"
"""What follows the stem of a weight file: a variant, which of how many shards, or a variant after that."""
_FIRST_VARIANTS = ("", "fp16", "bf16")
UNET_STEM = VAE_STEM = "diffusion_pytorch_model"
TEXT_STEM = "model"


class Weights(NamedTuple):
    """A complete set of weight files."""

    variant: str
    """Such as `fp16`; empty = the plain ones."""
    files: list[str]
    """One, or all shards in their order."""


class Needed(NamedTuple):
    """What to take of a folder."""

    files: list[str]
    """All that are needed and there."""
    lacking: str
    """The first that is needed and not there; empty = none."""


Select = Callable[[Collection[str]], Needed]
"""Paths in a repository -> what is needed of them."""


def weight_files(names: Collection[str], stem: str) -> Weights | None:
    """The weight files of a stem to read: the plain ones, else `fp16`, else another variant; none = no whole set."""
    found: dict[tuple[str, int], dict[int, str]] = {}
    for name in sorted(names):
        match = re.fullmatch(re.escape(stem) + _NAME, name, re.IGNORECASE)
        if match and not (match["before"] and match["after"]):
            key = (match["before"] or match["after"] or "", int(match["count"] or 0))
            found.setdefault(key, {})[int(match["number"] or 0)] = name
    sets = [
        Weights(variant, [files[number] for number in sorted(files)])
        for (variant, count), files in found.items()
        if count == 0 or sorted(files) == list(range(1, count + 1))
    ]
    rank = {variant: place for place, variant in enumerate(_FIRST_VARIANTS)}
    return min(sets, key=lambda each: (rank.get(each.variant, len(rank)), each.variant, len(each.files)), default=None)


def diffusion_files(*, with_text: bool) -> Select:
    """For the backbone of a diffusion model, and its text encoder and tokenizer."""

    def select(names: Collection[str]) -> Needed:
        needed = _part(names, "unet", UNET_STEM) + _part(names, "vae", VAE_STEM)
        if with_text:
            tokenizer = _inside(names, "tokenizer")
            is_whole = "tokenizer.json" in tokenizer or {"vocab.json", "merges.txt"} <= set(tokenizer)
            needed += _part(names, "text_encoder", TEXT_STEM)
            needed.append(
                ("tokenizer/vocab.json and merges.txt", [f"tokenizer/{name}" for name in tokenizer * is_whole])
            )
        return _needed(_there(names, "model_index.json"), needed)

    return select


def model_files(names: Collection[str]) -> Needed:
    """For a model of ours: configuration, weights, and the text encoder where it has one."""
    files = [file for _, found in _part(names, "text_encoder", TEXT_STEM) for file in found]
    files += [f"tokenizer/{name}" for name in _inside(names, "tokenizer")]
    return _needed(files, [(name, _there(names, name)) for name in ("config.json", "model.safetensors")])


def encoder_files(names: Collection[str]) -> Needed:
    """For a small encoder, an `AutoencoderTiny`."""
    needed = ("config.json", "diffusion_pytorch_model.safetensors")
    return _needed([], [(name, _there(names, name)) for name in needed])


def _part(names: Collection[str], part: str, stem: str) -> list[tuple[str, list[str]]]:
    """Configuration and weights of a part: what each is called, and the files that are it."""
    weights = weight_files(_inside(names, part), stem)
    files = [f"{part}/{file}" for file in weights.files] if weights else []
    return [(f"{part}/config.json", _there(names, f"{part}/config.json")), (f"{part}/{stem}.safetensors", files)]


def _needed(files: list[str], needed: list[tuple[str, list[str]]]) -> Needed:
    lacking = next((what for what, found in needed if not found), "")
    return Needed([*files, *(name for _, found in needed for name in found)], lacking)


def _inside(names: Collection[str], folder: str) -> list[str]:
    """Names right in a folder, without it."""
    inside = [name.removeprefix(f"{folder}/") for name in sorted(names) if name.startswith(f"{folder}/")]
    return [name for name in inside if "/" not in name]


def _there(names: Collection[str], name: str) -> list[str]:
    return [name] if name in names else []
