"""Try an installed vpd where nothing of the repository lies beside it: all of it imports, the command line works.

    /an/environment/bin/python -I scripts/smoke.py

Uses the models that come with the package, no network, and writes into a temporary folder only.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from importlib import import_module, metadata
from pathlib import Path

DISTRIBUTION = "vpd-perception"
WITH_EXTRAS = {"starlette"}
"""Modules that come with what an extra names (fastapi) and are imported before it."""
PICTURES = 3
"""That the demo leaves for the command line to predict."""


def main() -> None:
    """All checks; ends with an error at the first that fails."""
    import vpd

    package = Path(vpd.__file__).parent
    require("site-packages" in package.parts or "dist-packages" in package.parts, f"{package} is not an installed vpd")
    require(vpd.__version__ == metadata.version(DISTRIBUTION), "version.py and the metadata name different versions")
    for name in vpd.__all__:
        require(getattr(vpd, name, None) is not None, f"vpd.{name} is not there")
    before = files_of(package)
    waiting = import_everything(package)
    print(
        f"all modules of vpd {vpd.__version__} import" + "".join(f"; not without an extra: {name}" for name in waiting)
    )
    with tempfile.TemporaryDirectory() as folder:
        use_the_command_line(Path(folder), vpd.__version__)
    after = files_of(package)
    require(before == after, f"using the package changed its own folder: {sorted(before ^ after)[:5]}")
    print("smoke: passed")


def import_everything(package: Path) -> list[str]:
    """Import every module; returns those that wait for an extra.

    Raises:
        ModuleNotFoundError: If one needs what no requirement and no extra names.
    """
    required = metadata.requires(DISTRIBUTION) or []
    of_extras = WITH_EXTRAS | {module_of(line) for line in required if "extra ==" in line}
    waiting = []
    for module in pkgutil.walk_packages([str(package)], "vpd."):
        if module.name == "vpd.__main__":
            continue
        try:
            import_module(module.name)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in of_extras:
                raise
            waiting.append(f"{module.name} ({error.name})")
    return waiting


def module_of(requirement: str) -> str:
    """What a requirement is most often imported as: `prometheus-client>=0.2; extra == "app"` -> `prometheus_client`."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].replace("-", "_").lower()


def use_the_command_line(folder: Path, version: str) -> None:
    """The verbs that work without data and without a training, on the shipped models."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", "1")}
    command = Path(sys.executable).with_name("vpd")

    def vpd(*words: str) -> str:
        done = subprocess.run(
            [command, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=1200, check=False
        )
        require(
            done.returncode == 0,
            f"vpd {' '.join(words)}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}",
        )
        print(f"vpd {' '.join(words)}", flush=True)
        return done.stdout

    require(version in vpd("--version"), "vpd --version does not say the version")
    vpd("doctor")
    require("segment" in vpd("info", "world-segment"), "vpd info does not say the task")
    figures = vpd("demo", "--out", "demo")
    require(all(name in figures for name in ("mIoU", "oIoU", "RMSE")), f"the demo measured too little: {figures}")
    for task, *more in (("segment",), ("refer", "--text", "the red cube"), ("depth",)):
        vpd("predict", task, "demo/scenes", "--model", "world", "--out", task, *more)
        lines = (folder / task / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        require(len(lines) == PICTURES, f"{task}: {len(lines)} of {PICTURES} pictures were predicted")
        require(
            all((folder / task / json.loads(line)["data"]).is_file() for line in lines), f"{task}: files are missing"
        )


def files_of(folder: Path) -> set[str]:
    """Names of all files below, without what Python itself keeps."""
    return {str(path) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def require(holds: bool, message: str) -> None:
    """End with the message where something does not hold."""
    if not holds:
        sys.exit(f"smoke: {message}")


if __name__ == "__main__":
    main()
