"""Compile the kernels of the group norm for a GPU that need not be here: `compile_kernels.py CAPABILITY`, say 90.

A line for each has the size of what was made, and how wide it reads and writes the card's memory.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from vpd.backbones import group_norm_kernel as kernels

SIZES = {"ROWS": 32, "CHANNELS": 64, "STAGES": 3, "SILU": True, "SIZE": 10, "PARTS": 64}
MAPS = {"maps", "other", "summed", "gradients", "others", "result", "shift", "weight", "bias"}
WHOLE = {"rows", "channels", "part_rows", "parts", "blocks", "shift_step"}
NONE: dict[str, Any] = dict.fromkeys(["other", "shift", "summed", "others", "values_sums", "of_shift"])
KERNELS = {
    "add_maps": [{}, {"other": None}],
    "part_statistics": [{}, {"other": None}, NONE],
    "combine": [{"CHANNELS": 16}, {"CHANNELS": 16, "shift": None}],
    "apply": [{}],
    "part_gradients": [{}, NONE],
    "combine_gradients": [{"CHANNELS": 16}, {"CHANNELS": 16, **NONE}],
    "apply_gradients": [{}, NONE],
}
"""With what may be none, and without."""


def compiled(kernel: Any, capability: int, fixed: dict[str, Any]) -> Any:
    """The kernel as it is launched: pointers and channels are multiples of 16, as in every Stable Diffusion."""
    fixed = {name: value for name, value in {**SIZES, **fixed}.items() if name in kernel.arg_names}
    signature, hints = {}, {}
    for place, name in enumerate(kernel.arg_names):
        kind = "constexpr" if name in fixed else "i32" if name in WHOLE else "fp32" if name == "eps" else "*fp32"
        signature[name] = "*bf16" if name in MAPS and name not in fixed else kind
        if signature[name].startswith("*") or name in ("channels", "part_rows", "shift_step"):
            hints[place,] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=hints)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


for name, ways in KERNELS.items():
    for fixed in ways:
        found = compiled(getattr(kernels, name), int(sys.argv[1]), fixed)
        widths = re.findall(r"(?:ld|st)\.global\.\S+|cp\.async\.c[ag]", found.asm["ptx"])
        print(name, len(found.asm["cubin"]), *sorted(set(widths)))
