"""`vpd info`: what a model, a diffusion model or a checkpoint is, read from configurations and headers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    pass

Facts = dict[str, str]
"""What to say about a model, in order: word -> sentence."""

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
) -> None:
    """Tell what a model, diffusion model or checkpoint is."""
    import shutil
    import textwrap

    facts = describe_source(model)
    indent = max(map(len, facts)) + 2
    width = max(indent + 30, shutil.get_terminal_size((100, 24)).columns)
    for word, sentence in facts.items():
        lines = textwrap.wrap(sentence, width - indent, break_on_hyphens=False) or [""]
        print(f"{word:<{indent}}{lines[0]}", *(" " * indent + line for line in lines[1:]), sep="\n")


def describe_source(source: str | Path) -> Facts:
    """What a name, folder or file is; a model folder or safetensors file is described without loading torch.

    Raises:
        UsageError: If there is no such thing, or it is damaged or nothing this library knows.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _describe_file(path)
    if (path / "unet").is_dir():
        return _describe_diffusion(path)
    if _read_json(path / "config.json").get("_class_name") == "AutoencoderTiny":
        return _describe_encoder(path)
    if not (path / "config.json").is_file():
        from vpd.loading import find_model  # shipped models and hub ids; says what is wrong with the rest
        from vpd.weights.shipped import WORLD, shipped_diffusion

        if str(source) == WORLD:
            return _describe_diffusion(shipped_diffusion(), name=WORLD)
        path = find_model(source)
    return _describe_model(path)


def _describe_encoder(folder: Path) -> Facts:
    from vpd.backbones.tiny_encoder import load_tiny_encoder

    encoder = load_tiny_encoder(folder)
    return {
        "small encoder": str(folder),
        "latents": f"stride {encoder.config.latent_stride}, {encoder.config.latent_channels} channels; whose VAE makes "
        "the same, its files do not tell",
        "parameters": _millions(sum(parameter.numel() for parameter in encoder.parameters())),
        "use": f"vpd predict TASK ... --encoder {folder}",
    }


def _describe_model(folder: Path) -> Facts:
    from vpd.config import CONFIGS
    from vpd.model_folder import read_config
    from vpd.weights.untrusted import read_shapes

    kinds = CONFIGS
    if _read_json(folder / "config.json").get("task") not in CONFIGS:  # of a task that was added
        from vpd.tasks.table import TASKS

        kinds = {name: task.config_type for name, task in TASKS.items()}
    config, base = read_config(folder, kinds)
    shapes = read_shapes(folder / "model.safetensors")
    weights = {name: entry for name, entry in shapes.items() if not name.endswith(_BUFFERS)}
    num_own = _count(shape for _, shape in weights.values())
    frozen = [shape for name, (_, shape) in weights.items() if name.startswith("backbone.vae.")]
    num_vae = _count(frozen)
    text_file = folder / "text_encoder" / "model.safetensors"
    if text_file.is_file():
        frozen += [shape for _, shape in read_shapes(text_file).values()]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    types = ", ".join(sorted({dtype for dtype, _ in weights.values()}))
    return {
        "model": str(folder),
        "task": f"{config.title} ({config.task})",
        **config.told(),
        "head": getattr(config, "head", config.head_name),
        "images": config.fit.describe(),
        "recipe": config.recipe,
        "backbone": _describe_unet(config.backbone.unet),
        "latents": f"{config.backbone.latent_scaling}; timestep {config.backbone.timestep}",
        "diffusion": config.backbone.source or "not told",
        "text encoder": "yes" if (folder / "text_encoder").is_dir() or (base and base.text_encoder) else "none",
        "parameters": f"{_millions(num_own)} of its own ({types}), the others are those of its base"
        if base
        else f"{_millions(num_own - num_vae)} trainable, {_millions(_count(frozen))} frozen ({types})",
        **({"base": _short(base.source)} if base else {}),
        "files": f"{size / 1e6:,.1f} MB",
        "licence": config.licence,
        **{f"note: {key}": _short(value) for key, value in config.notes.items()},
    }


def _describe_diffusion(folder: Path, name: str | None = None) -> Facts:
    unet = _read_json(folder / "unet" / "config.json")
    parts = [part for part in ("unet", "vae", "text_encoder", "tokenizer") if (folder / part).is_dir()]
    return {
        "diffusion model": str(folder),
        "family": str(_read_json(folder / "model_index.json").get("_class_name", "not told")),
        "parts": ", ".join(parts),
        "backbone": _describe_unet(unet),
        "use": f"vpd train TASK --model {name or folder} --data DIR --out DIR",
    }


def _describe_file(path: Path) -> Facts:
    from vpd.config import CONFIGS
    from vpd.weights.key_names import LDM_UNET, SIGNS

    shapes = _shapes_of(path)
    facts = {"file": str(path), "tensors": f"{len(shapes)}, {_millions(_count(shapes.values()))} values"}
    if any(name.startswith(LDM_UNET) for name in shapes):
        widths = [shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")]
        has_text = any(name.startswith(("cond_stage_model.", "conditioner.")) for name in shapes)
        return {
            **facts,
            "kind": f"Stable Diffusion in one file, text width {widths[0] if widths else 'unknown'}, "
            f"{'with' if has_text else 'without'} text encoder",
            "use": f"vpd train TASK --model {path} --data DIR --out DIR",
        }
    for task, sign in SIGNS.items():
        if sign in shapes or f"module.{sign}" in shapes:
            return {
                **facts,
                "kind": f"published VPD checkpoint for {CONFIGS[task].title}",
                "use": f"vpd convert {task} {path} --out DIR" + " --diffusion FOLDER" * (task == "refer"),
            }
    return {**facts, "kind": "not known here"}


def _shapes_of(path: Path) -> dict[str, tuple[int, ...]]:
    from vpd.weights.untrusted import read_shapes, read_tensor_file, tensors_only

    if path.suffix == ".safetensors":
        return {name: shape for name, (_, shape) in read_shapes(path).items()}
    contents = read_tensor_file(path)
    for entry in ("state_dict", "model"):
        if isinstance(contents.get(entry), dict):
            contents = contents[entry]
    return {name: tuple(value.shape) for name, value in tensors_only(contents).items()}


def _describe_unet(unet: Mapping[str, Any]) -> str:
    channels = unet.get("block_out_channels", ())
    return f"UNet with {'/'.join(map(str, channels))} channels, text width {unet.get('cross_attention_dim')}"


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is none."""
    from vpd.files.atomic import read_json

    contents = read_json(path) if path.exists() else {}
    return contents if isinstance(contents, dict) else {}


def _count(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes))


def _millions(number: int) -> str:
    return f"{number / 1e6:,.2f} M" if number < 1e8 else f"{number / 1e6:,.0f} M"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 500 else text[:499] + "…"
