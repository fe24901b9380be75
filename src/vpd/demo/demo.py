"""The demo: three tasks on fresh scenes, attention to words and samples, by the models that come with the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vpd.demo.attention import ShippedAttention
from vpd.demo.figures import BLIND, Figure
from vpd.demo.page import is_demo_page, samples_section, write_demo_page
from vpd.demo.samples import draw_samples
from vpd.demo.tasks import Watch, show_task
from vpd.demo.words import words_section
from vpd.drawing.overlays import contact_sheet
from vpd.drawing.text import beside, caption_strip, stack
from vpd.files.atomic import atomic_write, writable_folder, write_json
from vpd.files.own_files import check_own_folder
from vpd.model_folder import check_results_folder
from vpd.world.dataset import WorldSamples, split_seed

SCENES = 60
"""Fresh scenes of each task; none was seen in any training."""
SIZE_PX = 128
PROMPT = (
    "a room with a gray floor and beige walls, lit from the left: a large red matte sphere near on the left "
    "and a large blue metal cone near on the right"
)
SEED = 7
"""Of the fresh scenes."""
_SHOWN, _SAMPLES = 3, 4
_PAGE, _SHEET, _METRICS = "index.html", "sheet.png", "metrics.json"
_SHEET_CELL_PX = 128
_SHEET_FONT_PX = 13


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
    out: str | Path,
    *,
    prompt: str = PROMPT,
    scenes: int = SCENES,
    watch: Watch = lambda task, batches: batches,
) -> DemoReport:
    """Predict, measure, draw. Needs no network and writes into `out` only; the same call gives the same figures.

    Args:
        out: Folder to write into.
        prompt: What to draw samples of.
        scenes: Fresh scenes of each task.
        watch: Gets each task and its batches, for a progress bar.

    Raises:
        UsageError: If the folder cannot be written or holds files of these names that no demo left, or the shipped
            models are damaged.
    """
    check_results_folder(out := Path(out))
    pictures = [f"scenes/scene-{index}.png" for index in range(_SHOWN)]
    check_own_folder(out, [_PAGE, *pictures, _SHEET, _METRICS], "`vpd demo`", is_own=is_demo_page)
    attention = ShippedAttention()
    shown = []
    for task in BLIND:
        samples = WorldSamples(task, "test", scenes, SIZE_PX, seed=SEED, keep=True)
        add_maps = attention.add_maps if task == "refer" else None
        shown.append(show_task(task, samples, shown=min(_SHOWN, scenes), watch=watch, add_maps=add_maps))
    drawn = [Image.fromarray(pixels) for pixels in draw_samples([prompt] * _SAMPLES)]
    page, sheet = writable_folder(out) / _PAGE, out / _SHEET
    more = [words_section(split_seed(SEED, "test"), size_px=SIZE_PX), samples_section(prompt, drawn)]
    write_demo_page(page, shown, more, folder=out)  # first: by it the rest is known as a demo's
    folder, fresh = writable_folder(out / "scenes"), WorldSamples("segment", "test", _SHOWN, SIZE_PX, seed=SEED)
    for index, picture in enumerate(pictures):
        with atomic_write(out / picture) as temporary:
            Image.fromarray(fresh[index].image).save(temporary)
    with atomic_write(sheet) as temporary:
        _sheet([one.sheet for one in shown], attention, prompt, drawn).save(temporary, optimize=True)
    figures = [one.figure for one in shown]
    numbers = {f.task: {f.metric: f.score, "interval": list(f.interval), BLIND[f.task]: f.blind} for f in figures}
    write_json(out / _METRICS, {"scenes": scenes, **numbers})
    return DemoReport(page, sheet, folder, figures)


def _sheet(tasks: list[Image.Image], attention: ShippedAttention, prompt: str, drawn: list[Image.Image]) -> Image.Image:
    """The tasks beside one another, and below them attention to words beside samples."""
    words = attention.sheet(cell_px=_SHEET_CELL_PX)
    heading = caption_strip(
        "Attention to words · where the pre-trained model looks; it learnt from captions, from no mask",
        words.width,
        _SHEET_FONT_PX,
    )
    halves = [drawn[number : number + 2] for number in range(0, len(drawn), 2)]
    samples = contact_sheet(halves, cell_px=_SHEET_CELL_PX, caption=f"Samples for “{prompt}”")
    return stack([beside(tasks), beside([stack([heading, words]), samples])])
