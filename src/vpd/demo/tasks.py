"""The part of the demo that every task has: its figure, and examples with input, question, answer and truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from vpd.config import Task
from vpd.data.sample import Sample
from vpd.demo.describe import describe
from vpd.demo.figures import Figure, blind_score
from vpd.drawing.colours import depth_colours
from vpd.drawing.overlays import Shown, contact_sheet
from vpd.evaluation.evaluate import measure
from vpd.loading import load
from vpd.pages.page import Section, anchor_of
from vpd.pages.parts import Card, Example, Scale, Tile, examples, figure_line
from vpd.tasks.model import PerceptionModel
from vpd.tasks.table import TASKS
from vpd.tasks.task import truth_of
from vpd.weights.shipped import WORLD
from vpd.world.dataset import WorldSamples

Watch = Callable[[str, Iterable[Any]], Iterable[Any]]
"""Gets a task and its batches, and gives them on."""
AddMaps = Callable[[Sample, Example], Example]
"""Gives an example maps of its words."""
SHEET_CELL_PX = 128
_LEADS: dict[str, str] = {
    "labels": "Every pixel gets one of a list of classes. The classes' names are the prompts of the diffusion model.",
    "mask": "A phrase says which object is meant, and the model marks its pixels. Below each: where the text-to-image "
    "model looks for the words; it learnt from pictures and captions, from no mask. Point at a word, or choose it.",
    "depth_m": "From a single picture, the distance of every pixel in metres.",
}
_QUESTIONS: dict[str, str] = {
    "labels": "Which is each pixel: {classes}?",
    "mask": "{words}",
    "depth_m": "How many metres is each pixel away?",
}


@dataclass(frozen=True)
class TaskShown:
    """What the demo shows of a task."""

    figure: Figure
    section: Section
    card: Card
    """The first example and the figure, at a glance."""
    sheet: Image.Image
    """The examples as one picture."""


def show_task(
    task: Task, samples: WorldSamples, *, shown: int, watch: Watch, add_maps: AddMaps | None = None
) -> TaskShown:
    """Measure the shipped model of a task, and show some of the scenes that it was measured on.

    Args:
        task: Which.
        samples: What to measure on.
        shown: How many of them to show, spread evenly over the set.
        watch: Gets the task and its batches.
        add_maps: Gives the examples maps of their words; none = they get none.
    """
    model = load(f"{WORLD}-{task}", device="cpu")
    measured = measure(model, samples, batch_size=10, watch=lambda batches: watch(task, batches))
    report, scores = measured.report(), [score[model.score] for score in measured.scores()]
    low, high = report["intervals"].get(model.score, (float("nan"),) * 2)
    score = report["metrics"][model.score]
    figure = Figure(task, model.score, score, (low, high), blind_score(model, samples))

    places = [number * len(samples) // shown for number in range(shown)]
    chosen = [samples[place] for place in places]
    pictures, made = [], []
    for place, sample in zip(places, chosen, strict=True):
        (prediction,) = model.predict([sample.image], **model.words_of([sample]))
        pictures.append(model.shown(sample, prediction))
        answer = getattr(prediction, model.truth).numpy()
        example = _example(model, sample, answer, pictures[-1], title=f"{_title(task)}, scene {place + 1}")
        of_one = f"{figure.name.removeprefix('o')} {figure.write(scores[place])}"
        first, *others = example.over
        example = replace(example, over=[replace(first, note=of_one), *others])
        made.append(add_maps(sample, example) if add_maps else example)
    listed = ", ".join(str(place + 1) for place in places)
    lead = f"{_LEADS[model.truth]} Shown: scenes {listed} of the {len(samples)} measured, however they came out."
    section = Section(_title(task), lead, figure_line(figure.shown()) + examples(made))
    return TaskShown(figure, section, _card(made[0], figure), _sheet(task, figure, chosen, pictures))


def _title(task: Task) -> str:
    return TASKS[task].config_type.title.capitalize()


def _example(model: PerceptionModel, sample: Sample, answer: Any, shown: Shown, *, title: str) -> Example:
    """One sample as a row of pictures."""
    truth, classes = truth_of(sample, model.truth), getattr(model.config, "classes", ())
    asked = _QUESTIONS[model.truth].format(words=shown.words, classes=", ".join(classes))
    over = [
        Tile(shown.prediction, "Answer", f"Answer: {describe(answer, classes)}"),
        Tile(shown.truth, "Truth", f"Truth: {describe(truth, classes)}"),
    ]
    scale = None
    if shown.scale_m:
        near_m, far_m = shown.scale_m
        scale = Scale(depth_colours(), f"{near_m:.1f} m", f"{far_m:.1f} m")
    legend = [meaning for meaning, count in shown.legend.most_common() if count]
    picture = Tile(Image.fromarray(sample.image), "Input", f"Rendered room. {title}.")
    return Example(title, asked, picture, over, legend, scale)


def _card(example: Example, figure: Figure) -> Card:
    """Input and answer of the first example."""
    title = _title(figure.task)
    return Card(title, anchor_of(title), example.asked, (example.picture, example.over[0]), figure.shown())


def _sheet(task: Task, figure: Figure, samples: Sequence[Sample], pictures: Sequence[Shown]) -> Image.Image:
    """Input, truth and answer below one another, for a page that shows one picture."""
    rows = [
        [Image.fromarray(sample.image), one.truth, one.prediction]
        for sample, one in zip(samples, pictures, strict=True)
    ]
    legend = sum((one.legend for one in pictures), start=type(pictures[0].legend)())
    return contact_sheet(
        rows,
        ("input", "truth", "answer"),
        words=[one.words for one in pictures],
        scales_m=[one.scale_m for one in pictures],
        legend=legend,
        cell_px=SHEET_CELL_PX,
        caption=f"{_title(task)} · {figure.words()}",
    )
