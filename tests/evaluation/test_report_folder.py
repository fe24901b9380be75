"""The folder that an evaluation leaves: one page that needs nothing else, and the data of its charts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hand_made import Samples
from vpd.config import Resize
from vpd.data.sample import Sample
from vpd.evaluation.evaluate import Evaluation, measure
from vpd.evaluation.report_folder import write_report
from vpd.tasks.depth import DepthModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel

TOLD = {"model": "<my>|model", "data": "DIR", "format": "folder", "split": "val", "settings": {"batch": 1}}
FILES = {"report.html", "scores.json", "samples.jsonl", "counts.json"}
SMALL_DEPTH = {"head_channels": 16, "feature_channels": 16, "deconv_channels": (8, 8, 8)}


def written(model: Any, samples: Samples, folder: Path) -> tuple[Evaluation, str, list[dict[str, Any]]]:
    """What was measured, the page, and the lines of the samples."""
    evaluation = measure(model, samples, batch_size=4, diagnose=True)
    write_report(folder, {**evaluation.report(), **TOLD}, evaluation, samples)
    assert {path.name for path in folder.iterdir()} == FILES
    page = (folder / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page) and "http" not in page and "<my>" not in page
    return evaluation, page, [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_segmentation(tiny_diffusion: Path, tmp_path: Path):
    torch.manual_seed(0)
    classes = ("sky", "a <b>bold</b> class", "tree")
    model = SegmentationModel.from_diffusion(tiny_diffusion, classes=classes, head_channels=8, fit=Resize(size_px=64))
    generator = np.random.default_rng(0)
    samples = Samples(
        Sample(
            f"street_{index}",
            generator.integers(0, 256, (40, 60, 3), np.uint8),
            labels=np.full((40, 60), 255 if index == 3 else index % 3, np.uint8),
            group=f"town {index // 2}",
        )
        for index in range(8)
    )
    evaluation, page, lines = written(model, samples, tmp_path)
    assert [line["name"] for line in lines] == [sample.name for sample in samples]
    assert lines[3]["metrics"]["aAcc"] is None and lines[0]["metrics"]["aAcc"] is not None  # nothing labelled
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"] == evaluation.report()["metrics"]
    confusion = np.array(json.loads((tmp_path / "counts.json").read_text())["confusion"])
    rows = evaluation.rows().sum(dim=0).numpy()
    np.testing.assert_array_equal(confusion.diagonal(), rows[0])
    np.testing.assert_array_equal((confusion.sum(axis=0), confusion.sum(axis=1)), rows[1:])
    wrong = [line for line in lines if line["metrics"]["aAcc"] not in (None, 1.0)]
    assert wrong and all(" taken for " in line["kind"] for line in wrong)
    assert "bootstrap over 4 groups of 8 samples" in page and "a &lt;b&gt;bold&lt;/b&gt; class" in page
    for title in ("Classes", "What is taken for what", "Samples", "Failures that differ", "Groups, worst first"):
        assert f"<h2>{title}</h2>" in page
    assert page.count('alt="errors"') == page.count('alt="truth"') == 7  # all that count, each once


def test_referring(tiny_diffusion: Path, tmp_path: Path):
    fit = Resize(mode="squash", size_px=64)
    model = ReferringModel.from_diffusion(tiny_diffusion, token_length=8, head_channels=8, fit=fit)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 10:30] = True
    texts = ("the left cup", "the <red> one")
    samples = Samples(
        Sample(f"ref_{place}", np.full((64, 64, 3), 90 * place, np.uint8), mask=mask, texts=(text,))
        for place, text in enumerate(texts)
    )
    evaluation, page, lines = written(model, samples, tmp_path)
    assert "“the left cup”" in page and "“the &lt;red&gt; one”" in page and "<h2>Thresholds</h2>" in page
    assert [line["texts"] for line in lines] == [[text] for text in texts] and all(line["kind"] for line in lines)
    right, wrong, _ = evaluation.counts["thresholds"][:, 50].tolist()  # as it was measured
    intersection, union = evaluation.rows()[:, :2].sum(dim=0).tolist()
    assert (right, int(evaluation.counts["object_pixels"]) + wrong) == (intersection, union)


def test_depth(tiny_diffusion: Path, tmp_path: Path):
    model = DepthModel.from_diffusion(tiny_diffusion, scenes=("kitchen",), fit=Resize(size_px=64), **SMALL_DEPTH)
    samples = Samples(
        Sample(f"room_{far_m}", np.zeros((40, 60, 3), np.uint8), depth_m=np.full((40, 60), far_m, np.float32))
        for far_m in (0.1, 9.9)
    )
    evaluation, page, lines = written(model, samples, tmp_path)
    assert [line["kind"] for line in lines] == ["all of it too far", "all of it too near"]
    assert int(evaluation.counts["distances"].sum()) == 2 * 40 * 60
    assert "<h2>Error by distance</h2>" in page and "25% or more too near" in page


def test_nothing_that_counts(tiny_diffusion: Path, tmp_path: Path):
    model = DepthModel.from_diffusion(tiny_diffusion, scenes=("kitchen",), fit=Resize(size_px=64), **SMALL_DEPTH)
    samples = Samples([Sample("dark", np.zeros((40, 60, 3), np.uint8), depth_m=np.zeros((40, 60), np.float32))])
    _, page, _ = written(model, samples, tmp_path)
    assert '<td>rmse</td><td class="number">–</td>' in page and "No pixel counts." in page
    assert json.loads((tmp_path / "scores.json").read_text())["metrics"]["rmse"] is None
    assert "<img" not in page
