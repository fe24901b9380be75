"""Group norm on GPUs, without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.extras
def test_kernels_by_the_interpreter() -> None:
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", HERE / "interpreted_group_norm.py", "-q", "-p", "no:cacheprovider"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:]


@pytest.mark.extras
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_gpus(capability: int) -> None:
    """Also without one: Triton brings its assembler."""
    pytest.importorskip("triton")
    script = HERE / "compile_kernels.py"
    run = subprocess.run([sys.executable, script, str(capability)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-5000:]
    found = [line.split() for line in run.stdout.splitlines()]
    assert len({name for name, *_ in found}) == 7
    for name, _, *widths in found:
        in_loop = name.startswith("part_")  # where tiles come ahead of need, 16 bytes at once, past the registers
        assert "combine" in name or ("cp.async.cg" if in_loop else "ld.global.v4.b32") in widths, name
        assert "combine" in name or in_loop or "st.global.v4.b32" in widths, name
