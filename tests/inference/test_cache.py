"""Latents and embeddings that are kept: found by content, bounded, and never another result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tiny import CLASSES, write_tiny_diffusion
from tiny_data import write_refer_data
from vpd import DepthModel, ReferringModel, SegmentationModel
from vpd.config import Resize
from vpd.datasets.layouts import open_data
from vpd.evaluation.evaluate import measure
from vpd.files.atomic import read_json_lines
from vpd.inference.cache import FrozenCaches, TensorCache, image_key, text_key
from vpd.tasks.table import TASKS
from vpd.training.run import train
from vpd.training.settings import resolve_config
from vpd.training.setup import build_caches

CPU = torch.device("cpu")


class Rows:
    """What a cache asks for: a row of four floats, and how often."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, index: int) -> Tensor:
        self.asked.append(index)
        return torch.full((4,), float(index))


def test_what_was_not_asked_for_longest_goes_first() -> None:
    cache, rows = TensorCache(2 * 16), Rows()
    assert cache.rows([b"a", b"b", b"a"], rows, device=CPU)[:, 0].tolist() == [0, 1, 0]
    cache.rows([b"c"], rows, device=CPU)  # b goes
    cache.rows([b"a", b"b"], rows, device=CPU)
    assert rows.asked == [0, 1, 0, 1]
    assert (cache.hits, cache.misses, cache.num_bytes) == (2, 4, 32)


def test_what_is_too_large_is_not_kept() -> None:
    cache, rows = TensorCache(15), Rows()
    for _ in range(2):
        assert cache.rows([b"a"], rows, device=CPU).tolist() == [[0.0] * 4]
    assert (cache.hits, cache.num_bytes) == (0, 0)


def test_kept_rows_are_safe_from_what_is_done_with_them() -> None:
    cache, rows = TensorCache(1000), Rows()
    cache.rows([b"a"], rows, device=CPU).fill_(7)
    assert cache.rows([b"a"], rows, device=CPU).tolist() == [[0.0] * 4]


def test_keys_tell_pixels_types_sizes_texts_and_precision_apart() -> None:
    image = torch.rand(3, 8, 4)
    other = image.clone()
    other[2, 7, 3] += 1e-6
    keys = [image_key(i) for i in (image, other, image.reshape(3, 4, 8), image.double(), image.flip(-1))]
    keys += [text_key(text, length, CPU) for text in ("a dog", "a  dog") for length in (8, 9)]
    with torch.autocast("cpu", torch.bfloat16):
        keys += [image_key(image), text_key("a dog", 8, CPU)]
    assert len(set(keys)) == len(keys)
    assert image_key(image) == image_key(image.clone()) == image_key(image.flip(-1).flip(-1))


@pytest.fixture(scope="module")
def referrer(tiny_diffusion: Path) -> ReferringModel:
    torch.manual_seed(0)
    fit = Resize(mode="squash", size_px=64)
    return ReferringModel.from_diffusion(tiny_diffusion, fit=fit, head_channels=8, token_length=12)


def caches_of(num_bytes: int = 10**6) -> FrozenCaches:
    cache = TensorCache(num_bytes)
    return FrozenCaches(latents=cache, texts=cache)


def pictures(number: int) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, 256, (40, 60, 3), dtype=np.uint8) for n in range(number)]


def test_sentences_of_one_image_encode_it_once(referrer: ReferringModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = referrer.backbone.encode

    def count(images: Tensor) -> Tensor:
        encoded.append(len(images))
        return encode(images)

    monkeypatch.setattr(referrer.backbone, "encode", count)
    (image,), texts = pictures(1), ["the dog", "the cat", "the dog", "a bird"]
    caches = caches_of()
    kept = referrer.predict([image] * 4, text=texts, batch_size=2, caches=caches)
    assert encoded == [1]
    assert (caches.latents.hits, caches.latents.misses) == (3 + 1, 1 + 3)
    plain = referrer.predict([image] * 4, text=texts, batch_size=2)
    for one, other in zip(kept, plain, strict=True):
        torch.testing.assert_close(one.probability, other.probability, atol=1e-5, rtol=0)
    again = referrer.predict([image] * 4, text=texts, batch_size=2, caches=caches_of(0))  # nothing is ever kept
    assert all(torch.equal(one.probability, other.probability) for one, other in zip(kept, again, strict=True))


def test_every_task_predicts_the_same_from_kept_latents(tiny_diffusion: Path) -> None:
    torch.manual_seed(0)
    windows = Resize(size_px=64, max_long_px=256, window_px=64, stride_px=32, flip=True)
    models = (
        SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, fit=windows, head_channels=8),
        DepthModel.from_diffusion(tiny_diffusion, scenes=["room"], fit=windows, head_channels=16, feature_channels=32),
    )
    for model in models:
        caches = caches_of()
        first, second = (model.predict(pictures(1), caches=caches)[0] for _ in range(2))
        assert caches.latents.hits == caches.latents.misses > 1  # each window, and its mirror image
        for name in ("labels", "depth_m"):
            if hasattr(first, name):
                assert torch.equal(getattr(first, name), getattr(second, name))


