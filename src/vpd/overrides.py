"""Settings laid over one another, and `key=value` words of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml

from vpd.errors import UsageError

Settings = dict[str, Any]
"""Nested, as YAML has them."""

_NOTHING = {"none", "null"}  # YAML knows only null, Null and NULL
_SYNONYMS = {
    "learning_rate": ("lr", "rate", "lr0", "base_lr", "max_lr", "peak_lr"),
    "unet_lr_scale": ("unet_lr", "backbone_lr", "lr_scale", "lr_mult"),
    "batch_size": ("bs", "batch", "batchsize", "train_batch_size", "per_device_train_batch_size"),
    "accumulate": ("grad_accum", "gradient_accumulation", "gradient_accumulation_steps", "accum", "accumulation"),
    "epochs": ("epoch", "num_epochs", "max_epochs", "num_train_epochs", "passes"),
    "steps": ("step", "iters", "iterations", "max_iters", "max_steps", "num_steps", "max_train_steps"),
    "crop_px": ("crop", "size", "imgsz", "img_size", "image_size", "resolution", "px", "crop_size", "size_px"),
    "weight_decay": ("wd", "decay", "l2"),
    "workers": ("num_workers", "dataloader_num_workers", "threads", "nw"),
    "precision": ("amp", "fp16", "bf16", "half", "dtype", "mixed_precision", "autocast"),
    "optimiser": ("optimizer", "optim", "opt"),
    "clip_norm": ("grad_clip", "clip", "max_grad_norm", "gradient_clip_val", "clip_grad"),
    "ema_decay": ("ema",),
    "gradient_checkpointing": ("grad_checkpoint", "checkpointing", "activation_checkpointing"),
    "schedule": ("scheduler", "lr_scheduler", "lr_schedule"),
    "schedule.warmup_steps": ("warmup", "warmup_iters", "warmup_epochs"),
    "classes": ("class_names", "names", "class", "labels", "num_classes", "nc", "categories"),
    "data.root": ("root", "dataset", "data_dir", "data_root", "path", "dir"),
    "data.split": ("train_split", "train"),
    "data.validation_split": ("val", "val_split", "validation", "valid", "test_split"),
    "model": ("backbone", "checkpoint", "weights", "pretrained", "arch"),
    "max_depth_m": ("max_depth", "depth_max", "maxdepth"),
    "validate_every": ("val_every", "eval_every", "val_interval", "eval_steps", "val_check_interval"),
    "checkpoint_every": ("save_every", "save_steps", "save_interval", "save_period"),
    "keep": ("save_total_limit", "max_checkpoints"),
    "log_every": ("logging_steps", "log_interval", "print_freq"),
    "patience": ("early_stopping", "early_stop"),
    "seed": ("random_seed", "random_state"),
    "trackers": ("logger", "report_to", "tracker"),
    "lora.rank": ("r", "lora_rank", "lora_r"),
    "lora.alpha": ("lora_alpha",),
    "mode": ("freeze", "finetune", "tuning"),
}
"""Setting -> what other programs call it."""
_EITHER_OR = {"steps", "epochs"}  # the one replaces the other


def parse_overrides(
    words: Sequence[str], *, option: str = "-s", expected: str = "key=value, as in -s data.split=train"
) -> Settings:
    """Settings from words like `data.split=train`: a dotted path, and a value in YAML; `none`, in any case, is null.

    Args:
        words: What stood behind each option.
        option: The option, for messages.
        expected: What it takes, for messages.

    Raises:
        UsageError: If a word has no `=`, or its value is not YAML.
    """
    settings: Settings = {}
    for word in words:
        path, equals, text = word.partition("=")
        if not equals or not path:
            raise UsageError(f"{option} {word}: expected {expected}.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f"{option} {word}: {text!r} is not a YAML value.") from error
        if isinstance(value, str) and value == text.strip() and value.lower() in _NOTHING:
            value = None
        for key in reversed(path.split(".")):
            value = {key: value}
        settings = merge_settings(settings, value)
    return settings


def merge_settings(under: Mapping[str, Any], over: Mapping[str, Any]) -> Settings:
    """`under` with everything that `over` says put in its place, mappings key by key."""
    replaced = _EITHER_OR if over.keys() & _EITHER_OR else set()
    merged = {key: value for key, value in under.items() if key not in replaced}
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge_settings(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def nearest(key: str, places: Mapping[str, str] | Collection[str]) -> str | None:
    """The name that somebody may have meant: what other programs call it, or one that is written alike.

    Args:
        key: What was given.
        places: Names that are known; of a mapping, each with its full path, which is then the answer.
    """
    paths = dict(places) if isinstance(places, Mapping) else {name: name for name in places}
    word = key.lower().replace("-", "_")
    known = [name for name, words in _SYNONYMS.items() if word in words and name in paths.values()]
    near = known or [paths[name] for name in difflib.get_close_matches(word, paths, n=1)]
    return near[0] if near else None


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> Settings:
    """Nested mappings as one, with dotted keys."""
    flat: Settings = {}
    for key, value in settings.items():
        flat |= (
            flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        )
    return flat
