"""The blocks of docs/python.md run one after the other, and no other package has a word to say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_every_block_of_the_page_runs_in_silence(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) > 8
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    before, after = "import logging\n", "\nassert logging.root.manager.disable == 0, 'logging is as it was'\n"
    (tmp_path / "page.py").write_text(before + "\n".join(blocks) + after, encoding="utf-8")
    run = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert "SegmentationModel(" in run.stdout and "SegmentationPrediction(64x48 px: " in run.stdout
