"""The demo: figures against exact truth, the same twice, one page that needs nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from vpd.cli import main
from vpd.demo.demo import run_demo
from vpd.demo.page import is_demo_page
from vpd.demo.race import ARMS, Race, run_race
from vpd.errors import UsageError

SCENES = 20


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return run_demo(tmp_path_factory.mktemp("demo"), scenes=SCENES)


def test_shipped_models_beat_the_blind(demo):
    segment, refer, depth = demo.figures
    assert segment.score > 0.9 and segment.score > 4 * segment.blind > 0
    assert refer.score > 0.8 and refer.score > 4 * refer.blind > 0
    assert depth.score < 0.4 and depth.score < 0.25 * depth.blind
    for figure in demo.figures:
        assert figure.interval[0] <= figure.score <= figure.interval[1]


def test_page_holds_everything_and_needs_nothing(demo):
    page = demo.page.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert "http" not in page.replace("http-equiv", "") and demo.page.stat().st_size < 3_000_000
    titles = (
        "Semantic segmentation",
        "Referring segmentation",
        "Metric depth",
        "Classes in your words",
        "Pictures from a text",
    )
    for title in (*titles, "Your own photos", "Try it now"):
        assert f">{title}</h2>" in page
    assert page.count('<article class="example">') == page.count('<input type="range"') == 12
    assert page.count('alt="Truth: ') == 12 and page.count('alt="Answer: ') == 12 + 3  # and on the cards
    for figure in demo.figures:
        assert f"{figure.name} {figure.write(figure.score)}</b>" in page
    assert min(Image.open(demo.sheet).size) > 500 and demo.sheet.stat().st_size < 500_000
    assert len(list(demo.scenes.glob("*.png"))) == 3


def test_every_word_of_an_expression_has_its_map(demo):
    for strip in re.findall(r'<fieldset class="maps".*?</fieldset>', demo.page.read_text(), re.DOTALL):
        words = re.findall(r'<span class="label">([^<]*)</span><span class="note">[\d.]+×', strip)
        assert words and f"Asked</span> “{' '.join(words)}”" in demo.page.read_text()
        sources = re.findall(r'src="([^"]*)"', strip)
        assert len(set(sources)) == len(words) + 1  # and the input


def test_same_figures_twice(demo, tmp_path: Path):
    again = run_demo(tmp_path, scenes=SCENES, prompt="<b>a red cube</b>")
    assert (tmp_path / "metrics.json").read_bytes() == (demo.page.parent / "metrics.json").read_bytes()
    page = again.page.read_text()
    assert "“&lt;b&gt;a red cube&lt;/b&gt;”" in page and "<b>a red" not in page  # a prompt is text, not HTML


def test_predict_with_the_shipped_models(demo, tmp_path: Path):
    for task, *more in (["segment"], ["refer", "--text", "the largest object"], ["depth"]):
        command = ["predict", task, str(demo.scenes), "--model", "world", "--out", str(tmp_path / task), *more]
        with pytest.raises(SystemExit, match="^0$"):
            main(command)
        assert len((tmp_path / task / "predictions.jsonl").read_text().splitlines()) == 3


def test_race_goes_on_from_equal_heads(tmp_path: Path):
    seen: list[tuple[str, int]] = []
    page, race = run_race(tmp_path, steps=8, on_measured=lambda arm, step, _: seen.append((arm, step)))
    assert seen == [(arm, step) for arm in reversed(ARMS) for step in (0, 8)]
    assert {path.name for path in tmp_path.iterdir()} == {"training.html", "training.json"}
    assert all(len(values) == 2 and values[1] > values[0] for values in race.miou.values())
    assert json.loads((tmp_path / "training.json").read_text())["mIoU"] == race.miou
    assert "<svg" in page.read_text() and "refresh" not in page.read_text()


def test_steps_to_the_end_of_random():
    race = Race([0, 8, 16], {"pre-trained": [0.0, 0.3, 0.5], "random": [0.0, 0.1, 0.25]})
    assert race.steps_to_the_end_of_random() == 8
    race.miou["pre-trained"] = [0.0, 0.1, 0.2]
    assert race.steps_to_the_end_of_random() is None


@pytest.mark.parametrize("arguments", [["--prompt", " "], ["--train", "--prompt", "a cube"]])
def test_wrong_requests(tmp_path: Path, arguments, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        main(["demo", "--out", str(tmp_path), *arguments])
    assert "--prompt needs some words" in capsys.readouterr().err


def test_files_of_others_are_not_written_over(demo, tmp_path: Path):
    for name in ("index.html", "metrics.json", "training.html"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"over 2 files that it did not make: {tmp_path}/index.html, .*metrics.json"):
        run_demo(tmp_path, scenes=1)
    with pytest.raises(UsageError, match=f"over 1 file that it did not make: {tmp_path}/training.html. Give another"):
        run_race(tmp_path, steps=8)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"mine"}
    assert is_demo_page(demo.page) and not is_demo_page(tmp_path / "index.html")
