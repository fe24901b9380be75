"""From a model folder, or a hub repository that holds one, to a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vpd.config import TaskConfig
from vpd.errors import UsageError, first_line
from vpd.files.atomic import read_json
from vpd.inference.precision import note_plain_device, warn_of_slow
from vpd.model_folder import (
    CHECKPOINTS,
    CONFIG,
    CONFIG_FILE,
    MODEL,
    WEIGHTS_FILE,
    Base,
    base_weights,
    encoder_weights,
    find_base,
    read_config,
)
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.model import PerceptionModel
from vpd.tasks.table import TASKS, TaskKind
from vpd.weights.difference import put_back, weights_fingerprint
from vpd.weights.finite import warn_not_finite
from vpd.weights.folder_files import model_files
from vpd.weights.hub import download, is_hub_id
from vpd.weights.shipped import ADAPTED, WORLD, shipped_model
from vpd.weights.single_file import listed, mismatches, shapes_of
from vpd.weights.untrusted import tensors_only

logger = logging.getLogger(__name__)

_ALIGNMENT_BYTES = 64  # of a cache line, as torch allocates
_DTYPES = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DTYPES |= {"float64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load(
    source: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    task: TaskKind | None = None,
    revision: str | None = None,
) -> Any:
    """A trained model, in eval mode; its file is mapped into memory and each tensor copied at most once.

    Weights that hold NaN or infinity are told by a warning, with the name of the first.

    Args:
        source: Model folder, hub id of a repository that holds one, or `world-segment`, `world-open`, `world-refer` or
            `world-depth`, the small models that come with the package.
        device: `auto` = CUDA or Apple GPU where there is one, else CPU; or a torch device.
        dtype: `auto` = float32; or `float32`, `bfloat16`, `float16`. Where a CPU has no kernels for it, a warning says
            how much slower it is.
        task: Class of the model, where it is none of this package's tasks.
        revision: Branch, tag or commit of a hub id, which `owner/name@revision` names too; none = its main branch.

    Returns:
        A `SegmentationModel`, `ReferringModel` or `DepthModel`, whatever was saved; or a model of `task`.

    Raises:
        UsageError: If there is no such model, or its files are damaged or do not fit one another.
    """
    folder = find_model(source if revision is None else at_revision(source, revision))
    place, precision = find_device(device), find_dtype(dtype)
    warn_of_slow(place, precision)
    note_plain_device(place.type)
    kinds = TASKS if task is None else {**TASKS, task.task: task}
    config, base = read_config(folder, {name: kind.config_type for name, kind in kinds.items()})
    model = build_model(config, kinds[config.task])
    if (folder / "text_encoder").is_dir():
        model.text_encoder = TextEncoder.from_pretrained(folder, dtype=precision)
    elif base and base.text_encoder:
        model.text_encoder = TextEncoder.from_pretrained(find_base(base.source))
    if model.text_encoder is not None:
        model.text_encoder.check_fit(model.backbone.text_dim, folder)
    tensors = _read_weights(folder / WEIGHTS_FILE)
    if base:
        tensors = _with_base(tensors, base, folder, model.text_encoder if base.text_encoder else None)
    expected = {key: value for key, value in model.state_dict().items() if not key.startswith("text_encoder.")}
    problems = mismatches(shapes_of(tensors), shapes_of(expected))
    problems += [
        f"{key} holds {tensors[key].dtype}"
        for key, value in expected.items()
        if key in tensors and tensors[key].is_floating_point() != value.is_floating_point()
    ]
    if problems:
        told = f"{folder / WEIGHTS_FILE} does not fit its config.json ({len(problems)} keys):{listed(problems, 20)}"
        raise UsageError(told)
    # tensor by tensor: as a whole, the model would for a moment be in memory twice
    placed = {key: _placed(value, place, precision) for key, value in tensors.items()}
    warn_not_finite(placed, folder)
    assign_weights(model, placed)
    return model.to(device=place, dtype=precision).eval()


def at_revision(source: str | Path, revision: str) -> str:
    """The source of a hub id at a branch, tag or commit.

    Raises:
        UsageError: If it is no hub id, or no such name can be.
    """
    if Path(source).expanduser().exists() or not is_hub_id(source) or not is_hub_id(f"{source}@{revision}"):
        raise UsageError(
            f"revision={revision!r} of {source}: only a hub id, owner/name, has branches, tags and commits."
        )
    return f"{source}@{revision}"


def _with_base(tensors: dict[str, Tensor], base: Base, folder: Path, encoder: TextEncoder | None) -> dict[str, Tensor]:
    weights = base_weights(base.source)
    of_text = encoder_weights(encoder) if encoder else {}
    if weights_fingerprint({**weights, **of_text}) != base.fingerprint:
        raise UsageError(
            f"{folder} was made from another {base.source} than the one that is here: its weights differ. Get the one "
            "it was made from, or a model folder that holds all weights."
        )
    return put_back(tensors, weights)


def assign_weights(model: PerceptionModel[Any], tensors: Mapping[str, Tensor]) -> None:
    """Let a model from `build_model` have these tensors for weights; its text encoder may come from elsewhere."""
    model.load_state_dict(dict(tensors), strict=False, assign=True)


def build_model(config: TaskConfig, task: TaskKind | None = None) -> Any:
    """The model of a configuration on the meta device: it has shapes but no weights yet.

    Its class is `task`, or the one of the table.

    Raises:
        UsageError: If the sizes in the configuration do not fit one another.
    """
    kind: Any = task or TASKS[config.task]
    try:
        with torch.device("meta"):
            return kind(config, backbone=kind.backbone_type.from_config(config.backbone))
    except UsageError:
        raise
    except Exception as error:  # whatever diffusers and torch say of sizes that do not fit one another
        raise UsageError(f"No model can be built from this configuration: {first_line(error)}") from error


def check_task(model: PerceptionModel[Any], task: str, source: str | Path, *, verb: str) -> None:
    """Raise unless a model, which the user calls `source`, is for the task that `vpd VERB` was asked for."""
    if model.task != task:
        raise UsageError(
            f"{source} is a model for {model.task}, but {task} was asked for. "
            f"Use `vpd {verb} {model.task} ...`, or another model."
        )


def find_model(source: str | Path) -> Path:
    """The local folder of a model.

    Raises:
        UsageError: If there is none, or it is something else.
    """
    if not isinstance(source, (str, Path)) or not str(source).strip():
        raise UsageError(f"{source!r} is no model: give its folder, a hub id, or one of {', '.join(ADAPTED)}.")
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / CONFIG_FILE).is_file():
            return path
        if (path / "unet").is_dir():
            raise UsageError(
                f"{path} is a diffusion model, not a trained perception model. Train one from it: "
                f"vpd train TASK --model {path} --data DIR --out DIR"
            )
        if found := model_of_run(path):
            return found
        if (path / CONFIG).is_file():
            raise UsageError(f"{path} is a training run that has saved no model yet. Go on with it by --resume.")
        raise UsageError(f"{path} is not a model folder: it has no {CONFIG_FILE}.")
    if path.is_file():
        raise UsageError(
            f"{path} is a file; a model is a folder. A published checkpoint becomes one by: "
            f"vpd convert TASK {path} --out DIR"
        )
    if (path.parent / CHECKPOINTS).is_dir():
        raise UsageError(
            f"{path.parent} is a training run that has no {path.name}/ yet. Finish it by --resume, or take one of "
            f"{path.parent / CHECKPOINTS}/."
        )
    if str(source) in ADAPTED:
        return shipped_model(str(source))
    if str(source) == WORLD:
        raise UsageError(
            f"{WORLD} is a diffusion model, not a trained perception model. Those that were adapted from it: "
            f"{', '.join(ADAPTED)}. Or train one: vpd train TASK --model {WORLD} --data DIR --out DIR"
        )
    if not is_hub_id(source):
        raise UsageError(f"There is no model folder {source}. Shipped models: {', '.join(ADAPTED)}.")
    return download(str(source), model_files)


def model_of_run(folder: Path) -> Path | None:
    """The model of a training run's folder: the finished one, else its best checkpoint, else its latest, which is said.

    None where the folder is no run, or one without any.
    """
    if (folder / CONFIG_FILE).is_file() or (folder / "unet").is_dir():
        return None
    if (folder / MODEL / CONFIG_FILE).is_file():
        return folder / MODEL
    steps = [path.parent for path in sorted((folder / CHECKPOINTS).glob(f"step-*/{CONFIG_FILE}"))]
    if not steps:
        return None
    kind = TASKS.get(str(_facts(steps[-1] / CONFIG_FILE).get("task")))
    name = kind.score if kind else ""
    found = {step: _facts(_facts(step / "state.json").get("scores")).get(name) for step in steps}
    scores = {step: score for step, score in found.items() if isinstance(score, float)}
    sign = -1 if kind and kind.score_is_error else 1
    best = max(scores, key=lambda step: sign * scores[step]) if scores else steps[-1]
    told = f"the best so far, {name} {scores[best]:.4g}" if scores else "the latest"
    logger.warning("The run in %s is not finished: taking its checkpoint %s, %s.", folder, best.name, told)
    return best


def _facts(source: Any) -> dict[str, Any]:
    """A mapping, or that in a JSON file; nothing where it is none or cannot be read, as loading it says."""
    with suppress(UsageError):
        source = read_json(source) if isinstance(source, Path) else source
    return source if isinstance(source, dict) else {}


def is_adapted(source: str | Path) -> bool:
    """Whether a source is a model of ours, shipped, a folder or that of a run, rather than a diffusion model."""
    path = Path(source).expanduser()
    if str(source) in ADAPTED or (path / CONFIG_FILE).is_file():
        return True
    return (path / CONFIG).is_file() and not (path / "unet").is_dir()


def find_device(device: str | torch.device) -> torch.device:
    """The torch device of a name; raises if there is no such device here."""
    if device == "auto":
        return torch.device(_devices_here()[0])
    try:
        found = torch.device(device)
        torch.ones(1, device=found).item()  # fails where there is nothing to compute with
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        known = ", ".join([*_devices_here(), "auto"])
        raise UsageError(f"There is no device {device!r} here ({first_line(error)}). Known here: {known}.") from None
    return found


def _devices_here() -> list[str]:
    """Kinds of devices of this machine, the best first."""
    is_here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return [name for name, there in is_here.items() if there]


def find_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch type of a name; raises if it is not one a model can run in."""
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise UsageError(f"Unknown dtype {dtype!r}. Choose one of: {', '.join(_DTYPES)}.")
    return _DTYPES[dtype]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself (AMX, AVX512-BF16 on x86); emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # have no public names
    return device.type == "cpu" and any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, copied if its memory is not aligned, as that of mapped files: CPU kernels round differently there."""
    return tensor if tensor.data_ptr() % _ALIGNMENT_BYTES == 0 else tensor.clone()


def _placed(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A mapped tensor on its device, and in its type if that is a floating one."""
    return aligned(tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype))


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UsageError(f"There is no {path}: the model folder is not complete.")
    try:
        return tensors_only(load_file(path))
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is truncated or damaged ({error}). Copy the model again.") from None
