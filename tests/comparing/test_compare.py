"""Runs held against one another: settings, paired intervals, samples; on the command line and as a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import vpd
from vpd.cli import main
from vpd.comparing.compare import compare
from vpd.comparing.page import check_own_page
from vpd.config import Resize
from vpd.datasets.layouts import open_data
from vpd.errors import UsageError
from vpd.evaluation.evaluate import measure
from vpd.files.atomic import append_json_line
from vpd.metrics.intervals import bootstrap_intervals, paired_differences
from vpd.metrics.segmentation import SegmentationMetrics
from vpd.training.settings import resolve_config, write_config

DATA = {"root": "world", "format": "world", "split": "train", "validation_split": "val", "options": {"count": 6}}


@pytest.fixture(scope="module")
def runs(tiny_diffusion: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs as training leaves them, of models that differ in a few weights."""
    root = tmp_path_factory.mktemp("runs")
    classes = open_data("world", "segment", format="world", split="val", count=1).classes
    torch.manual_seed(0)
    model = vpd.SegmentationModel.from_diffusion(
        tiny_diffusion, classes=classes, head_channels=8, fit=Resize(size_px=64)
    )
    folders = []
    for name, rate, score in (("<plain>", 1e-3, 0.25), ("quick", 2e-3, 0.5)):
        folder = root / name
        model.save(folder / "model")
        given = {"model": str(tiny_diffusion), "data": DATA, "learning_rate": rate, "steps": 4, "recipe": "default"}
        write_config(resolve_config("segment", given), folder / "config.yaml")
        append_json_line(folder / "log.jsonl", {"step": 4, "kind": "validation", "mIoU": score})
        folders.append(folder)
        with torch.no_grad():
            for parameter in model.head.parameters():
                parameter.mul_(-1)
    return folders


def test_pairs_drop_what_both_find_hard():
    generator = torch.Generator().manual_seed(0)
    metric = SegmentationMetrics(2)
    rows, others = [], []
    for number in range(30):  # samples of very different difficulty; the second model is a little worse on each
        labels = torch.randint(0, 2, (40, 40), generator=generator, dtype=torch.uint8)
        wrong = torch.rand((40, 40), generator=generator) < number / 40
        more = wrong | (torch.rand((40, 40), generator=generator) < 0.02)
        rows.append(metric.row(torch.where(wrong, 1 - labels, labels), labels))
        others.append(metric.row(torch.where(more, 1 - labels, labels), labels))
    first, second = torch.stack(rows), torch.stack(others)
    (difference,) = paired_differences(metric, second, first, list(range(30)))["mIoU"]
    alone = bootstrap_intervals(metric, first, list(range(30)))["mIoU"]
    assert difference.low < difference.value < difference.high < 0 and difference.is_clear
    assert difference.high - difference.low < 0.2 * (alone[1] - alone[0])
    values = [metric.values(part.sum(dim=0)) for part in (second, first)]
    assert difference.value == pytest.approx(float(values[0]["mIoU"] - values[1]["mIoU"]))
    of_classes = paired_differences(metric, second, first, ["a"] * 30)["IoU"]
    assert len(of_classes) == 2 and not any(each.is_clear for each in of_classes)  # one group: no interval


def test_figures_are_those_of_measuring_each(runs: list[Path]):
    comparison, samples = compare([str(folder) for folder in runs])
    for number, folder in enumerate(runs):
        alone = measure(vpd.load(folder), samples).report()["metrics"]
        assert {name: values[number] for name, values in comparison.metrics().items()} == alone
    assert dict(comparison.settings_that_differ()) == {"learning_rate": ["0.001", "0.002"]}
    first, second = comparison.scores()
    places = comparison.samples_that_differ(4)
    assert len(places) == len(set(places)) == 4
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) in [
        abs(first[p] - second[p]) for p in places[:2]
    ]


def test_the_command(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("vpd.cli.quiet_libraries", lambda: None)
    with pytest.raises(SystemExit, match="^0$"):
        main(["compare", *map(str, runs), "--limit", "3", "--out", str(tmp_path / "out")])
    shown = capsys.readouterr().out
    assert re.search(r"^learning_rate +0.001 +0.002$", shown, flags=re.MULTILINE)
    assert re.search(r"^mIoU +[\d.]+ % +[\d.]+ % +[+−]?[\d.]+ points \(", shown, flags=re.MULTILINE)
    assert "3 samples. Paired bootstrap" in shown
    check_own_page(tmp_path / "out")  # another run may replace it
    page = (tmp_path / "out" / "compare.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page) and "<plain>" not in page and "&lt;plain&gt;" in page
    for title in ("Metrics", "Settings that differ", "In training", "Samples that differ most"):
        assert f"<h2>{title}</h2>" in page
    assert page.count('alt="truth"') == 3 and page.count('alt="A: ') == page.count('alt="B: ') == 3


def test_what_cannot_be_compared(runs: list[Path], tiny_diffusion: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="Give two or more runs"):
        compare([str(runs[0])])
    other = vpd.SegmentationModel.from_diffusion(tiny_diffusion, classes=("floor", "wall"), head_channels=8)
    other.save(tmp_path / "other")
    with pytest.raises(UsageError, match="know different classes"):
        compare([str(runs[0]), str(tmp_path / "other")], limit=1)
    with pytest.raises(UsageError, match="is no training run, so it says no data to measure on: give --data"):
        compare([str(tmp_path / "other"), str(runs[0])], limit=1)
    with pytest.raises(UsageError, match="is for segment, .*world-depth for depth"):
        compare([str(runs[0]), "world-depth"], limit=1)


def test_a_page_of_others_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("vpd.cli.quiet_libraries", lambda: None)
    (tmp_path / "compare.html").write_text("<title>Prices</title>")
    with pytest.raises(SystemExit, match="^2$"):
        main(["compare", "a", "b", "--out", str(tmp_path)])
    assert f"`vpd compare` would write over 1 file that it did not make: {tmp_path}/c" in capsys.readouterr().err
    assert (tmp_path / "compare.html").read_text() == "<title>Prices</title>"
