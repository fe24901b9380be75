"""Several groups of pictures worked on by threads at once, as on a GPU: the same predictions, order, errors, modes."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hand_made import Samples
from many_images import outputs_of, write_pictures
from thresholder import Job, Thresholder
from tiny import CLASSES
from vpd import DepthModel, ReferringModel, SegmentationModel
from vpd.config import Resize
from vpd.data.sample import Sample, SampleSet
from vpd.errors import UsageError
from vpd.evaluation.evaluate import Interrupted, evaluate, measure
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.inference.outputs import OutputError, Watch
from vpd.inference.overlapped import Threads
from vpd.prediction_jobs.image_files import ImageFiles
from vpd.tasks.task import Seen

WORDS: dict[str, dict[str, Any]] = {"segment": {"scores": True}, "refer": {"text": "a dog"}, "depth": {}}
NUMBERS = {"segment": "scores", "refer": "probability", "depth": "depth_m"}
SIZES = [(48, 64), (70, 40), (48, 64), (30, 100), (64, 64), (48, 64)]


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    fit, windows = Resize(size_px=64), Resize(size_px=96, window_px=64, stride_px=32, flip=True)
    options: dict[str, Any] = {"head_channels": 8}
    return {
        "segment": SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, fit=windows, **options).eval(),
        "refer": ReferringModel.from_diffusion(tiny_diffusion, token_length=8, fit=fit, **options).eval(),
        "depth": DepthModel.from_diffusion(
            tiny_diffusion, scenes=["kitchen"], fit=fit, feature_channels=16, **options
        ).eval(),
    }


@pytest.fixture
def set_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_threads(network: int, readers: int = 4) -> None:
        for module in ("tasks.model", "prediction_jobs.worker", "evaluation.evaluate", "inference.plan"):
            monkeypatch.setattr(f"vpd.{module}.threads_for", lambda _: Threads(network, readers, 10**6))

    return set_threads


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    draw, paths = np.random.default_rng(0), []
    for number, (height, width) in enumerate(SIZES):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8)).save(paths[-1])
    return paths


@pytest.mark.parametrize("task", WORDS)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_predictions_are_the_same_to_the_bit(
    models: dict[str, Any], set_threads: Any, pictures: list[str], task: str, batch_size: int
) -> None:
    model, found = models[task], []
    model.train()
    for network in (0, 2, 3):
        set_threads(network)
        found.append(model.predict(pictures, batch_size=batch_size, **WORDS[task]))
        assert all(module.training for module in model.backbone.unet.modules())
    model.eval()
    for each in found[1:]:
        for got, wanted in zip(each, found[0], strict=True):
            assert torch.equal(getattr(got, NUMBERS[task]), getattr(wanted, NUMBERS[task]))
            assert got.image.size == wanted.image.size


@pytest.mark.parametrize("network", [0, 2])
def test_what_cannot_be_read_is_named(
    models: dict[str, Any], set_threads: Any, pictures: list[str], network: int
) -> None:
    set_threads(network)
    Path(pictures[3]).write_bytes(b"")
    with pytest.raises(UsageError, match=r"3\.png: the file is empty"):
        models["segment"].predict(pictures)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vpd-ahead")]


def test_open_files_are_read_in_their_order(models: dict[str, Any], pictures: list[str]) -> None:
    with Path(pictures[0]).open("rb") as file, pytest.raises(UsageError, match="nothing left to read"):
        models["segment"].predict([file, file])
    with Path(pictures[0]).open("rb") as file, Image.open(pictures[1]) as image:
        found = models["segment"].predict([file, image, image, image])
    assert [prediction.image.height for prediction in found] == [SIZES[0][0], *[SIZES[1][0]] * 3]


def test_the_next_pictures_are_read_while_the_network_runs(
    models: dict[str, Any], pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vpd.inference import plan

    model, read, has_read_second = models["segment"], plan.read_source, threading.Event()

    def told(source: Any, name: str) -> Image.Image:
        image = read(source, name)
        if source == pictures[1]:
            has_read_second.set()
        return image

    def forward(*inputs: Any, **options: Any) -> torch.Tensor:
        assert has_read_second.wait(10), "only what is run was read"
        return type(model).forward(model, *inputs, **options)

    monkeypatch.setattr(plan, "read_source", told)
    monkeypatch.setattr(model, "forward", forward)
    assert len(model.predict(pictures[:2])) == 2


def test_outputs_that_are_no_numbers_are_told_late() -> None:
    """On a GPU it is looked at once; a sum that overflows is none."""
    names = [(4, "a.png"), (7, "b.png")]

    def used(*strips: torch.Tensor) -> list[torch.Tensor]:
        watch = Watch(names, torch.float32, torch.device("cuda"))
        return list(watch.until_known(watch.see(strip) for strip in strips))

    fine, bad = torch.full((2, 3, 4, 5), 3e38), torch.zeros(2, 3, 4, 5)
    assert used(fine, fine)[1] is fine
    for value in (torch.nan, torch.inf, -torch.inf):
        bad[1, 2, 3, 4] = value
        with pytest.raises(OutputError, match=r"b\.png: the outputs are not numbers") as caught:
            used(fine, bad, fine)
        assert caught.value.number == 7


@pytest.mark.parametrize("task", WORDS)
@pytest.mark.parametrize("fit", [{}, {"flip": True}, {"scales": (0.5, 1.0), "flip": True}])
def test_no_prediction_is_made_of_what_is_told_late(
    models: dict[str, Any], set_threads: Any, pictures: list[str], task: str, fit: Any, monkeypatch: Any
) -> None:
    set_threads(2)
    model = models[task]
    own_fit = Resize(size_px=64, **({} if task == "refer" else fit))
    monkeypatch.setattr(model, "config", model.config.model_copy(update={"fit": own_fit}))
    monkeypatch.setattr("vpd.inference.outputs.Watch.__init__", _late(Watch.__init__))
    wanted = model.predict(pictures, **WORDS[task])
    forward = type(model).forward

    def damaged(images: torch.Tensor, *inputs: Any, **options: Any) -> torch.Tensor:
        outputs = forward(model, images, *inputs, **options)
        return outputs * (torch.nan if images.shape[-1] > 150 else 1)  # the fourth alone is so wide

    monkeypatch.setattr(model, "forward", damaged)
    with pytest.raises(OutputError, match=r"3\.png: the outputs are not numbers") as caught:
        model.predict(pictures, **WORDS[task])
    assert caught.value.number == 3 and len(wanted) == len(pictures)


def _late(make: Callable[..., None]) -> Callable[..., None]:
    return lambda self, names, dtype, device: make(self, names, dtype, torch.device("cuda"))


def test_modes_come_back_after_the_last_of_several_threads(models: dict[str, Any], pictures: list[str]) -> None:
    model = models["segment"]
    wanted = model.predict(pictures[0]).labels
    model.train()
    found: list[bool] = []

    def predict() -> None:
        found.extend(torch.equal(model.predict(pictures[0]).labels, wanted) for _ in range(4))

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 12
    assert all(module.training for module in model.backbone.unet.modules()) and not model.text_encoder
    model.eval()


def test_a_cache_computes_once_whatever_threads_ask() -> None:
    cache, computed = TensorCache(10**6), []

    def compute(index: int) -> torch.Tensor:
        computed.append(index)
        time.sleep(0.01)
        return torch.full((3,), float(index))

    def ask() -> None:
        rows = cache.rows([b"a", b"b"], compute, device=torch.device("cpu"))
        assert rows[:, 0].tolist() == [0, 1]

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed == [0, 1] and cache.num_bytes == 24


def test_expressions_are_read_by_several_threads(models: dict[str, Any], set_threads: Any, pictures: list[str]) -> None:
    texts = [f"the {'big ' * number}dog" for number in range(6)]
    set_threads(0)
    wanted = models["refer"].predict(pictures, text=texts)
    set_threads(3)
    for _ in range(3):
        got = models["refer"].predict(pictures, text=texts, caches=FrozenCaches(*[TensorCache(10**6)] * 2))
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one.probability, other.probability, atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_job_writes_the_same(models: dict[str, Any], set_threads: Any, tmp_path: Path, batch_size: int) -> None:
    photos = write_pictures(tmp_path / "photos", 12)
    (photos / "part-3" / "3.png").write_bytes(b"")
    made = []
    for network in (0, 2):
        set_threads(network)
        job = Job(models["segment"], photos, tmp_path / "out", batch_size=batch_size)
        errors = [outcome.error for outcome in job.finish() if outcome.error]
        assert errors == [f"{photos / 'part-3' / '3.png'}: the file is empty"]
        made.append(outputs_of(tmp_path / "out"))
        shutil.rmtree(tmp_path / "out")
    assert made[0] == made[1] and len(made[0]) == 2 * 11 + 1


def test_what_lacks_memory_beside_another_is_tried_alone(set_threads: Any, tmp_path: Path) -> None:
    class Crowded(Thresholder):
        inside = 0

        def predict(self, images: list[Any], **options: Any) -> Any:
            self.inside += 1
            try:
                time.sleep(0.01 * bool(images))
                if self.inside > 1:
                    raise torch.OutOfMemoryError
                return super().predict(images, **options)
            finally:
                self.inside -= 1

    set_threads(2)
    outcomes = Job(Crowded(), write_pictures(tmp_path / "photos", 12), tmp_path / "out", batch_size=2).finish()
    assert [outcome.error for outcome in outcomes] == [None] * 12


def rooms(number: int = 7) -> Samples:
    draw = np.random.default_rng(0)
    return Samples(
        Sample(f"room {place}", draw.integers(0, 256, (48, 64, 3), np.uint8), depth_m=np.ones((48, 64), np.float32))
        for place in range(number)
    )


def as_words(report: Any) -> str:
    """Of a flat room no edges are measured, and NaN is not equal to itself."""
    return json.dumps(report, sort_keys=True)


def test_an_evaluation_finds_the_same(models: dict[str, Any], set_threads: Any) -> None:
    found, kept = [], []
    for network in (0, 2):
        set_threads(network)
        names: list[str] = []
        keep = lambda sample, prediction, names=names: names.append(sample.name) or {}  # noqa: E731
        found.append(evaluate(models["depth"], rooms(), batch_size=2, keep=keep))
        kept.append(names)
    assert as_words(found[0]) == as_words(found[1])
    assert kept == [[f"room {place}" for place in range(7)]] * 2


@pytest.mark.parametrize("network", [0, 2])
def test_an_evaluation_stops_and_names_what_is_wrong(models: dict[str, Any], set_threads: Any, network: int) -> None:
    set_threads(network)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        measure(models["depth"], rooms(), should_stop=lambda: next(asked))
    samples = rooms()
    samples = Samples([*samples, Sample("no depth", samples[0].image)])
    with pytest.raises(UsageError, match="Sample no depth has no depth_m"):
        measure(models["depth"], samples)


def test_an_evaluation_reads_ahead_in_one_thread(models: dict[str, Any]) -> None:
    readers, inside = set(), threading.Lock()

    class Slow(Samples):
        def __getitem__(self, index: int) -> Sample:
            assert inside.acquire(blocking=False), "two read at once"
            readers.add(threading.current_thread())
            time.sleep(0.002)
            sample = super().__getitem__(index)
            inside.release()
            return sample

    measure(models["depth"], Slow(rooms()))
    assert threading.main_thread() not in readers or len(readers) == 2
    assert any(thread.name.startswith("vpd-ahead") for thread in readers)


@pytest.mark.parametrize("is_open", [True, False])
def test_data_that_only_the_callers_thread_may_read(models: dict[str, Any], tmp_path: Path, is_open: bool) -> None:
    class Rows(SampleSet):
        base: Any = sqlite3.connect(tmp_path / "data") if is_open else None

        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> Sample:
            self.base = self.base or sqlite3.connect(tmp_path / "data")
            return samples[self.base.execute("select ?", [index]).fetchone()[0]]

    samples, rows = rooms(), Rows()
    found = measure(models["depth"], rows, batch_size=2).report()
    assert as_words(found) == as_words(evaluate(models["depth"], samples, batch_size=2))
    assert rows[0].name == "room 0"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vpd-ahead")]


@pytest.mark.parametrize(("most_bytes", "place"), [(640, "meta"), (639, "cpu")])
def test_scores_that_would_fill_a_card_go_to_main_memory(
    monkeypatch: pytest.MonkeyPatch, most_bytes: int, place: str
) -> None:
    """A device without data stands for the card: looked at is where memory is taken, and copying it back fails."""
    made, empty = list[tuple[Any, str]](), torch.empty

    def told(*sizes: Any, device: Any = "cpu", **options: Any) -> torch.Tensor:
        made.append((sizes, str(device)))
        return empty(*sizes, **options)

    strip = torch.zeros(5, 4, 8, device="meta")
    monkeypatch.setattr("vpd.tasks.segmentation.MOST_OUTPUT_BYTES", most_bytes)
    monkeypatch.setattr(torch, "empty", told)
    asked: Any = SimpleNamespace(words=SimpleNamespace(names=tuple("abcde"), scores=True))
    with pytest.raises(NotImplementedError, match="meta"):
        model: Any = SimpleNamespace(config=SimpleNamespace(overlap=False))
        SegmentationModel.answer(model, asked, Seen(0, Image.new("RGB", (8, 4)), [], 0, ""), iter([strip]))
    assert ((5, 4, 8), place) in made


@pytest.mark.extras
@pytest.mark.parametrize(("read_s", "network_s", "write_s"), [(0.3, 0.1, 0.3), (0.8, 0.05, 0.01), (0.01, 0.05, 0.8)])
@pytest.mark.parametrize("network", [0, 2])
def test_a_job_takes_as_long_as_the_slowest_of_its_parts(
    set_threads: Any, monkeypatch: Any, tmp_path: Path, read_s: float, network_s: float, write_s: float, network: int
) -> None:
    """Sleeps, so that a busy machine matters little; reading and writing by eight threads each."""
    number, threads, one_network = 80, 8, threading.Lock()
    set_threads(network, threads)
    read, write = ImageFiles.read, ImageFiles.write

    def slow_read(*inputs: Any, **options: Any) -> Any:
        time.sleep(read_s)
        return read(*inputs, **options)

    def slow_write(*inputs: Any) -> Any:
        time.sleep(write_s)
        return write(*inputs)

    class Slow(Thresholder):
        def predict(self, images: list[Any], **options: Any) -> Any:
            with one_network:  # as on one device
                time.sleep(network_s * len(images))
            return super().predict(images, **options)

    job = Job(Slow(), write_pictures(tmp_path / "photos", number), tmp_path / "out", batch_size=1)
    monkeypatch.setattr(ImageFiles, "read", slow_read)
    monkeypatch.setattr(ImageFiles, "write", slow_write)
    began_s = time.perf_counter()
    assert [outcome.error for outcome in job.run()] == [None] * number
    # the first is read, then it is known how many may be read at once
    took_s = time.perf_counter() - began_s - (2 * read_s + network_s + write_s)
    assert took_s <= 1.1 * number * max(read_s / threads, network_s, write_s / threads)


@pytest.fixture
def _small_heap() -> Iterator[None]:
    from vpd.inference.heap import free_heap, return_heap

    return_heap()
    yield
    free_heap()


@pytest.mark.extras
@pytest.mark.usefixtures("_small_heap")
@pytest.mark.parametrize("network", [0, 2])
def test_two_thousand_pictures_take_no_more_memory_than_the_first(
    models: dict[str, Any], set_threads: Any, tmp_path: Path, network: int
) -> None:
    from vpd.training.auto_accumulate import restart_peak

    set_threads(network)
    photos = write_pictures(tmp_path / "photos", 2000)
    resident, done = 0, 0
    for done, outcome in enumerate(Job(models["refer"], photos, tmp_path / "out", text="a dog", size=32).run()):
        assert outcome.error is None
        if done == 500:
            resident = restart_peak() or 0
    assert done == 1999
    assert (restart_peak() or 0) - resident < 16 * 2**20
