"""Threads that wait for one another sleep, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TOLD = (
    "import os, sys\n"
    "from vpd.cli import main\n"
    "assert 'torch' not in sys.modules\n"  # which reads it when it is loaded
    "try:\n    main(['--version'])\nexcept SystemExit:\n    print(os.environ['OMP_WAIT_POLICY'])\n"
)


@pytest.mark.parametrize(("given", "told"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_waiting_threads_sleep_before_torch_is_loaded(given: dict[str, str], told: str):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    done = subprocess.run(
        [sys.executable, "-c", TOLD], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == told
