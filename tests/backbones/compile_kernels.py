"""Compile the kernels of the group norm for a GPU that need not be here: `compile_kernels.py CAPABILITY`, say 90."""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vpd.backbones import group_norm_kernel as kernels

FIXED = {"ROWS": 32, "CHANNELS": 64, "SILU": True, "SIZE": 10, "PARTS": 64}
MAPS, WHOLE = {"maps", "gradients", "result", "weight", "bias"}, {"rows", "channels", "part_rows", "parts"}


def compiled_bytes(kernel: Any, capability: int) -> int:
    signature = {}
    for name in kernel.arg_names:
        kind = "constexpr" if name in FIXED else "i32" if name in WHOLE else "fp32" if name == "eps" else "*fp32"
        signature[name] = "*bf16" if name in MAPS else kind
    fixed = {name: value for name, value in FIXED.items() if name in signature}
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed)
    return len(triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"])


for name in ("_part_statistics", "_combine", "_apply", "_part_gradients", "_apply_gradients"):
    print(name, compiled_bytes(getattr(kernels, name), int(sys.argv[1])))
