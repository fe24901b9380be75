"""Threads that wait for one another do not wait awake for long, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
TOLD = (
    "import os, sys\n"
    "from vpd.cli import main\n"
    "assert 'torch' not in sys.modules\n"  # which reads it when it is loaded
    "try:\n    main(['--version'])\nexcept SystemExit:\n    print(os.environ.get('GOMP_SPINCOUNT'))\n"
)


@pytest.mark.parametrize(
    ("given", "told"), [({}, "3000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"), ({"GOMP_SPINCOUNT": "7"}, "7")]
)
def test_it_is_said_before_torch_is_loaded(given: dict[str, str], told: str):
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES} | given
    done = subprocess.run(
        [sys.executable, "-c", TOLD], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == told
