"""The demo: three tasks on fresh scenes, attention to words and samples, by the models that come with the package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import Task
from vpd.data.sample import Sample, SampleSet
from vpd.demo.page import Section, write_page
from vpd.demo.samples import draw_samples
from vpd.drawing.overlays import contact_sheet
from vpd.drawing.text import caption_strip, font_px_for, stack
from vpd.evaluation.evaluate import evaluate, sample_sheet
from vpd.files.atomic import atomic_write, writable_folder, write_json
from vpd.inference.attention_maps import word_maps
from vpd.loading import load
from vpd.model_folder import check_results_folder
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.model import PerceptionModel
from vpd.tasks.table import TASKS
from vpd.tasks.task import truth_of
from vpd.weights.shipped import WORLD, shipped_diffusion
from vpd.world.dataset import WorldSamples

Watch = Callable[[str, Iterable[Any]], Iterable[Any]]
"""Gets a task and its batches, and gives them on."""
SCENES = 60
"""Fresh scenes of each task; none was seen in any training."""
SIZE_PX = 128
PROMPT = (
    "a room with a gray floor and beige walls, lit from the left: a large red matte sphere near on the left "
    "and a large blue metal cone near on the right"
)
SEED = 7
"""Of the fresh scenes."""
_SHOWN, _SAMPLES, _EXPRESSIONS, _WORDS = 3, 4, 3, 4
_BLIND_SCENES = 100
"""Training scenes from which the best constant answer is taken."""
_WORD_PX = 192
"""Long side of the pictures of attention to words."""
_BLIND: dict[Task, str] = {
    "segment": "answering the most frequent class everywhere",
    "refer": "the same model, given the expressions of other pictures",
    "depth": "answering the mean depth everywhere",
}


@dataclass(frozen=True)
class Figure:
    """How well a task was done."""

    task: Task
    metric: str
    score: float
    """mIoU or oIoU as a fraction of 1, or RMSE in metres."""
    interval: tuple[float, float]
    """Its 95 % interval over scenes."""
    blind: float
    """What an answer reaches that does not look, or does not listen."""

    def write(self, value: float) -> str:
        """The number with its unit."""
        return f"{value:.3f} m" if self.task == "depth" else f"{100 * value:.1f} %"

    def words(self) -> str:
        """All of it in one line."""
        low, high = map(self.write, self.interval)
        name = self.metric.upper() if self.task == "depth" else self.metric
        return f"{name} {self.write(self.score)} [{low} to {high}]; {self.write(self.blind)} by {_BLIND[self.task]}"


@dataclass(frozen=True)
class DemoReport:
    """What the demo left."""

    page: Path
    """Everything, in one file that needs no other."""
    sheet: Path
    """The same pictures as one PNG."""
    scenes: Path
    """Fresh scenes as files, to try the command line on."""
    figures: list[Figure]
    """One a task."""


def run_demo(
    out: str | Path, *, prompt: str = PROMPT, scenes: int = SCENES, watch: Watch = lambda task, batches: batches
) -> DemoReport:
    """Predict, measure, draw. Needs no network and writes into `out` only; the same call gives the same figures.

    Args:
        out: Folder to write into.
        prompt: What to draw samples of.
        scenes: Fresh scenes of each task.
        watch: Gets each task and its batches, for a progress bar.

    Raises:
        UsageError: If the folder cannot be written, or the shipped models are damaged.
    """
    check_results_folder(out := Path(out))
    sections, figures = [], []
    for task in _BLIND:
        figure, picture = _show_task(task, scenes, watch)
        figures.append(figure)
        sections.append(Section(_title(task), figure.words(), picture))
    sections += [_show_attention(), _show_samples(prompt)]
    folder, fresh = writable_folder(out / "scenes"), WorldSamples("segment", "test", _SHOWN, SIZE_PX, seed=SEED)
    for index in range(_SHOWN):
        with atomic_write(folder / f"scene-{index}.png") as temporary:
            Image.fromarray(fresh[index].image).save(temporary)
    page, sheet = out / "index.html", out / "sheet.png"
    write_page(page, sections)
    with atomic_write(sheet) as temporary:
        stack([section.picture for section in sections]).save(temporary)
    numbers = {f.task: {f.metric: f.score, "interval": list(f.interval), _BLIND[f.task]: f.blind} for f in figures}
    write_json(out / "metrics.json", {"scenes": scenes, **numbers})
    return DemoReport(page, sheet, folder, figures)


def _title(task: Task) -> str:
    return TASKS[task].config_type.title.capitalize()


def _show_task(task: Task, scenes: int, watch: Watch) -> tuple[Figure, Image.Image]:
    """Metrics over fresh scenes, and a sheet of some of them."""
    model = load(f"{WORLD}-{task}", device="cpu")
    samples = WorldSamples(task, "test", scenes, SIZE_PX, seed=SEED, keep=True)
    report = evaluate(model, samples, batch_size=10, watch=lambda batches: watch(task, batches))
    metric = TASKS[task].score
    low, high = report["intervals"].get(metric, (float("nan"),) * 2)
    figure = Figure(task, metric, report["metrics"][metric], (low, high), blind_score(model, samples))
    sheet = sample_sheet(model, samples, count=_SHOWN, caption=f"{_title(task)} · {figure.words()}")
    return figure, sheet


def _show_attention() -> Section:
    """Attention of the text-to-image model to each word of some expressions; it was trained on no mask."""
    shipped = shipped_diffusion()
    backbone, encoder = StableDiffusionBackbone.from_pretrained(shipped).eval(), TextEncoder.from_pretrained(shipped)
    samples = WorldSamples("refer", "test", 20, SIZE_PX, seed=SEED)
    rows: list[Image.Image] = []
    for sample in (samples[index] for index in range(len(samples))):
        image = Image.fromarray(sample.image)
        maps = word_maps(backbone, encoder, image, sample.texts[0])
        if len(maps) == _WORDS:  # of one length, to stand below one another
            titles = (sample.texts[0], *(one.word for one in maps))
            rows.append(contact_sheet([[image, *(one.picture(image) for one in maps)]], titles, cell_px=_WORD_PX))
        if len(rows) == _EXPRESSIONS:
            break
    caption = "Where the pre-trained model looks for each word. It learnt from pictures and captions, from no mask."
    heading = caption_strip(f"Attention to words · {caption}", rows[0].width, font_px_for(_WORD_PX, _WORD_PX))
    return Section("Attention to words", caption, stack([heading, *rows]))


def _show_samples(prompt: str) -> Section:
    """Pictures made from noise for a text."""
    pictures = [Image.fromarray(pixels) for pixels in draw_samples([prompt] * _SAMPLES)]
    picture = contact_sheet([pictures], caption=f"Samples for “{prompt}”")
    return Section("Samples", f"“{prompt}”", picture)


def blind_score(model: PerceptionModel, samples: WorldSamples) -> float:
    """What an answer reaches that does not look at the picture, or does not listen to the expression.

    It is the mIoU of the most frequent class, the RMSE of the mean depth in metres, or the model's own oIoU with
    exchanged expressions.
    """
    if samples.task == "refer":
        return float(evaluate(model, _ExchangedTexts(samples), batch_size=10)["metrics"][model.score])
    train = WorldSamples(samples.task, "train", _BLIND_SCENES, SIZE_PX)
    truths = np.stack([truth_of(train[index], model.truth) for index in range(_BLIND_SCENES)])
    answer = float(np.mean(truths)) if samples.task == "depth" else int(np.bincount(truths.ravel()).argmax())
    metrics = model.measures(samples).metrics[""]
    for index in range(len(samples)):
        truth = torch.from_numpy(truth_of(samples[index], model.truth))
        metrics.update(torch.full_like(truth, answer), truth)
    return float(metrics.compute()[model.score])  # type: ignore[arg-type]


class _ExchangedTexts(SampleSet):
    """A set in which every sample has the expressions of the next."""

    def __init__(self, samples: SampleSet) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        other = self._samples[(index + 1) % len(self._samples)]
        return replace(self._samples[index], texts=other.texts)
