"""Published VPD checkpoints -> model folders: sizes are read off the tensors, loading is strict."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from vpd.config import BackboneConfig, DepthConfig, ReferConfig, SegmentConfig, Task, TaskConfig, unique_names
from vpd.datasets.annotations import shipped_json
from vpd.errors import UsageError, wrong_fields
from vpd.loading import build_model
from vpd.prompts.encoder import TextEncoder
from vpd.tasks import depth, referring, segmentation
from vpd.tasks.model import PerceptionModel
from vpd.weights.finite import not_finite, told_not_finite
from vpd.weights.key_names import ENCODER_PREFIX, PUBLISHED_UNET, PUBLISHED_VAE, SIGNS, is_dropped, published_names
from vpd.weights.single_file import as_linear, infer_unet_config, infer_vae_config, listed, load_renamed, with_prefix
from vpd.weights.sources import recorded_source
from vpd.weights.untrusted import read_tensor_file, tensors_only

LICENCE = "weights: CreativeML Open RAIL-M (Stable Diffusion) and the terms of whoever trained them"
_DECONV = re.compile(r"decoder\.deconv_layers\.(\d+)\.weight")
_MOST_TOLD = 20
"""Of the keys that do not fit, in a message."""
_ENTRIES: dict[Task, str] = {"segment": "state_dict", "refer": "model", "depth": "model"}


def convert(
    task: Task,
    checkpoint: str | Path,
    out: str | Path,
    *,
    diffusion: str | Path | None = None,
    heads: int | None = None,
    max_depth_m: float = 10.0,
) -> PerceptionModel[Any]:
    """Turn a published checkpoint into a model folder that `vpd.load` reads.

    Args:
        task: What the checkpoint was trained for.
        checkpoint: mmseg checkpoint (`state_dict`), or file with a `model` entry, or the bare state dict.
        out: Folder to write.
        diffusion: Stable Diffusion model it was trained from (folder, hub id, single file). Its text encoder is
            needed for `refer`; `segment` and `depth` record it, so that other classes find their prompts.
        heads: Attention heads of every UNet layer; none = 8 (64 channels a head where the text is 1024 wide).
        max_depth_m: Range of a depth model, which the checkpoint does not tell.

    Returns:
        The model that was written.

    Raises:
        UsageError: If the file is unreadable, of another task, does not fit, or holds NaN or infinity; keys are named.
    """
    if task == "refer" and diffusion is None:
        raise UsageError(
            "A published referring checkpoint holds no text encoder: give the Stable Diffusion model it was trained "
            "from with --diffusion (folder, hub id or single file)."
        )
    encoder = None if diffusion is None else TextEncoder.from_pretrained(diffusion)
    state, classes = _read_checkpoint(task, checkpoint)
    source = str(checkpoint if diffusion is None else diffusion)
    model = build_published(
        task, state, origin=str(checkpoint), source=source, heads=heads, max_depth_m=max_depth_m, classes=classes
    )
    if encoder is not None:
        encoder.check_fit(model.backbone.text_dim, str(diffusion))
    if task == "refer":
        model.text_encoder = encoder
    model.save(out)
    return model


def build_published(
    task: Task,
    state: dict[str, Tensor],
    *,
    origin: str,
    source: str | None = None,
    heads: int | None = None,
    max_depth_m: float = 10.0,
    classes: Sequence[str] = (),
) -> PerceptionModel[Any]:
    """A model of published architecture with the weights of a published state dict, for `convert`; raises as it does.

    `origin`, where the state dict came from, stands in messages and in the model's notes; `source` is the diffusion
    model that its configuration names, none = `origin`. Where the number of `classes` does not fit, ADE20K's or
    numbered ones are taken.
    """
    if heads is not None and heads < 1:
        raise UsageError(f"heads={heads}: the number of attention heads must be at least 1.")
    if not 0 < max_depth_m < math.inf:
        raise UsageError(f"max_depth_m={max_depth_m}: the largest depth must be a positive number of metres.")
    state = {key: as_linear(key, value) for key, value in state.items() if not is_dropped(key)}
    unet, vae = (with_prefix(state, ENCODER_PREFIX[task] + part) for part in (PUBLISHED_UNET, PUBLISHED_VAE))
    try:
        backbone = BackboneConfig(
            unet=infer_unet_config(unet, origin=origin, heads=heads),
            vae=infer_vae_config(vae, origin=origin),
            latent_scaling="none",
            detach_maps=True,
            source=recorded_source(source or origin),
        )
        config = _task_config(task, state, backbone, max_depth_m=max_depth_m, classes=classes)
        config = config.model_copy(update={"notes": {"converted_from": Path(origin).name}})
        model = build_model(config)
        names = published_names(task, model.state_dict())
    except UsageError as error:
        raise error if origin in str(error) else UsageError(f"{origin}: {error}") from None
    except KeyError as error:
        raise UsageError(f"{origin} is not a complete {task} checkpoint: {error} is missing.") from None
    except ValidationError as error:
        found = [f"{field.path}={field.given!r} ({field.message})" for field in wrong_fields(error)]
        raise UsageError(f"{origin} is no {task} checkpoint that can be read: {'; '.join(found)}.") from None
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        # A network of the sizes that the tensors tell cannot be built.
        raise UsageError(f"{origin} is no {task} checkpoint that can be read: {error}") from error
    _check_types(state, names, model.state_dict(), origin=origin)
    model = load_renamed(model, state, names, origin=origin, most=_MOST_TOLD)
    if bad := not_finite({names[ours]: value for ours, value in model.state_dict().items()}):
        raise UsageError(told_not_finite(bad, len(names), origin))
    return model


def _task_config(
    task: Task, state: dict[str, Tensor], backbone: BackboneConfig, *, max_depth_m: float, classes: Sequence[str]
) -> TaskConfig:
    common: dict[str, Any] = {"recipe": "reference", "backbone": backbone, "licence": LICENCE}
    if task == "segment":
        count = _size(state, "class_embeddings", 0)
        return SegmentConfig(
            classes=tuple(classes) if len(classes) == count else _names("ade20k_classes.json", count, "class"),
            fit=segmentation.REFERENCE_FIT,
            head_channels=_size(state, "decode_head.conv_seg.weight", 1),
            count_ignored=True,
            **common,
        )
    if task == "refer":
        joined = _size(state, "classifier.conv1_3.weight", 1)  # hidden width, UNet features and tokens of 1/16
        return ReferConfig(
            token_length=joined - _size(state, "classifier.conv2_4.weight", 0) - backbone.unet["block_out_channels"][1],
            fit=referring.REFERENCE_FIT,
            head_channels=_size(state, "classifier.conv1_1.weight", 1),
            **common,
        )
    layers = {int(found[1]): value for key, value in state.items() if (found := _DECONV.fullmatch(key))}
    deconvs = [value for _, value in sorted(layers.items()) if value.ndim == 4]
    return DepthConfig(
        scenes=_names("nyu_scenes.json", _size(state, "encoder.class_embeddings", 0), "scene"),
        max_depth_m=max_depth_m,
        fit=depth.REFERENCE_FIT,
        head_channels=_size(state, "last_layer_depth.0.weight", 1),
        feature_channels=_size(state, "encoder.out_layer.0.weight", 0),
        deconv_channels=tuple(weight.shape[1] for weight in deconvs),
        loss_over="batch",
        **common,
    )


def _size(state: dict[str, Tensor], key: str, axis: int) -> int:
    """Size of one axis of a tensor, at least 1."""
    shape = tuple(state[key].shape)
    if len(shape) <= axis or shape[axis] < 1:
        raise UsageError(f"{key} has shape {shape}, which no published checkpoint has. Check the file.")
    return shape[axis]


def _check_types(state: dict[str, Tensor], names: dict[str, str], expected: dict[str, Tensor], *, origin: str) -> None:
    wrong = [
        f"{theirs} is {str(state[theirs].dtype).removeprefix('torch.')}, needs a floating-point type"
        for ours, theirs in names.items()
        if theirs in state and expected[ours].is_floating_point() and not state[theirs].is_floating_point()
    ]
    if wrong:
        raise UsageError(f"{origin} does not fit ({len(wrong)} keys):{listed(wrong, _MOST_TOLD)}")


def _read_checkpoint(task: Task, checkpoint: str | Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Published key -> tensor, and the class names that mmseg saves beside them."""
    contents = read_tensor_file(checkpoint)
    entry = contents.get(_ENTRIES[task], contents.get("model", contents.get("state_dict", contents)))
    if not isinstance(entry, dict):
        raise UsageError(f"{checkpoint}: its entry {_ENTRIES[task]!r} is no dictionary of weights.")
    state = tensors_only(entry)
    if SIGNS[task] not in state:
        found = [other for other, sign in SIGNS.items() if sign in state]
        what = f"a published {found[0]} checkpoint" if found else "no published VPD checkpoint"
        raise UsageError(
            f"{checkpoint} is {what}, not a {task} one (it has no {SIGNS[task]}). "
            + (f"Use: vpd convert {found[0]} {checkpoint} --out DIR" if found else "Check the file.")
        )
    return state, _class_names(contents.get("meta"))


def _class_names(meta: object) -> tuple[str, ...]:
    """Class names as mmseg saves them; none where they are missing, not words, or not distinct."""
    found = meta.get("CLASSES") if isinstance(meta, dict) else None
    if not isinstance(found, (list, tuple)) or not all(isinstance(name, str) for name in found):
        return ()
    try:
        return unique_names(found)
    except UsageError:
        return ()


def _names(file: str, count: int, kind: str) -> tuple[str, ...]:
    """The known names if their number fits, else numbered ones."""
    known = shipped_json(file)
    return tuple(known) if len(known) == count else tuple(f"{kind}_{index}" for index in range(count))
