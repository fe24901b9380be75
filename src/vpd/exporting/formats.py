"""Graphs written as torch.export, ONNX or OpenVINO files, and read back to be run.

The only file that needs onnx, onnxruntime, onnxscript and openvino (`pip install "vpd-perception[export]"`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vpd.errors import UsageError
from vpd.exporting.networks import Network, Target
from vpd.processes import logging_at

Run = Callable[..., Tensor]

SUFFIXES: dict[str, str] = {"torch": ".pt2", "onnx": ".onnx", "openvino": ".xml"}
_PACKAGES = {
    "torch": (),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
}
_MOST_BYTES_IN_ONE = 3 * 2**29  # an ONNX file is one protocol buffer, which ends at 2 GB: beyond, weights lie beside


def check_target(target: str) -> None:
    """Make sure that a format is known and its packages are here, before anything is loaded.

    Raises:
        UsageError: If not.
    """
    if target not in SUFFIXES:
        raise UsageError(f"Unknown target {target!r}. Choose one of: {', '.join(SUFFIXES)}.")
    for package in _PACKAGES[target]:
        try:
            import_module(package)
        except ImportError as error:
            raise UsageError(
                f'Exporting to {target} needs {package} ({error}). Run: pip install "vpd-perception[export]". '
                "--to torch needs nothing more than torch."
            ) from error


def write(network: Network, path: Path, target: Target) -> None:
    """Trace a graph and write it; the path has the suffix of the format, and weights may come to lie beside it."""
    with torch.no_grad():
        program = torch.export.export(network.module, network.example, dynamic_shapes=network.dynamic, strict=False)
    if target == "torch":
        torch.export.save(program, path)
        return
    size = sum(tensor.nbytes for tensor in (*program.state_dict.values(), *program.constants.values()))
    names: dict[str, Any] = {"input_names": list(network.inputs), "output_names": [network.output]}
    onnx_path = path.with_suffix(".onnx")
    with logging_at(logging.ERROR, "torch.onnx"):  # it notes, say, that torchvision is not there
        converted: Any = torch.onnx.export(program, (), dynamo=True, verbose=False, **names)
        converted.save(onnx_path, external_data=size > _MOST_BYTES_IN_ONE)
    if target == "openvino":
        openvino = import_module("openvino")
        # not openvino.convert_model: that one reports its use over the network
        openvino.save_model(openvino.Core().read_model(onnx_path), path, compress_to_fp16=False)
        for left in onnx_path.parent.glob(f"{onnx_path.name}*"):
            left.unlink()


def read(path: Path, target: Target) -> Run:
    """A function that runs a written graph on the CPU in float32: tensors in the order of its inputs -> its output.

    A .pt2 is read by `torch.export.load`, which trusts it: give no files but those that `write` wrote.
    """
    if target == "torch":
        return torch.export.load(path).module()
    if target == "onnx":
        session = import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [slot.name for slot in session.get_inputs()]
        return lambda *inputs: torch.from_numpy(
            session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})[0]
        )
    core = import_module("openvino").Core()
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})  # or it takes bfloat16: 1e-2
    return lambda *inputs: torch.from_numpy(compiled([value.numpy() for value in inputs])[0].copy())
