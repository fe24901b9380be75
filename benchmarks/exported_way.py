"""Encoder and UNet as two ONNX graphs, run by ONNX Runtime."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from way import Way, in_order

from vpd.exporting.formats import write
from vpd.exporting.networks import MAX_BATCH, Network
from vpd.optimising import optimise
from vpd.tasks.model import PerceptionModel


class _Encoder(nn.Module):
    """Images -> latents."""

    def __init__(self, model: PerceptionModel) -> None:
        super().__init__()
        self.backbone = model.backbone

    def forward(self, images: Tensor) -> Tensor:
        """`(b, 3, H, W)` -> `(b, 4, h, w)`."""
        return self.backbone.encode(images)


class _UNet(nn.Module):
    """Latents and text embeddings -> maps, finest first, then attention, finer first."""

    def __init__(self, model: PerceptionModel) -> None:
        super().__init__()
        self.backbone, self.adapter = model.backbone, model.adapter

    def forward(self, latents: Tensor, text_embeds: Tensor) -> tuple[Tensor, ...]:
        """`(b, 4, h, w)` and `(1, k, d)` -> maps and attention."""
        return in_order(self.backbone(None, self.adapter(text_embeds), latents=latents))


def exported_way(model: PerceptionModel, folder: Path) -> Way:
    """Trace, write, read: a minute at Stable Diffusion's size.

    Args:
        model: In float32.
        folder: Where the files are written to.
    """
    fast = optimise(model, dtype="float32").to("cpu")
    step_px, text_dim = model.output_multiple_px, model.backbone.text_dim
    step = step_px // model.backbone.latent_stride
    encoder, unet = (
        _session(name, module, example, dynamic, folder)
        for name, module, example, dynamic in (
            ("encoder", _Encoder(fast), (torch.zeros(2, 3, 3 * step_px, 5 * step_px),), (_sides(step_px),)),
            (
                "unet",
                _UNet(fast),
                (torch.zeros(2, 4, 3 * step, 5 * step), torch.zeros(1, 7, text_dim)),
                (_sides(step), {1: Dim("prompts", min=2)}),
            ),
        )
    )

    def run(session: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        names = [slot.name for slot in session.get_inputs()]
        found = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        return tuple(torch.from_numpy(value) for value in found)

    return Way(
        "exported",
        encode=lambda images: run(encoder, images)[0],
        prepare=lambda text: text,
        features=lambda latents, text: run(unet, latents, text),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def _sides(step: int) -> dict[int, Any]:
    batch = Dim("batch", max=MAX_BATCH)
    return {0: batch, 2: step * Dim("height_steps", min=2), 3: step * Dim("width_steps", min=2)}


def _session(
    name: str, module: nn.Module, example: tuple[Tensor, ...], dynamic: tuple[dict[int, Any], ...], folder: Path
) -> Any:
    inputs, output = (("images",), "latents") if name == "encoder" else (("latents", "text_embeds"), "map_0")
    network = Network(
        name=name,
        module=module.eval(),
        original=module,
        inputs=inputs,
        output=output,
        example=example,
        dynamic=dynamic,
        trials=lambda: iter(()),  # the benchmark compares features itself
    )
    path = folder / f"{name}.onnx"
    write(network, path, "onnx")
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # or waiting would count as CPU seconds
    return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
