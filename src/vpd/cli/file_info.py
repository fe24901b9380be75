"""What a weight file is, for `vpd info`: kind, size, and whether its values are numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

Facts = dict[str, str]
"""What to say about a model, in order: word -> sentence."""


def describe_file(path: Path) -> Facts:
    """What a weight file is; a safetensors file is described without loading torch.

    Raises:
        UsageError: If it cannot be read.
    """
    from vpd.config import CONFIGS
    from vpd.weights.families import foreign_file
    from vpd.weights.key_names import LDM_UNET, SIGNS

    shapes, damaged = _read_file(path)
    facts = {"file": str(path), **damaged, "tensors": f"{len(shapes)}, {millions(count(shapes.values()))} values"}
    for task, sign in SIGNS.items():
        if sign in shapes:
            return {
                **facts,
                "kind": f"published VPD checkpoint for {CONFIGS[task].title}",
                "use": f"vpd convert {task} {path} --out DIR" + " --diffusion FOLDER" * (task == "refer"),
            }
    if foreign := foreign_file(shapes):
        return {**facts, "kind": foreign}
    if any(name.startswith(LDM_UNET) for name in shapes):
        widths = [shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")]
        has_text = any(name.endswith("token_embedding.weight") for name in shapes)
        return {
            **facts,
            "kind": f"Stable Diffusion in one file, text width {widths[0] if widths else 'unknown'}, "
            f"{'with' if has_text else 'without'} text encoder",
            "use": f"vpd train TASK --model {path} --data DIR --out DIR",
        }
    return {**facts, "kind": "not known here"}


def _read_file(path: Path) -> tuple[dict[str, tuple[int, ...]], Facts]:
    """Shapes by name, and a line where values are no numbers."""
    from vpd.weights.untrusted import read_shapes, read_tensor_file, tensors_only

    if path.suffix.lower() == ".safetensors":
        return {name: shape for name, (_, shape) in read_shapes(path).items()}, warn_of_values([path])
    from vpd.weights.finite import not_finite, told_not_finite

    contents = read_tensor_file(path)
    for entry in ("state_dict", "model"):
        if isinstance(contents.get(entry), dict):
            contents = contents[entry]
    tensors = tensors_only(contents)
    bad = not_finite(tensors)
    damaged = {"damaged": told_not_finite(bad, len(tensors), path.name)} if bad else {}
    return {name: tuple(value.shape) for name, value in tensors.items()}, damaged


def warn_of_values(files: Iterable[Path]) -> Facts:
    """A line where weights hold NaN or infinity."""
    from vpd.weights.finite import not_finite_in_file, told_not_finite
    from vpd.weights.untrusted import read_shapes

    told = [
        told_not_finite(bad, len(read_shapes(path)), path.name)
        for path in files
        if path.is_file() and (bad := not_finite_in_file(path))
    ]
    return {"damaged": " ".join(told)} if told else {}


def count(shapes: Iterable[tuple[int, ...]]) -> int:
    """Numbers in tensors of these shapes."""
    return sum(map(math.prod, shapes))


def millions(number: int) -> str:
    """Such as `859.52 M`."""
    return f"{number / 1e6:,.2f} M" if number < 1e8 else f"{number / 1e6:,.0f} M"
