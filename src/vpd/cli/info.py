"""`vpd info`: what a model, a diffusion model or a checkpoint is, read from configurations and headers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vpd.cli.file_info import Facts, count, describe_file, millions, warn_of_values
from vpd.errors import UsageError

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "class_embeddings", "scene_embeddings")


def info(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Shipped model, model folder, hub id, diffusion model or checkpoint.",
            show_default=False,
        ),
    ],
    card: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What fits on graphics cards of this memory, such as 12GB or 8GB,12GB,16GB: sizes and batches of "
            "predicting and training, counted in a minute or so, no GPU needed.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="With --card, of a diffusion model: segment (if not given), refer or depth."),
    ] = None,
) -> None:
    """Tell what a model, diffusion model or checkpoint is."""
    import shutil
    import textwrap

    if card is not None:
        from vpd.cli.card_info import tell_cards

        tell_cards(model, card, task)
        return
    if task is not None:
        raise UsageError(f"--task {task} goes with --card, such as --card 12GB.")
    facts = describe_source(model)
    indent = max(map(len, facts)) + 2
    width = max(indent + 30, shutil.get_terminal_size((100, 24)).columns)
    for word, sentence in facts.items():
        lines = textwrap.wrap(sentence, width - indent, break_on_hyphens=False) or [""]
        print(f"{word:<{indent}}{lines[0]}", *(" " * indent + line for line in lines[1:]), sep="\n")


def describe_source(source: str | Path) -> Facts:
    """What a name, folder or file is; a model folder or safetensors file is described without loading torch.

    Of a hub id that is not in the cache, the configurations alone are downloaded.

    Raises:
        UsageError: If there is no such thing, or it is damaged or nothing this library knows.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return describe_file(path)
    own = _read_json(path / "config.json")
    if own.get("_class_name") == "AutoencoderTiny":
        return _describe_encoder(path)
    if (path / "unet").is_dir() or (path / "model_index.json").is_file() or "_class_name" in own:
        return _describe_diffusion(path)
    if not (path / "config.json").is_file():
        from vpd.weights.hub import is_hub_id
        from vpd.weights.shipped import WORLD, shipped_diffusion

        if str(source) == WORLD:
            return _describe_diffusion(shipped_diffusion(), name=WORLD)
        if not path.exists() and not path.parent.is_dir() and is_hub_id(source):
            return _describe_hub(str(source))
        from vpd.loading import find_model  # shipped models; says what is wrong with the rest

        path = find_model(source)
    return _describe_model(path)


def _describe_encoder(folder: Path) -> Facts:
    from vpd.backbones.tiny_encoder import load_tiny_encoder

    encoder = load_tiny_encoder(folder)
    return {
        "small encoder": str(folder),
        "latents": f"stride {encoder.config.latent_stride}, {encoder.config.latent_channels} channels; whose VAE makes "
        "the same, its files do not tell",
        "parameters": millions(sum(parameter.numel() for parameter in encoder.parameters())),
        "use": f"vpd predict TASK ... --encoder {folder}",
    }


def _describe_model(folder: Path) -> Facts:
    from vpd.weights.untrusted import read_shapes

    config, base = _read_model_config(folder)
    shapes = read_shapes(folder / "model.safetensors")
    weights = {name: entry for name, entry in shapes.items() if not name.endswith(_BUFFERS)}
    num_own = count(shape for _, shape in weights.values())
    frozen = [shape for name, (_, shape) in weights.items() if name.startswith("backbone.vae.")]
    num_vae = count(frozen)
    text_file = folder / "text_encoder" / "model.safetensors"
    if text_file.is_file():
        frozen += [shape for _, shape in read_shapes(text_file).values()]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    types = ", ".join(sorted({dtype for dtype, _ in weights.values()}))
    return {
        "model": str(folder),
        **warn_of_values([folder / "model.safetensors", text_file]),
        **_tell_config(config),
        "text encoder": "yes" if (folder / "text_encoder").is_dir() or (base and base.text_encoder) else "none",
        "parameters": f"{millions(num_own)} of its own ({types}), the others are those of its base"
        if base
        else f"{millions(num_own - num_vae)} trainable, {millions(count(frozen))} frozen ({types})",
        **({"base": _short(base.source)} if base else {}),
        "files": f"{size / 1e6:,.1f} MB",
        "licence": config.licence,
        **{f"note: {key}": _short(value) for key, value in config.notes.items()},
    }


def _read_model_config(folder: Path) -> tuple[Any, Any]:
    from vpd.config import CONFIGS
    from vpd.model_folder import read_config

    kinds = CONFIGS
    if _read_json(folder / "config.json").get("task") not in CONFIGS:  # of a task that was added
        from vpd.tasks.table import TASKS

        kinds = {name: task.config_type for name, task in TASKS.items()}
    return read_config(folder, kinds)


