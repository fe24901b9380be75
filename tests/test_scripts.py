"""Scripts run by their paths, as their pages say, from any folder and with nothing but the package installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_IN_TURN = """
import runpy, sys
path = list(sys.path)
for script in sys.argv[1:]:
    sys.path[:] = [script.rpartition("/")[0], *path]  # as Python does with a script
    for name in [name for name in sys.modules if name.split(".")[0] in ("experiments", "benchmarks")]:
        del sys.modules[name]
    sys.argv = [script, "--help"]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            print(f"{script}: {ended.code}", file=sys.stderr)
    except Exception as error:
        print(f"{script}: {type(error).__name__}: {error}", file=sys.stderr)
"""


def test_every_script_tells_its_use(tmp_path: Path):
    folders = (ROOT / "experiments", ROOT / "benchmarks")
    scripts = [path for folder in folders for path in folder.rglob("*.py") if "__main__" in path.read_text()]
    assert len(scripts) > 15
    command = [sys.executable, "-P", "-c", _IN_TURN, *map(str, scripts)]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert told.returncode == 0 and not told.stderr, told.stderr
    assert told.stdout.count("usage: ") + told.stdout.count("Usage: ") == len(scripts)
