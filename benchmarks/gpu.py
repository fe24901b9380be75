"""Everything about one GPU in at most six minutes: speed by way and batch, profile, predictions, training, memory.

    python benchmarks/gpu.py --out gpu.json                         # Stable Diffusion 1.5's size, 512 px, 150 classes
    python benchmarks/gpu.py --sections tests --limit-s 240         # the tests marked gpu, by pytest
    python benchmarks/gpu.py --size tiny --device cpu --quick       # seconds: does it run

Weights and pictures are random; nothing is fetched. It needs torch, diffusers, transformers, accelerate, numpy, Pillow,
pydantic, einops and safetensors, and this repository, installed or not. The JSON file is written after each section,
so a run that is cut short keeps what it has; what fails in a section is noted there, and the next begins.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "src")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells each start, and reads this as it is loaded

try:
    import_module("pycocotools.mask")
except ImportError:  # a bare machine: what trains imports it for the masks of COCO, and none are read here
    sys.modules["pycocotools"] = sys.modules["pycocotools.mask"] = ModuleType("pycocotools.mask")
    sys.modules["pycocotools"].mask = sys.modules["pycocotools.mask"]

import torch  # noqa: E402
from gpu_report import describe, judge  # noqa: E402
from gpu_sections import SECTIONS  # noqa: E402
from gpu_setup import OutOfTimeError, Setup  # noqa: E402

_LIMIT_S = 345.0
_DEFAULT = [name for name in SECTIONS if name != "tests"]


def run(setup: Setup, names: list[str], out: Path) -> dict[str, Any]:
    """Measure the sections in their order; the file holds what is there at any moment."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    facts = {"size": setup.size, "px": setup.px, "device": str(setup.device), "batches": setup.batches}
    result: dict[str, Any] = {"format_version": 1, "setup": facts, "sections": setup.results, "seconds": {}}
    for name in names:
        began_s = time.monotonic()
        found = setup.results.setdefault(name, {})
        try:
            setup.check_time()
            SECTIONS[name](setup, found)
        except OutOfTimeError as error:
            found["left_out"] = str(error)
        except Exception as error:  # whatever goes wrong on a machine that nobody has tried; the others go on
            found["error"] = f"{type(error).__name__}: {error}"[:2000]
            found["traceback"] = traceback.format_exc()[-4000:]
        if setup.device.type == "cuda":
            torch.cuda.empty_cache()
        result["seconds"][name] = time.monotonic() - began_s
        result["targets"] = judge(setup.results, is_meant=setup.size == "sd15" and setup.px == 512)
        temporary = out.with_suffix(".part")
        temporary.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
        temporary.replace(out)
        told = found.get("error") or found.get("left_out") or "done"
        print(f"{name}: {told} ({result['seconds'][name]:.0f} s)", flush=True)
    return result


def main(words: list[str] | None = None) -> None:
    """Command line."""
    began_s = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["tiny", "sd15"], default="sd15")
    parser.add_argument("--px", type=int, help="side of the pictures; 512, or 64 where all is tiny")
    parser.add_argument("--batches", help="pictures together: 1,4,16,32, or 1,2 if quick")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sections", default=",".join(_DEFAULT), help=f"of {', '.join(SECTIONS)}; all but tests")
    parser.add_argument("--limit-s", type=float, default=_LIMIT_S, help="no section begins after so many seconds")
    parser.add_argument("--quick", action="store_true", help="few pictures, few steps")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    given = parser.parse_args(words)
    names = given.sections.split(",")
    if unknown := sorted(set(names) - set(SECTIONS)):
        parser.error(f"unknown sections: {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu --size tiny --quick tries the script itself")
    batches = given.batches or ("1,2" if given.quick else "1,4,16,32")
    setup = Setup(
        device=device,
        size=given.size,
        px=given.px or (64 if given.size == "tiny" else 512),
        batches=tuple(int(batch) for batch in batches.split(",")),
        pictures=16 if given.quick else 512,
        steps=1 if given.quick else 8,
        ends_s=began_s + given.limit_s,
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    ordered = [name for name in SECTIONS if name in names]
    print(f"\n{describe(run(setup, ordered, given.out))}\n{given.out}")


if __name__ == "__main__":
    main()