def _tell_config(config: Any) -> Facts:
    return {
        "task": f"{config.title} ({config.task})",
        **config.told(),
        "head": getattr(config, "head", config.head_name),
        "images": config.fit.describe(),
        "recipe": config.recipe,
        "backbone": _describe_unet(config.backbone.unet),
        "latents": f"{config.backbone.latent_scaling}; timestep {config.backbone.timestep}",
        "diffusion": config.backbone.source or "not told",
    }


def _describe_diffusion(folder: Path, name: str | None = None) -> Facts:
    from vpd.weights.folder_files import diffusion_files

    files = {path.relative_to(folder).as_posix() for path in folder.glob("*/*")}
    used = diffusion_files(with_text=True)(files).files
    parts = [part for part in ("unet", "vae", "text_encoder", "tokenizer") if (folder / part).is_dir()]
    facts = {
        "diffusion model": str(folder),
        **warn_of_values(folder / file for file in used if file.lower().endswith(".safetensors")),
        **_tell_diffusion(folder),
        "parts": ", ".join(parts),
    }
    use = {"use": f"vpd train TASK --model {name or folder} --data DIR --out DIR"}
    return facts if "not read here" in facts else {**facts, **use}


def _tell_diffusion(folder: Path) -> Facts:
    """Of the configurations of a diffusion model; with what is wrong with it, if it cannot be read here."""
    from vpd.weights.families import refuse_foreign_folder

    family = str(_read_json(folder / "model_index.json").get("_class_name", "not told"))
    facts = {"family": family, "backbone": _describe_unet(_read_json(folder / "unet" / "config.json"))}
    try:
        refuse_foreign_folder(folder)
    except UsageError as error:
        return {**facts, "not read here": str(error)}
    return facts


def _describe_hub(hub_id: str) -> Facts:
    """From the cache if all of it is there, else from the configurations, the hub's list and headers of weights."""
    from vpd.weights import hub
    from vpd.weights.folder_files import diffusion_files, encoder_files, model_files

    is_cached = {"hub": f"{hub_id}, in the cache: nothing is to be downloaded"}
    if folder := hub.cached(hub_id, model_files):
        return {**is_cached, **_describe_model(folder)}
    for with_text in (True, False):
        if folder := hub.cached(hub_id, diffusion_files(with_text=with_text)):
            return {**is_cached, **_describe_diffusion(folder, name=hub_id)}
    listing = hub.look(hub_id)
    facts = {"hub": hub_id, "licence": listing.licence}
    if listing.gated:
        facts["access"] = f"gated: agree to its terms at {hub.page(hub_id)}, then `hf auth login` or set HF_TOKEN"
    try:
        folder = hub.fetch_configurations(hub_id, listing)
    except UsageError as error:
        if not listing.gated:
            raise
        return {**facts, "configuration": str(error), "size": f"{_megabytes(listing.sizes.values())} in all"}
    own = _read_json(folder / "config.json") if folder else {}
    select = diffusion_files(with_text=True)
    use = f"vpd train TASK --model {hub_id} --data DIR --out DIR"
    if folder and "format_version" in own:
        config, base = _read_model_config(folder)
        facts |= _tell_config(config) | ({"base": _short(base.source)} if base else {})
        select, use = model_files, f"vpd predict {config.task} IMAGE... --model {hub_id} --out DIR"
    elif own.get("_class_name") == "AutoencoderTiny":
        select, use = encoder_files, f"vpd predict TASK ... --encoder {hub_id}"
        facts["small encoder"] = "AutoencoderTiny"
    elif folder:
        facts |= _tell_diffusion(folder)
    needed = select(listing.sizes)
    if "not read here" in facts:
        return facts
    if needed.lacking:
        return {**facts, "not read here": hub.tell_lacking(hub_id, needed, listing)}
    counts = [hub.read_header(hub_id, name) for name in needed.files if name.endswith(".safetensors")]
    if all(counts):
        types = ", ".join(sorted({dtype for each in counts for dtype in each}))
        facts["parameters"] = f"{millions(sum(sum(each.values()) for each in counts))} ({types})"
    size = _megabytes(listing.sizes[name] for name in needed.files)
    return {**facts, "download": f"{size} in {len(needed.files)} files, to {hub.constants.HF_HUB_CACHE}", "use": use}


def _describe_unet(unet: Mapping[str, Any]) -> str:
    channels = unet.get("block_out_channels", ())
    return f"UNet with {'/'.join(map(str, channels))} channels, text width {unet.get('cross_attention_dim')}"


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is none."""
    from vpd.files.atomic import read_json

    contents = read_json(path) if path.exists() else {}
    return contents if isinstance(contents, dict) else {}


def _megabytes(sizes: Iterable[int]) -> str:
    return f"{sum(sizes) / 1e6:,.1f} MB"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 500 else text[:499] + "…"
