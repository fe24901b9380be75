"""A training set for diffusion: latents and captions of many scenes, rendered and encoded once, in shards."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from experiments.autoencoder import load_autoencoder, posterior_mode
from experiments.captions import caption, short_caption
from vpd.cli import quiet_libraries
from vpd.data.geometric import mirror_text
from vpd.errors import UsageError
from vpd.files.atomic import atomic_write, writable_folder
from vpd.pretraining.pictures import to_batch
from vpd.processes import worker_context
from vpd.world.render import render
from vpd.world.sample_scene import CROWDED_STYLE, DEFAULT_STYLE, sample_scene

SCENES_PER_SHARD = 1000
SHORT_CAPTIONS = 3
"""Short captions kept of a scene, beside the long one."""
ENCODED_AT_A_TIME = 50


def prepare_latents(
    folder: str | Path,
    *,
    scenes: int,
    seed: int,
    size_px: int = 64,
    workers: int = 1,
    on_shard: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Render scenes, encode them and their mirror images by the shipped VAE, and write the shards that are missing.

    Args:
        folder: Where the shards go.
        scenes: How many; a multiple of `SCENES_PER_SHARD`.
        seed: Of the scenes.
        size_px: Side of the pictures.
        workers: Processes.
        on_shard: Called with the shards that are done and their number.

    Returns:
        The shards, in order.

    Raises:
        UsageError: If `scenes` is no multiple of a shard.
    """
    if scenes < SCENES_PER_SHARD or scenes % SCENES_PER_SHARD:
        raise UsageError(f"{scenes} scenes: give a multiple of {SCENES_PER_SHARD}.")
    folder = writable_folder(folder)
    numbers = range(scenes // SCENES_PER_SHARD)
    paths = [folder / f"seed-{seed}-{size_px}px-{number:05d}.safetensors" for number in numbers]
    missing = [number for number in numbers if not paths[number].is_file()]
    write = partial(_write_shard, count=SCENES_PER_SHARD, seed=seed, size_px=size_px)
    jobs = [paths[number] for number in missing], missing
    with nullcontext(map) if workers == 1 else _many(workers) as map_jobs:
        for done, _ in enumerate(map_jobs(write, *jobs), 1):
            if on_shard:
                on_shard(len(paths) - len(missing) + done, len(paths))
    return paths


@contextmanager
def _many(workers: int) -> Iterator[Callable[..., Iterable[None]]]:
    """`map` over processes of one thread each, none of them a copy of this one.

    Where an error, Ctrl-C or SIGTERM ends it, they end at once and not after the shards that they are at.
    """
    with ProcessPoolExecutor(workers, worker_context(), _begin_worker) as pool:
        try:
            yield pool.map
        except BaseException:
            for process in list(pool._processes.values()):
                process.terminate()
            raise


def _begin_worker() -> None:
    """What a process that renders does first: it is quiet, has one thread, and dies of signals without a word."""
    quiet_libraries()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):  # it may come from a server that they do not reach
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
    torch.set_num_threads(1)


def _write_shard(path: Path, number: int, *, count: int, seed: int, size_px: int) -> None:
    """One shard: `latents` (n, 2, c, h, w), of pictures and their mirror images, and captions in the metadata."""
    autoencoder = load_autoencoder(None)
    latents, captions = [], []
    first, end = number * count, (number + 1) * count
    for start in range(first, end, ENCODED_AT_A_TIME):
        pictures = []
        for index in range(start, min(start + ENCODED_AT_A_TIME, end)):
            rendering = render(sample_scene(seed, index, CROWDED_STYLE if index % 3 == 0 else DEFAULT_STYLE), size_px)
            rng = np.random.default_rng((seed, index, 2))  # not the scene's own stream
            captions.append([caption(rendering), *(short_caption(rendering, rng) for _ in range(SHORT_CAPTIONS))])
            pictures += [rendering.image, rendering.image[:, ::-1]]
        latents.append(encode(autoencoder, to_batch(pictures)).unflatten(0, (-1, 2)))
    with atomic_write(path) as temporary:
        tensors = {"latents": torch.cat(latents).half().contiguous()}
        save_file(tensors, temporary, metadata={"captions": json.dumps(captions)})


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Latents that diffusion works on: the mode of the posterior times the scaling factor."""
    return posterior_mode(vae, images) * vae.config.scaling_factor


class LatentSet:
    """Shards in memory.

    Args:
        paths: What `prepare_latents` returned.

    Raises:
        UsageError: If a shard is damaged.
    """

    def __init__(self, paths: list[Path]) -> None:
        latents, self.captions = [], []
        for path in paths:
            try:
                with safe_open(path, "pt") as file:
                    latents.append(file.get_tensor("latents"))
                    self.captions += json.loads(file.metadata()["captions"])
            except Exception as error:  # what safetensors and json raise
                raise UsageError(f"{path} is damaged ({error}). Remove it and prepare the latents again.") from error
        self.latents = torch.cat(latents)

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, rng: np.random.Generator, count: int, *, short: float, empty: float) -> tuple[Tensor, list[str]]:
        """Random scenes, half of them mirrored, each with one caption.

        Args:
            rng: Of the draw.
            count: How many.
            short: Share with a short caption.
            empty: Share with none.

        Returns:
            Latents `(count, c, h, w)`, float32, and captions.
        """
        places, mirrored = rng.integers(len(self), size=count), rng.random(count) < 0.5
        latents = self.latents[torch.from_numpy(places), torch.from_numpy(mirrored.astype(np.int64))].float()
        pairs = zip(places, mirrored, strict=True)
        return latents, [self._text(rng, int(place), bool(flip), short, empty) for place, flip in pairs]

    def _text(self, rng: np.random.Generator, place: int, mirrored: bool, short: float, empty: float) -> str:
        kind = rng.random()
        if kind < empty:
            return ""
        choices = self.captions[place]
        text = choices[int(rng.integers(1, len(choices)))] if kind < empty + short else choices[0]
        return (mirror_text(text) or "") if mirrored else text
