"""Published VPD checkpoints -> model folders: sizes are read off the tensors, loading is strict."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from vpd.config import BackboneConfig, DepthConfig, ModelConfig, ReferConfig, SegmentConfig, Task
from vpd.errors import UsageError
from vpd.loading import build_model
from vpd.prompts.encoder import TextEncoder
from vpd.reference.keys import DROPPED, SIGNS, UNET_PREFIX, VAE_PREFIX, published_names
from vpd.reference.single_file import as_linear, infer_unet_config, infer_vae_config, load_renamed
from vpd.reference.tensor_files import read_tensor_file, tensors_only
from vpd.tasks import depth, referring, segmentation
from vpd.tasks.model import PerceptionModel

LICENCE = "weights: CreativeML Open RAIL-M (Stable Diffusion) and the terms of whoever trained them"
_ENTRIES: dict[Task, str] = {"segment": "state_dict", "refer": "model", "depth": "model"}


def convert(
    task: Task,
    checkpoint: str | Path,
    out: str | Path,
    *,
    diffusion: str | Path | None = None,
    heads: int | None = None,
    max_depth_m: float = 10.0,
) -> PerceptionModel:
    """Turn a published checkpoint into a model folder that `vpd.load` reads.

    Args:
        task: What the checkpoint was trained for.
        checkpoint: mmseg checkpoint (`state_dict`), or file with a `model` entry, or the bare state dict.
        out: Folder to write.
        diffusion: Stable Diffusion model to take the text encoder from; needed for `refer`.
        heads: Attention heads of every UNet layer; none = 8 (64 channels a head where the text is 1024 wide).
        max_depth_m: Range of a depth model, which the checkpoint does not tell.

    Returns:
        The model that was written.

    Raises:
        UsageError: If the file is unreadable, of another task, or does not fit; every key is named.
    """
    model = read_published(task, checkpoint, diffusion=diffusion, heads=heads, max_depth_m=max_depth_m)
    model.save(out)
    return model


def read_published(
    task: Task,
    checkpoint: str | Path,
    *,
    diffusion: str | Path | None = None,
    heads: int | None = None,
    max_depth_m: float = 10.0,
) -> PerceptionModel:
    """The model in a published checkpoint, in float32; arguments and errors as for `convert`."""
    if task == "refer" and diffusion is None:
        raise UsageError(
            "A published referring checkpoint holds no text encoder: give the Stable Diffusion model it was trained "
            "from with --diffusion (folder, hub id or single file)."
        )
    state = _published_state(task, checkpoint)
    model = build_published(task, state, origin=str(checkpoint), heads=heads, max_depth_m=max_depth_m)
    if diffusion is not None and task == "refer":
        model.text_encoder = TextEncoder.from_pretrained(diffusion)
        if model.text_encoder.dim != model.backbone.text_dim:
            raise UsageError(
                f"{diffusion} has text embeddings of {model.text_encoder.dim} channels, {checkpoint} needs "
                f"{model.backbone.text_dim}: it was trained from another Stable Diffusion model."
            )
    return model


def build_published(
    task: Task, state: dict[str, Tensor], *, origin: str, heads: int | None = None, max_depth_m: float = 10.0
) -> PerceptionModel:
    """A model of published architecture with the weights of a published state dict.

    Args:
        task: What it was trained for.
        state: Published key -> tensor.
        origin: Where it came from, for messages and the record.
        heads: As for `convert`.
        max_depth_m: As for `convert`.

    Raises:
        UsageError: If keys are missing or unexpected or shapes do not fit; every one is named.
    """
    state = {key: value for key, value in state.items() if not DROPPED.match(key)}
    state = {key: as_linear(key, value) for key, value in state.items()}
    unet, vae = (
        {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for prefix in (UNET_PREFIX[task], VAE_PREFIX[task])
    )
    backbone = BackboneConfig(
        unet=infer_unet_config(unet, origin=origin, heads=heads),
        vae=infer_vae_config(vae, origin=origin),
        latent_scaling="none",
        detach_maps=True,
        source=origin,
    )
    try:
        config = _task_config(task, state, backbone, max_depth_m)
    except KeyError as error:
        raise UsageError(f"{origin} is not a complete {task} checkpoint: {error} is missing.") from None
    model = build_model(config)
    return load_renamed(model, state, published_names(task, model.state_dict()), origin=origin)


def _task_config(task: Task, state: dict[str, Tensor], backbone: BackboneConfig, max_depth_m: float) -> ModelConfig:
    common: dict[str, Any] = {"recipe": "reference", "backbone": backbone, "licence": LICENCE}
    common["notes"] = {"converted_from": Path(backbone.source).name}
    if task == "segment":
        return SegmentConfig(
            classes=_names("ade20k_classes.json", state["class_embeddings"].shape[0], "class"),
            fit=segmentation.REFERENCE_FIT,
            head_channels=state["decode_head.conv_seg.weight"].shape[1],
            count_ignored=True,
            **common,
        )
    if task == "refer":
        joined = state["classifier.conv1_3.weight"].shape[1]  # hidden width, UNet features and tokens of 1/16
        return ReferConfig(
            token_length=joined - state["classifier.conv2_4.weight"].shape[0] - backbone.unet["block_out_channels"][1],
            fit=referring.REFERENCE_FIT,
            head_channels=state["classifier.conv1_1.weight"].shape[1],
            **common,
        )
    deconvs = [key for key in state if re.fullmatch(r"decoder\.deconv_layers\.\d+\.weight", key)]
    deconvs = sorted((key for key in deconvs if state[key].ndim == 4), key=_number)
    return DepthConfig(
        scenes=_names("nyu_scenes.json", state["encoder.class_embeddings"].shape[0], "scene"),
        max_depth_m=max_depth_m,
        fit=depth.REFERENCE_FIT,
        head_channels=state["last_layer_depth.0.weight"].shape[1],
        feature_channels=state["encoder.out_layer.0.weight"].shape[0],
        deconv_channels=tuple(state[key].shape[1] for key in deconvs),
        **common,
    )


def _published_state(task: Task, checkpoint: str | Path) -> dict[str, Tensor]:
    contents = read_tensor_file(checkpoint)
    entry = contents.get(_ENTRIES[task], contents.get("model", contents.get("state_dict", contents)))
    if not isinstance(entry, dict):
        raise UsageError(f"{checkpoint}: its entry {_ENTRIES[task]!r} is no dictionary of weights.")
    state = {key.removeprefix("module."): value for key, value in tensors_only(entry).items()}
    if SIGNS[task] not in state:
        found = [other for other, sign in SIGNS.items() if sign in state]
        what = f"a published {found[0]} checkpoint" if found else "no published VPD checkpoint"
        raise UsageError(
            f"{checkpoint} is {what}, not a {task} one (it has no {SIGNS[task]}). "
            + (f"Use: vpd convert {found[0]} {checkpoint} --out DIR" if found else "Check the file.")
        )
    return state


def _names(file: str, count: int, kind: str) -> tuple[str, ...]:
    """The known names if their number fits, else numbered ones."""
    known = json.loads((files("vpd.data") / file).read_text(encoding="utf-8"))
    return tuple(known) if len(known) == count else tuple(f"{kind}_{index}" for index in range(count))


def _number(key: str) -> int:
    return int(re.search(r"\.(\d+)\.", key)[1])  # type: ignore[index]
