"""Where the text-to-image model looks for the words of an expression."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.data.sample import Sample
from vpd.drawing.overlays import contact_sheet
from vpd.drawing.text import stack
from vpd.inference.attention_maps import WordMap, word_maps
from vpd.pages.parts import Example, Tile
from vpd.prompts.encoder import TextEncoder
from vpd.tasks.task import truth_of
from vpd.weights.shipped import shipped_diffusion

TITLE = "Attention to each word, and how strong it is on the object that is meant (1.0× = as in all of the picture)"


class ShippedAttention:
    """The shipped text-to-image model, to ask for maps of words; keeps those it was asked for."""

    def __init__(self) -> None:
        folder = shipped_diffusion()
        self._backbone = StableDiffusionBackbone.from_pretrained(folder).eval()
        self._encoder = TextEncoder.from_pretrained(folder)
        self._asked: list[tuple[str, Image.Image, list[WordMap]]] = []

    def add_maps(self, sample: Sample, example: Example) -> Example:
        """An example with the maps of its expression's words; raises as `truth_of` where no mask is known."""
        text, image = sample.texts[0], Image.fromarray(sample.image)
        found = word_maps(self._backbone, self._encoder, image, text)
        self._asked.append((text, image, found))
        meant, tiles = truth_of(sample, "mask"), []
        for one in found:
            times = f"{float(one.attention[meant].mean() / one.attention.mean()):.1f}×"
            alt = f"Attention to the word {one.word}: on the object that is meant {times} its mean in the picture"
            tiles.append(Tile(one.picture(image), one.word, alt, times))
        return replace(example, maps=tiles, maps_title=TITLE)

    def sheet(self, *, cell_px: int) -> Image.Image:
        """Pictures and maps of all expressions that were asked for, as one picture."""
        rows = []
        most = max(len(found) for _, _, found in self._asked)
        for text, image, found in self._asked:
            titles = [f"“{text}”", *(one.word for one in found)]
            cells = [image, *(one.picture(image) for one in found)]
            blank = Image.new("RGB", image.size, "white")
            titles += [""] * (most + 1 - len(cells))
            cells += [blank] * (most + 1 - len(cells))
            rows.append(contact_sheet([cells], titles, cell_px=cell_px))
        return stack(rows)
