"""Small files for the pages: pictures, data sets, trained models, made where a page asks for them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import small_folders
from page_blocks import ROOT, Setup
from PIL import Image

from vpd.world.dataset import WorldSamples

SMALL_RUN = ("steps=2", "mode=head", "batch_size=2", "crop_px=64", "workers=0", "validate_limit=2", "precision=no")


def make(setup: Setup, root: Path, *, cache: Path) -> None:
    """Put a set-up into a working folder.

    Args:
        setup: Which one, and where.
        root: The working folder.
        cache: Folder for what takes long to make and is the same for every page.

    Raises:
        KeyError: If there is no such set-up; lists them.
    """
    if setup.name not in SETUPS:
        raise KeyError(f"no set-up {setup.name!r}; there are: {', '.join(SETUPS)}")
    place, write = SETUPS[setup.name]
    if setup.path and (root / place).exists():
        raise KeyError(f"{setup.name} as {setup.path}: {place} is there already; put this set-up before the other one")
    write(root, cache)
    if setup.path:
        (root / setup.path).parent.mkdir(parents=True, exist_ok=True)
        (root / place).rename(root / setup.path)


def _photos(root: Path, _: Path) -> None:
    scenes = WorldSamples("segment", "test", 4, (96, 128), seed=1)
    (root / "photos").mkdir()
    for index in range(len(scenes)):
        Image.fromarray(scenes[index].image).save(root / "photos" / f"{index + 1}.jpg", quality=95)


def _photo(root: Path, _: Path) -> None:
    (scene,) = WorldSamples("refer", "test", 1, (96, 128), seed=1)
    Image.fromarray(scene.image).save(root / "photo.jpg", quality=95)


def _clip(root: Path, _: Path) -> None:
    import av  # of the extra `video`

    (scene,) = WorldSamples("segment", "test", 1, (96, 160), seed=2)
    with av.open(str(root / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for left in range(6):
            frame = np.ascontiguousarray(scene.image[:, 4 * left : 4 * left + 128])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _frames(root: Path, _: Path) -> None:
    scenes = WorldSamples("segment", "test", 3, (64, 80), seed=3)
    (root / "frames").mkdir()
    for index in range(len(scenes)):
        Image.fromarray(scenes[index].image).save(root / "frames" / f"{index:06d}.png")


def _model(task: str) -> Callable[[Path, Path], None]:
    """The shipped model of a task, as a folder of one's own."""

    def write(root: Path, cache: Path) -> None:
        made = cache / f"{task}-model"
        if not made.exists():
            import vpd

            vpd.load(f"world-{task}", device="cpu").save(made)
        shutil.copytree(made, root / "my-model")

    return write


def _run(task: str) -> Callable[[Path, Path], None]:
    """The folder of a training run: real, and of two steps."""

    def write(root: Path, cache: Path) -> None:
        made = cache / f"{task}-run"
        if not made.exists():
            data = cache / f"{task}-data"
            data.mkdir()
            _FOLDERS[task](data)
            settings = [word for setting in SMALL_RUN for word in ("-s", setting)]
            words = [*("train", task, "--data", data / "my-data", "--model", "world", "--out", made), *settings]
            told = subprocess.run([sys.executable, "-m", "vpd", *map(str, words)], capture_output=True, text=True)
            assert told.returncode == 0, told.stderr
        shutil.copytree(made, root / "run")

    return write


def _checkout(root: Path, _: Path) -> None:
    """What lies in the repository beside the package."""
    for name in ("benchmarks", "docs", "examples", "experiments", "constraints.txt"):
        (root / name).symlink_to(ROOT / name)


_FOLDERS = {
    "segment": small_folders.segmentation_folder,
    "refer": small_folders.referring_folder,
    "depth": small_folders.depth_folder,
}

SETUPS: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "photos": ("photos", _photos),
    "photo": ("photo.jpg", _photo),
    "clip": ("clip.mp4", _clip),
    "frames": ("frames", _frames),
    "checkout": ("", _checkout),
    **{
        name: ("my-data", lambda root, _, write=write: write(root))  # type: ignore[misc]
        for name, write in zip(
            ("segmentation-folder", "referring-folder", "depth-folder"), _FOLDERS.values(), strict=True
        )
    },
    "model": ("my-model", _model("segment")),
    "refer-model": ("my-model", _model("refer")),
    "depth-model": ("my-model", _model("depth")),
    "run": ("run", _run("segment")),
    "refer-run": ("run", _run("refer")),
    "depth-run": ("run", _run("depth")),
}
"""Name of each set-up -> where its files lie unless the page says otherwise, and what writes them.

The folders of data come with `new-photos`: three pictures of the same kind without labels.
"""
