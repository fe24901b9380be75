"""A contact sheet of the rendered world: picture, classes, objects and depth of some scenes, with what is said of them.

python experiments/world_scenes.py scenes.png
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run by its path, `experiments` is found by this
from experiments.captions import caption
from vpd.drawing.overlays import class_legend, colour_depth, colour_labels, contact_sheet
from vpd.drawing.text import Colour
from vpd.world.expressions import expressions
from vpd.world.render import render
from vpd.world.sample_scene import CROWDED_STYLE, DEFAULT_STYLE, sample_scene
from vpd.world.scenes import CLASSES

NEAR_M, FAR_M = 1.9, 9.3
TITLES = ("image", "classes", "objects", "depth")


def main() -> None:
    """Draw default scenes with their captions, and crowded ones with some expressions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="the picture to write")
    path = parser.parse_args().path
    legend: Counter[tuple[Colour, str]] = Counter()
    rows, words = [], []
    for index, style in enumerate([DEFAULT_STYLE] * 3 + [CROWDED_STYLE] * 3):
        scene = render(sample_scene(2, index, style), 256)
        objects = colour_labels(scene.instances, scene.instances.max() + 1)
        depth = colour_depth(scene.depth_m, NEAR_M, FAR_M)
        legend += class_legend(scene.labels, CLASSES)
        rows.append([Image.fromarray(scene.image), colour_labels(scene.labels, len(CLASSES)), objects, depth])
        said = [f"“{one.text}”" for one in expressions(scene)[::5]]
        words.append(caption(scene) if style == DEFAULT_STYLE else " · ".join(said[:6]))
    scales_m = [(NEAR_M, FAR_M) if index in (2, 5) else None for index in range(len(rows))]
    contact_sheet(rows, TITLES, words=words, scales_m=scales_m, legend=legend).save(path)


if __name__ == "__main__":
    main()
