"""A training set for diffusion: latents and the tokens of captions of many scenes, made once, in shards."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from experiments.autoencoder import load_autoencoder, posterior_mode
from experiments.captions import caption, short_caption
from experiments.miniature import END_TOKEN, START_TOKEN
from vpd.cli import quiet_libraries
from vpd.data.geometric import mirror_text
from vpd.errors import UsageError
from vpd.files.atomic import atomic_write, writable_folder
from vpd.files.lock import only_run_in
from vpd.loading import find_device
from vpd.pretraining.pictures import to_batch
from vpd.processes import worker_context
from vpd.prompts.tokenizer import clip_tokenizer
from vpd.world.dataset import Split, split_seed
from vpd.world.render import render
from vpd.world.sample_scene import CROWDED_STYLE, DEFAULT_STYLE, sample_scene

SCENES_PER_SHARD = 250
SHORT_CAPTIONS = 3
"""Short captions kept of a scene, beside the long one."""
ENCODED_AT_A_TIME = 50


def prepare_scenes(
    folder: str | Path,
    *,
    split: Split,
    count: int,
    size_px: int,
    seed: int = 0,
    workers: int = 1,
    seconds: float | None = None,
    device: str = "auto",
    on_shard: Callable[[int, int], None] | None = None,
) -> int:
    """Render scenes in many processes, encode them and their mirror images here, and write the shards not there yet.

    Args:
        folder: Where the shards go, `SPLIT-NUMBER.safetensors`: `latents` `(n, 2, c, h, w)`, scaled, float16, of each
            picture and its mirror image; `tokens` `(n, 2, 4, 77)`, int32, of their captions, the long one first.
        split: Of the scenes.
        count: How many; a multiple of `SCENES_PER_SHARD`.
        size_px: Side of the pictures, a multiple of 32.
        seed: Of the scenes.
        workers: Processes that render.
        seconds: Begin no shard after so long; a later call goes on.
        device: Where pictures are encoded.
        on_shard: Called with the shards that are done and their number.

    Returns:
        The scenes that are there.

    Raises:
        UsageError: If a number does not fit, or the folder holds other scenes.
    """
    if size_px < 32 or size_px % 32:
        raise UsageError(f"Pictures of {size_px} px: give a multiple of 32.")
    if count < SCENES_PER_SHARD or count % SCENES_PER_SHARD:
        raise UsageError(f"{count} scenes: give a multiple of {SCENES_PER_SHARD}.")
    if workers < 1:
        raise UsageError(f"workers={workers}: at least one process renders.")
    folder, mark = writable_folder(folder), {"size_px": str(size_px), "seed": str(seed)}
    for path in shards_of(folder)[:1]:
        found = _read_shard(path)[0]
        if found != mark:
            raise UsageError(
                f"{folder} holds scenes of {found.get('size_px')} px and seed {found.get('seed')}, not of {size_px} px "
                f"and seed {seed}. Give another folder."
            )
    paths = [folder / f"{split}-{number:05d}.safetensors" for number in range(count // SCENES_PER_SHARD)]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    done, end = len(paths) - len(missing), time.monotonic() + (float("inf") if seconds is None else seconds)
    numbers = takewhile(lambda _: time.monotonic() < end, missing)
    job = partial(_render_shard, count=SCENES_PER_SHARD, seed=split_seed(seed, split), size_px=size_px)
    rendered = (job(number) for number in numbers) if workers == 1 else _by_many(job, numbers, workers)
    with only_run_in(folder), closing(rendered):
        vae = load_autoencoder(None).to(find_device(device))
        for number, pictures, tokens in rendered:
            with atomic_write(paths[number]) as temporary:
                tensors = {"latents": _encode_with_mirrored(vae, pictures), "tokens": torch.from_numpy(tokens)}
                save_file(tensors, temporary, metadata=mark)
            done += 1
            if on_shard:
                on_shard(done, len(paths))
    return done * SCENES_PER_SHARD


Shard = tuple[int, NDArray[np.uint8], NDArray[np.int32]]
"""Its number, pictures `(n, H, W, 3)`, tokens `(n, 2, 4, 77)`."""


def _by_many(job: Callable[[int], Shard], numbers: Iterator[int], workers: int) -> Generator[Shard]:
    """What processes of one thread each give, none of them a copy of this one, as soon as it is there.

    A number is taken when a process will soon be free. Where an error, Ctrl-C or SIGTERM ends it, the processes end at
    once and not after the shards that they are at.
    """
    with ProcessPoolExecutor(workers, worker_context(), _begin_worker) as pool:
        try:
            waiting = set[Future[Shard]]()
            while True:
                waiting |= {pool.submit(job, number) for number in islice(numbers, 2 * workers - len(waiting))}
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
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
    if hasattr(os, "nice"):
        os.nice(5)  # what is rendered is to be encoded first
    torch.set_num_threads(1)


def _render_shard(number: int, *, count: int, seed: int, size_px: int) -> Shard:
    pictures, texts = [], list[str]()
    for index in range(number * count, (number + 1) * count):
        rendering = render(sample_scene(seed, index, CROWDED_STYLE if index % 3 == 0 else DEFAULT_STYLE), size_px)
        rng = np.random.default_rng((seed, index, 2))  # not the scene's own stream
        captions = [caption(rendering), *(short_caption(rendering, rng) for _ in range(SHORT_CAPTIONS))]
        pictures.append(rendering.image)
        texts += captions + [mirror_text(text) or "" for text in captions]
    tokens = clip_tokenizer()(texts, padding="max_length", truncation=True, return_tensors="np").input_ids
    return number, np.stack(pictures), tokens.reshape(count, 2, 1 + SHORT_CAPTIONS, -1).astype(np.int32)


def _encode_with_mirrored(vae: AutoencoderKL, pictures: NDArray[np.uint8]) -> Tensor:
    """Latents `(n, 2, c, h, w)`, float16, on the CPU."""
    both = np.stack([pictures, pictures[:, :, ::-1]], axis=1).reshape(-1, *pictures.shape[1:])
    parts = (both[start : start + ENCODED_AT_A_TIME] for start in range(0, len(both), ENCODED_AT_A_TIME))
    latents = torch.cat([encode(vae, to_batch(list(part)).to(vae.device)).half().cpu() for part in parts])
    return latents.unflatten(0, (-1, 2)).contiguous()


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Latents that diffusion works on: the mode of the posterior times the scaling factor."""
    return posterior_mode(vae, images) * vae.config.scaling_factor


