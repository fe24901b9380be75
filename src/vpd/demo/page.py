"""The demo's page: what is to be seen at once, the tasks, samples of a text, and how to do the same elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vpd.demo.tasks import TaskShown
from vpd.demo.words import MODEL as OPEN
from vpd.files.own_files import begins_with
from vpd.pages.page import Page, Section, write_page
from vpd.pages.parts import Tile, cards, commands, gallery
from vpd.weights.shipped import WORLD

_TITLE = "Pixel-precise answers from a text-to-image model"
_WORDS = (
    "A model that learnt to make pictures from text knows much about pictures. Here it looks once at each, and a small "
    "head reads what it saw. The scenes are rendered, so that their truth is exact, and no training has seen them."
)
_BARS = (
    "Blue: what was measured, with its 95 % interval. Red: what an answer reaches that does not look at the picture, "
    "or does not listen to the words."
)
_STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def write_demo_page(path: Path, tasks: Sequence[TaskShown], more: Sequence[Section], *, folder: Path) -> None:
    """Write the page.

    Args:
        path: The file.
        tasks: What is shown of each task.
        more: Sections after the tasks; one is made by `parts` from a model and scenes, as `samples_section` is.
        folder: The demo's, for commands that go on from it.
    """
    sections = [*(one.section for one in tasks), *more, _own_photos(), _go_on(folder)]
    foot = "Everything on this page was computed by the command that wrote it. The page asks nothing of the network."
    write_page(path, Page(_TITLE, _WORDS, cards([one.card for one in tasks], _BARS), sections, foot))


def is_demo_page(path: Path) -> bool:
    """Whether a file is such a page."""
    return begins_with(path, f"<title>{_TITLE}</title>")


def samples_section(prompt: str, pictures: Sequence[Image.Image]) -> Section:
    """Pictures made from noise for a text."""
    tiles = [
        Tile(picture, "", f"Sample {number} for the text: {prompt}") for number, picture in enumerate(pictures, start=1)
    ]
    words = (
        f"What the model that all of the above stands on makes of the text “{prompt}”, from noise. That is how it was "
        "trained: pictures and captions, no labels. Of two objects in one text it often exchanges colours and shapes."
    )
    return Section("Pictures from a text", words, gallery(tiles))


def _own_photos() -> Section:
    """The same with Stable Diffusion and photographs."""
    words = (
        f"The small model of this demo, “{WORLD}”, knows rendered scenes only. For photographs Stable Diffusion takes "
        "its place: the commands stay the same. It is downloaded once, under its own licence (CreativeML Open RAIL-M). "
        "You need some labelled pictures; “refer” and “depth” take the place of “segment”."
    )
    steps = [
        ("Look whether your pictures and labels are understood.", "vpd data check DIR"),
        (
            "Train. With a card of 8 GB add: -s mode=lora -s gradient_checkpointing=true",
            f"vpd train segment --data DIR --model {_STABLE_DIFFUSION} --out run",
        ),
        ("Measure, with intervals.", "vpd eval segment --data DIR --model run --report report"),
        ("Predict whole folders of photographs.", "vpd predict segment photos/ --model run --out predictions"),
    ]
    return Section("Your own photos", words, commands(steps))


def _go_on(folder: Path) -> Section:
    """What can be tried at once with what the demo left."""
    steps = [
        (
            "Refer to something in the fresh scenes that lie beside this page.",
            f'vpd predict refer {folder / "scenes"} --model {WORLD} --text "the object on the left" --out predictions',
        ),
        (
            "Classes in your words, which may overlap; what fits none has no class.",
            f'vpd predict segment {folder / "scenes"} --model {OPEN} --classes "red things; cubes; floor" '
            "--out by-words",
        ),
        ("Type a text of your own.", f'vpd demo --prompt "a large green metal cube" --out {folder}'),
        (
            "Does pre-training pay? The same segmenter from a random UNet and from this one, two minutes, live curves.",
            f"vpd demo --train --out {folder}",
        ),
    ]
    words = (
        "These need no weights, no data, no GPU and no network. Where make has set everything up, "
        "“source .venv/bin/activate” makes the command known."
    )
    return Section("Try it now", words, commands(steps))