def test_latents_are_only_kept_where_no_recipe_changes_the_images() -> None:
    def caches(task: str, recipe: str, cache_mb: int = 3) -> tuple[FrozenCaches | None, FrozenCaches | None]:
        given = {"model": "sd", "data": {"root": "data"}, "recipe": recipe, "cache_mb": cache_mb}
        return build_caches(resolve_config(task, given), TASKS[task])

    assert caches("refer", "reference", cache_mb=0) == (None, None)
    training, validation = caches("refer", "reference")
    assert training == validation and training.latents is training.texts and training.texts.max_bytes == 3 * 2**20
    training, validation = caches("refer", "default")
    assert training.latents is None and validation.latents is training.texts


@pytest.fixture(scope="module")
def refer_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run with room for nothing, for everything, and without a cache."""
    folder = tmp_path_factory.mktemp("cached")
    diffusion = write_tiny_diffusion(folder / "diffusion", block_out_channels=(16, 16, 16, 16))
    settings = {
        "model": str(diffusion),
        "data": {"root": str(write_refer_data(folder / "data"))},
        "recipe": "reference",
        "model_options": {"head_channels": 8, "token_length": 8},
        "crop_px": 64,
        "epochs": None,
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "workers": 0,
        "log_every": 1,
        "validate_every": 3,
        "checkpoint_every": 6,
        "pictures": 0,
        "trackers": [],
    }
    keep, kept = TensorCache._keep, list[bytes]()

    def note(cache: TensorCache, key: bytes, value: Tensor) -> None:
        kept.append(key)
        keep(cache, key, value)

    for name, cache_mb, how in (("without", 0, keep), ("with", 8, note), ("nothing kept", 8, lambda *_: None)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TensorCache, "_keep", how)
            train("refer", folder / name, settings, {"cache_mb": cache_mb})
    assert len(kept) == len(set(kept)) == 1 + 4  # both splits have the same pixels and sentences
    return {name: folder / name for name in ("without", "with", "nothing kept")}


def test_training_from_kept_results_is_the_same_to_the_bit(refer_runs: dict[str, Path]) -> None:
    logs, weights = {}, {}
    for name, folder in refer_runs.items():
        numbers = ("loss", "grad_norm", "oIoU", "mIoU", "oIoU_squashed")
        lines = [line for line in read_json_lines(folder / "log.jsonl") if line["kind"] != "measured"]
        logs[name] = [{key: line.get(key) for key in numbers} for line in lines]
        weights[name] = load_file(folder / "model" / "model.safetensors")
    assert logs["with"] == logs["nothing kept"] and len(logs["with"]) == 8
    assert all(torch.equal(value, weights["nothing kept"][key]) for key, value in weights["with"].items())
    # whole batches are rounded otherwise in the last bits, which Adam makes larger
    for ours, theirs in zip(logs["with"], logs["without"], strict=True):
        if ours["loss"] is not None:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    first = [log[0]["loss"] for log in (logs["with"], logs["without"])]
    assert first[0] == pytest.approx(first[1], rel=1e-6)


def test_evaluation_of_expressions_encodes_each_image_once(referrer: ReferringModel, tmp_path: Path) -> None:
    data = open_data(write_refer_data(tmp_path), "refer", split="val")  # two sentences for each of two objects
    caches = FrozenCaches(latents=TensorCache(10**6))
    first = measure(referrer, data, batch_size=2, caches=caches)
    assert len(data) == 4 and (caches.latents.hits, caches.latents.misses) == (3, 1)
    assert first.report() == measure(referrer, data, batch_size=2).report()  # which keeps them of its own accord
