"""`vpd.export`: files that give a model's outputs without this library, compared with it before they are left."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vpd.errors import UsageError
from vpd.exporting.formats import SUFFIXES, Run, check_target, read, write
from vpd.exporting.networks import (
    TEXTS,
    Network,
    Prompts,
    Target,
    find_prompts,
    image_network,
    image_step_px,
    least_steps,
    text_network,
    token_ids,
    token_length,
)
from vpd.files.atomic import atomic_folder, check_writable, write_json
from vpd.inference.outputs import NOT_NUMBERS, OutputError, likely_causes
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.model import PerceptionModel
from vpd.tasks.predictions import metres_per_step
from vpd.version import __version__

logger = logging.getLogger(__name__)

FACTS_FILE, PROMPTS_FILE, TOKENIZER_FILE = "export.json", "prompts.npy", "tokenizer.json"
FORMAT_VERSION = 1
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """A written file compared with the model on one input."""

    network: str
    """Which of the files."""
    trial: str
    """The input, in words."""
    max_error: float
    """Largest difference of an output value, in its unit (logits, metres)."""
    relative_error: float
    """The same over the model's largest output."""


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote."""

    folder: Path
    """Where it lies."""
    checks: tuple[Check, ...]
    """Every comparison with the model."""
    bytes: int
    """Size of all files."""


def export(
    model: PerceptionModel,
    out: str | Path,
    *,
    target: Target,
    prompts: Prompts | None = None,
    text_encoder: bool = False,
    tolerance: float = TOLERANCE,
) -> ExportReport:
    """Write a model as a file for torch.export, ONNX Runtime or OpenVINO, in float32.

    The graph takes any number of images, `(b, 3, H, W)` in [-1, 1], of any height and width that are multiples of
    `multiple_px`, and gives logits or metres of the same size. `export.json` beside it says all that a program needs
    to know. The file is read back and run on other sizes, batches and prompts than it was traced with; if it differs
    from the model, nothing is left.

    Args:
        model: Of any task, in float32; it stays as it is.
        out: A folder that is empty or not there yet.
        target: `torch` (.pt2), `onnx` or `openvino` (.xml and .bin).
        prompts: `constant` = the model's own classes, or the mean of its scenes, are part of the graph; `input` = the
            graph takes `text_embeds`: `(n, d)` of classes, `(b, 1, d)` of scenes, `(b, k, d)` of an expression's
            tokens. None = constant, but input for referring.
        text_encoder: Write the text encoder as a second graph, and CLIP's tokenizer.
        tolerance: Largest difference from the model's outputs, over the largest of them.

    Raises:
        UsageError: If a package is missing, the folder is in use, the model cannot be exported so, or a file differs
            from the model by more than the tolerance.
    """
    check_target(target)
    folder = _free_folder(out)
    if model.dtype != torch.float32:
        raise UsageError(f"This model is {str(model.dtype).removeprefix('torch.')}; load it in float32 to export it.")
    if not tolerance > 0:
        raise UsageError(f"tolerance={tolerance}: give a number above 0, such as {TOLERANCE}.")
    prompts = find_prompts(model, prompts)
    networks = [image_network(model, prompts, target=target), *([text_network(model)] if text_encoder else [])]
    checks: list[Check] = []
    with atomic_folder(folder, remedy="export again") as partial, model.predicting():
        for network in networks:
            path = partial / f"{network.name}{SUFFIXES[target]}"
            logger.info("Tracing and writing %s: about a minute, longer for large models.", path.name)
            write(network, path, target)
            logger.info("Comparing it with the model.")
            checks += compare(network, read(path, target), tolerance)
        if text_encoder and model.text_encoder is not None:
            _write_tokenizer(model.text_encoder, partial / TOKENIZER_FILE, token_length(model))
        if prompts == "input" and len(own := model.own_prompts()):
            np.save(partial / PROMPTS_FILE, own.cpu().numpy(), allow_pickle=False)
        facts = describe(model, networks, target=target, prompts=prompts)
        facts |= {"tolerance": tolerance, "parity": [asdict(check) for check in checks]}
        write_json(partial / FACTS_FILE, facts)
        size = sum(path.stat().st_size for path in partial.iterdir())
    return ExportReport(folder=folder, checks=tuple(checks), bytes=size)


def compare(network: Network, run: Run, tolerance: float) -> list[Check]:
    """What a graph read back gives for every trial, against the original.

    Raises:
        UsageError: If one differs by more than the tolerance, or what the original gives is not numbers.
    """
    checks = []
    for words, inputs in network.trials():
        with torch.no_grad():
            wanted, got = network.original(*inputs).cpu(), run(*inputs)
        if not wanted.isfinite().all():
            causes = likely_causes(wanted.dtype)
            raise OutputError(f"The {network.name} cannot be exported ({words}): {NOT_NUMBERS}: {causes}.")
        error = float((got - wanted).abs().max()) if got.shape == wanted.shape else float("inf")
        check = Check(network.name, words, error, error / max(float(wanted.abs().max()), 1e-30))
        if not check.relative_error <= tolerance:
            raise UsageError(
                f"The exported {network.name} differs from the model by {check.relative_error:.1e} of its largest "
                f"output ({words}; the tolerance is {tolerance:.1e}), so nothing was written. Give a larger "
                "--tolerance if that is good enough; else try another target or other versions of its packages."
            )
        checks.append(check)
    return checks


def describe(model: PerceptionModel, networks: list[Network], *, target: Target, prompts: Prompts) -> dict[str, Any]:
    """What a program that runs the files must know; the contents of `export.json`."""
    config = model.config
    facts: dict[str, Any] = {"format_version": FORMAT_VERSION, "vpd_version": __version__, "task": model.task}
    facts |= {"target": target, "licence": config.licence}
    facts["networks"] = {
        network.name: {
            "file": f"{network.name}{SUFFIXES[target]}",
            "inputs": list(network.inputs),
            "output": network.output,
        }
        for network in networks
    }
    facts["images"] = {"channels": "RGB", "pixels": "value / 127.5 - 1", "padding": "0 at right and bottom"}
    facts["images"] |= {"multiple_px": image_step_px(model, target), "least_multiples": least_steps(target)}
    facts["fit"] = config.fit.model_dump(mode="json")
    facts["prompts"] = prompts
    if prompts == "input" and len(model.own_prompts()):
        facts["prompts_file"] = PROMPTS_FILE
    if hasattr(config, "max_depth_m"):
        facts["metres_per_step"] = metres_per_step(config.max_depth_m)
    for name in ("classes", "scenes", "max_depth_m", "token_length", "templates"):
        if hasattr(config, name):
            facts[name] = getattr(config, name)
    if len(networks) > 1:
        facts |= {"tokenizer": TOKENIZER_FILE, "token_length": token_length(model)}
    return facts


def _free_folder(out: str | Path) -> Path:
    folder = Path(out).resolve()
    check_writable(folder)  # nothing is to be left where the export fails
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{out} holds files already. Give a folder that is empty or not there yet.")
    return folder


def _write_tokenizer(encoder: TextEncoder, path: Path, length: int) -> None:
    """CLIP's tokenizer, which pads and cuts to the length by itself, for the package `tokenizers`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(encoder.tokenizer.backend_tokenizer.to_str())
    pad_token = encoder.tokenizer.pad_token
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_token=pad_token, pad_id=encoder.tokenizer.pad_token_id)
    tokenizer.save(str(path))
    ids = [found.ids for found in Tokenizer.from_file(str(path)).encode_batch(list(TEXTS))]
    if ids != token_ids(encoder, TEXTS, length).tolist():
        raise UsageError("The model's tokenizer cannot be written as one file. Export without text encoder.")