def shards_of(folder: str | Path, split: str = "*") -> list[Path]:
    """The shards in a folder, in order."""
    return sorted(Path(folder).glob(f"{split}-[0-9]*.safetensors"))


def _read_shard(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in ("latents", "tokens")}
    except Exception as error:  # what safetensors raises
        raise UsageError(f"{path} is damaged ({error}). Remove it and render the scenes again.") from error


@dataclass(frozen=True)
class SceneSet:
    """Scenes in the memory of a device: what a step takes is drawn and gathered there."""

    latents: Tensor
    """`(n, 2, c, h, w)`, float16, scaled: of pictures and their mirror images."""
    tokens: Tensor
    """`(n, 2, 4, 77)`, int32: of their captions, the long one first, filled up with the token that ends texts."""
    mark: str
    """Which scenes they are: their number, size and seed, and a hash of the shards' names."""
    size_px: int
    """Side of the pictures."""

    @classmethod
    def read(cls, folder: str | Path, split: Split, *, device: str | torch.device = "cpu") -> SceneSet:
        """The scenes of a split that `prepare_scenes` wrote.

        Raises:
            UsageError: If there are none, a shard is damaged, or they are of different kinds.
        """
        paths = shards_of(folder, split)
        if not paths:
            raise UsageError(
                f"{folder} holds no {split} scenes. Render them: python experiments/pretrain.py render --out {folder}"
            )
        latents, tokens, marks = [], [], set[tuple[str, str]]()
        for path in paths:
            kind, tensors = _read_shard(path)
            marks.add((kind.get("size_px", ""), kind.get("seed", "")))
            latents.append(tensors["latents"].to(device))
            tokens.append(tensors["tokens"].to(device))
        if len(marks) > 1:
            raise UsageError(f"The scenes in {folder} are of different sizes or seeds. Render them again, in a folder.")
        (size_px, seed), names = marks.pop(), " ".join(path.name for path in paths)
        count = sum(map(len, latents))
        mark = f"{count} {split} scenes at {size_px} px, seed {seed} ({crc32(names.encode()):08x})"
        return cls(torch.cat(latents), torch.cat(tokens), mark, int(size_px))

    def __len__(self) -> int:
        return len(self.latents)

    def longest(self, kinds: slice) -> int:
        """Tokens of the longest among some of each scene's captions, the one that ends it with them."""
        is_word = self.tokens[:, :, kinds] != END_TOKEN
        return int(is_word.sum(dim=-1).max()) + 1

    def draw(
        self, generator: torch.Generator, count: int, *, short: float, empty: float, length: int
    ) -> tuple[Tensor, Tensor]:
        """Random scenes, half of them mirrored, each with one caption.

        Args:
            generator: Of the draw; on the device of the scenes.
            count: How many.
            short: Share with a short caption, of those that have one.
            empty: Share with none.
            length: At which captions are cut.

        Returns:
            Latents `(count, c, h, w)`, float32, and tokens `(count, length)`.
        """
        device = self.latents.device
        place = torch.randint(len(self), (count,), generator=generator, device=device)
        side = torch.randint(2, (count,), generator=generator, device=device)
        kind = torch.randint(1, self.tokens.shape[2], (count,), generator=generator, device=device)
        is_short, is_empty = (torch.rand(count, generator=generator, device=device) < share for share in (short, empty))
        tokens = self.tokens[place, side, torch.where(is_short, kind, 0), :length].long()
        tokens = torch.where(is_empty[:, None], empty_text(count, length, device=device), tokens)
        return self.latents[place, side].float(), tokens


def empty_text(count: int, length: int = 2, *, device: torch.device | str = "cpu") -> Tensor:
    """Tokens `(count, length)` of no words."""
    row = torch.full((length,), END_TOKEN, device=device)
    row[0] = START_TOKEN
    return row.expand(count, -1)
