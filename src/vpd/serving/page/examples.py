"""Pictures to begin with: scenes of the rendered world, made when the page starts."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from vpd.weights.shipped import ADAPTED
from vpd.world.dataset import WorldSamples

_COUNT, _SIZE_PX, _SEED = 3, 256, 7


def render_examples(folder: Path, task: str) -> list[tuple[str, str]]:
    """Files of scenes that no training saw, each with an expression where the task takes one.

    Args:
        folder: To write into; made if missing.
        task: Word of the task; for others than those of the world there are none.
    """
    if task not in ADAPTED.values():
        return []
    folder.mkdir(parents=True, exist_ok=True)
    scenes = WorldSamples(task, "test", _COUNT, _SIZE_PX, seed=_SEED)
    made = []
    for number in range(_COUNT):
        path = folder / f"{task}-{number + 1}.png"
        scene = scenes[number]
        Image.fromarray(scene.image).save(path)
        made.append((str(path), scene.texts[0] if scene.texts else ""))
    return made
