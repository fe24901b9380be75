"""`vpd info MODEL --card 12GB`: what predicting and training with a model take on cards of some sizes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpd.errors import UsageError

if TYPE_CHECKING:
    from vpd.training.cards import Card, Row, Subject

_TEXT_ENCODER_VALUES = {768: 123_060_480, 1024: 340_387_840}
"""Width of the text -> values of CLIP's encoder in Stable Diffusion 1.x, of OpenCLIP's in 2.x."""
_NAMES = {"classes": 150, "scenes": 27}
"""Of a model that is still to be made: as many as in ADE20K and NYU."""
_TIMES = 3
"""Small diffusion models are trained at up to so many times the size that they were made at."""
_LABEL, _CELL = 34, 9


def tell_cards(source: str, cards: str, task: str | None) -> None:
    """Print what a model takes, line by line as it is counted.

    Raises:
        UsageError: If a card has no size, or the model cannot be found or read or is for another task.
    """
    from vpd.processes import Heartbeat
    from vpd.training.cards import parse_cards, prediction_rows, training_rows

    wanted = parse_cards(cards)
    subject, what = find_subject(source, task)
    is_whole = subject.task.reads_tokens
    larger = "made smaller" if is_whole else "in blended windows, of any size"
    with Heartbeat(enabled=True) as heartbeat, heartbeat.doing(f"Counting what {source} takes"):
        _print_table(f"predict: {what}", prediction_rows(subject, wanted), wanted)
        _print_table(f"train: pictures of {subject.crop_px} px at a time", training_rows(subject, wanted), wanted)
    print(
        "\nComputed by counting tensors, not measured on a GPU; 1 GiB of each card is left to CUDA; -: does not fit."
        f"\npredict: larger pictures run with --memory and the size in its line, {larger}."
        "\ntrain: with precision=bf16 and channels_last=true (8-bit AdamW: false). -s accumulate=auto tries what fits."
    )


def _print_table(title: str, rows: Iterable[Row], cards: list[Card]) -> None:
    print(f"\n{title}\n{'':<{_LABEL}}" + "".join(f"{card.name:>{_CELL}}" for card in cards))
    for row in rows:
        print(f"{row.what:<{_LABEL}}" + "".join(f"{cell:>{_CELL}}" for cell in row.cells), flush=True)


def find_subject(source: str, task: str | None) -> tuple[Subject, str]:
    """The model that a name, folder or file is, or that would be made of it, of which nothing but shapes is read.

    Args:
        source: As for `vpd info`.
        task: What a diffusion model is to be adapted for; none = `segment`.

    Returns:
        The model, and in words what of it is assumed.

    Raises:
        UsageError: If there is no such model, or it is for another task.
    """
    from vpd.weights import hub
    from vpd.weights.folder_files import diffusion_files, model_files
    from vpd.weights.shipped import WORLD, shipped_diffusion

    path = Path(source).expanduser()
    if path.is_file():
        return _to_be_made(source, *_architectures_in_file(path), task)
    if source == WORLD:
        return _of_diffusion(source, shipped_diffusion(), task)
    if not path.exists() and not path.parent.is_dir() and hub.is_hub_id(source):
        folder = hub.cached(source, model_files) or hub.cached(source, diffusion_files(with_text=False))
        folder = folder or hub.fetch_configurations(source, hub.look(source))
        if folder is None:
            raise UsageError(f"{source} has no configuration that says what it is, so nothing can be counted.")
        path = folder
    if (path / "unet").is_dir() or (path / "model_index.json").is_file():
        return _of_diffusion(source, path, task)
    return _of_model(source, path, task)


def _of_model(source: str, folder: Path, task: str | None) -> tuple[Subject, str]:
    """An adapted model."""
    from vpd.loading import find_model
    from vpd.model_folder import read_config
    from vpd.tasks.table import TASKS
    from vpd.training.cards import Subject

    folder = folder if (folder / "config.json").is_file() else find_model(source)
    config, base = read_config(folder, {name: kind.config_type for name, kind in TASKS.items()})
    if task not in (None, config.task):
        raise UsageError(f"{source} is a model for {config.task}, but --task {task} was asked for. Leave --task out.")
    kind: Any = TASKS[config.task]
    crop_px = kind.recipes["default"]["crop_px"] if config.fit.mode == "native" else config.fit.size_px
    has_text = (folder / "text_encoder").is_dir() or kind.reads_tokens or bool(base and base.text_encoder)
    text_bytes = _text_encoder_bytes(folder, config.backbone.unet) if has_text else 0
    plain = config.model_copy(update={"backbone": config.backbone.model_copy(update={"lora": None})})
    return Subject(plain, kind, crop_px, source, text_bytes), f"{config.task}, {config.in_short()}"


def _of_diffusion(source: str, folder: Path, task: str | None) -> tuple[Subject, str]:
    """A diffusion model in diffusers layout."""
    from vpd.files.atomic import read_json
    from vpd.weights.families import refuse_foreign_folder

    refuse_foreign_folder(folder)
    parts: list[dict[str, Any]] = []
    for part in ("unet", "vae"):
        found = read_json(folder / part / "config.json") if (folder / part / "config.json").is_file() else None
        if not isinstance(found, dict):
            raise UsageError(f"{folder} has no {part}/config.json, so nothing can be counted. Copy the model again.")
        parts.append({name: value for name, value in found.items() if not name.startswith("_")})
    return _to_be_made(source, parts[0], parts[1], task, folder)


def _to_be_made(
    source: str, unet: dict[str, Any], vae: dict[str, Any], task: str | None, folder: Path | None = None
) -> tuple[Subject, str]:
    """A model that training would make of a diffusion model."""
    from vpd.config import BackboneConfig
    from vpd.tasks.table import find_task
    from vpd.training.cards import Subject
    from vpd.training.settings import resolve_config
    from vpd.weights.families import check_unet

    check_unet(unet, vae)
    kind: Any = find_task(task or "segment")
    given = {"model": source, "data": {"root": "any"}, "batch_size": 1}
    settings = resolve_config(kind, given)
    stride, made_at = 2 ** (len(vae["block_out_channels"]) - 1), unet.get("sample_size")
    crop_px = min(settings.crop_px, _TIMES * made_at * stride) if isinstance(made_at, int) else settings.crop_px
    names = {name: number for name, number in _NAMES.items() if name in kind.config_type.model_fields}
    config = kind.config_type(
        backbone=BackboneConfig(unet=unet, vae=vae, map_scale="log_ratio"),
        fit=kind.training_fit("default", crop_px),
        **{name: tuple(f"name {place}" for place in range(number)) for name, number in names.items()},
        **{key: value for key, value in settings.model_options.items() if key in kind.config_type.model_fields},
    )
    text_bytes = _text_encoder_bytes(folder, unet) if kind.reads_tokens else 0
    told = "".join(f" of {number} {name}" for name, number in names.items())
    hint = " (--task for others)" if task is None else ""
    return Subject(config, kind, crop_px, source, text_bytes), f"a model for {kind.task}{told}, made of it{hint}"


def _architectures_in_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """UNet and autoencoder of a single file, by the shapes of its tensors."""
    import torch

    from vpd.weights.families import REMEDY, foreign_file
    from vpd.weights.key_names import LDM_UNET, SIGNS
    from vpd.weights.single_file import (
        LDM_VAE,
        as_linear,
        infer_unet_config,
        infer_vae_config,
        read_single_file,
        shapes_of,
        with_prefix,
    )
    from vpd.weights.untrusted import read_shapes

    if path.suffix.lower() != ".safetensors":
        single = read_single_file(path)
        single.check_family()
        return infer_unet_config(single.unet, origin=str(path)), infer_vae_config(single.vae, origin=str(path))
    tensors = {name: torch.empty(shape, device="meta") for name, (_, shape) in read_shapes(path).items()}
    if foreign := foreign_file(shapes_of(tensors)):
        raise UsageError(f"{path} is {foreign}. {REMEDY}")
    unet, vae = with_prefix(tensors, LDM_UNET), with_prefix(tensors, LDM_VAE)
    if not unet or not vae:
        is_published = any(sign in tensors for sign in SIGNS.values())
        what = "a published checkpoint: convert it first (vpd convert)" if is_published else "no diffusion model"
        raise UsageError(f"{path} is {what}. --card counts for models and diffusion models.")
    vae = {key: as_linear(key, value) for key, value in vae.items()}
    return infer_unet_config(unet, origin=str(path)), infer_vae_config(vae, origin=str(path))


def _text_encoder_bytes(folder: Path | None, unet: dict[str, Any]) -> int:
    """In float32: of the folder's if there is one, else of the usual one for the width of the text."""
    import math

    from vpd.weights.untrusted import read_shapes

    files = [] if folder is None else sorted((folder / "text_encoder").glob("*.safetensors"))
    if files:
        return 4 * sum(math.prod(shape) for _, shape in read_shapes(files[0]).values())
    return 4 * _TEXT_ENCODER_VALUES.get(int(unet.get("cross_attention_dim") or 0), 0)
