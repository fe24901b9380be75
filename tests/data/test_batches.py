import itertools
import multiprocessing
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vpd.data.batches import SampleStream, collate
from vpd.data.sample import Sample
from vpd.data.transforms import Pipeline
from vpd.data.workers import shield_worker
from vpd.errors import UsageError
from vpd.tensors import Batch


def sample(name: str = "a", height: int = 4, width: int = 6, **parts: object) -> Sample:
    return Sample(name, np.zeros((height, width, 3), dtype=np.uint8), **parts)  # type: ignore[arg-type]


# Collation


def test_a_batch_by_hand():
    first = Sample(
        "a",
        np.array([[[0, 255, 51]]], dtype=np.uint8),
        labels=np.array([[7]], dtype=np.uint8),
        mask=np.array([[True]]),
        depth_m=np.array([[2.5]], dtype=np.float32),
        texts=("cup",),
        scene="kitchen",
    )
    batch = collate([first, replace(first, name="b", scene=None)])
    assert batch.names == ["a", "b"] and batch.texts == ["cup", "cup"] and batch.scenes == ["kitchen", None]
    assert batch.images.shape == (2, 3, 1, 1) and batch.images.dtype == torch.float32
    assert batch.images[0].flatten().tolist() == pytest.approx([-1, 1, -0.6])
    assert batch.labels is not None and batch.labels.dtype == torch.int64 and batch.labels.tolist() == [[[7]], [[7]]]
    assert batch.masks is not None and batch.masks.dtype == torch.int64 and batch.masks.sum() == 2
    assert batch.depth_m is not None and batch.depth_m.shape == (2, 1, 1, 1) and batch.depth_m.max() == 2.5


def test_absent_parts_are_none():
    batch = collate([sample()])
    assert (batch.labels, batch.masks, batch.depth_m, batch.texts, batch.scenes) == (None,) * 5


def test_padding_is_exactly_zero_after_scaling():
    small = sample(
        "a", 2, 3, labels=np.ones((2, 3), np.uint8), mask=np.ones((2, 3), bool), depth_m=np.ones((2, 3), np.float32)
    )
    large = sample(
        "b", 4, 4, labels=np.ones((4, 4), np.uint8), mask=np.ones((4, 4), bool), depth_m=np.ones((4, 4), np.float32)
    )
    batch = collate([small, large], pad_px=4)
    assert batch.labels is not None and batch.masks is not None and batch.depth_m is not None
    assert (batch.images[0, :, :2, :3] == -1).all() and (batch.images[1] == -1).all()
    assert (batch.images[0, :, 2:] == 0).all() and (batch.images[0, :, :, 3:] == 0).all()
    assert (batch.labels[0] == 255).sum() == 10 and batch.masks[0].sum() == 6 and batch.depth_m[0].sum() == 6


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([], {}, "no samples"),
        ([sample("a"), sample("b", 5)], {}, r"differ in size \(height x width\): a \(4x6\), b \(5x6\)\. Crop or"),
        ([sample("a"), sample("big", 9)], {"pad_px": 8}, r"larger than the 8 px .*: big \(9x6\)"),
        ([sample("a", texts=("x", "y"))], {}, r"several texts: a\. Draw one each"),
        ([sample("a"), sample("b", labels=np.zeros((4, 6), np.uint8))], {}, "without labels, beside others .*: a"),
        ([sample("a", texts=("x",)), sample("b")], {}, "without texts, beside others .*: b"),
    ],
)
def test_samples_that_do_not_go_together(samples, options, message):
    with pytest.raises(UsageError, match=message):
        collate(samples, **options)


# Streams


class Numbers:
    """Samples whose pixels are their index."""

    classes: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ()

    def __init__(self, length: int, bad: tuple[int, ...] = ()) -> None:
        self.length, self.bad = length, bad

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise UsageError(f"{index}.png: the file is empty")
        return Sample(str(index), np.full((2, 2, 3), index, dtype=np.uint8))


def jitter(one: Sample, rng: np.random.Generator) -> Sample:
    return replace(one, image=rng.integers(0, 256, one.image.shape, dtype=np.uint8))


def stream(length: int = 10, **options: object) -> SampleStream:
    settings = {"seed": 0, "batch_size": 4, **options}
    return SampleStream(Numbers(length), jitter, **settings)  # type: ignore[arg-type]


def take(source: SampleStream, steps: int) -> list[Batch]:
    return list(itertools.islice(source, steps))


def equal(ours: list[Batch], theirs: list[Batch]) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all(a.names == b.names and torch.equal(a.images, b.images) for a, b in pairs)


@given(st.integers(1, 13), st.integers(1, 5), st.integers(0, 50))
def test_every_sample_once_an_epoch(length, batch_size, seed):
    source = SampleStream(Numbers(length), jitter, seed=seed, batch_size=batch_size)
    places = [place for step in range(3 * length) for place in source.places(step)]
    for epoch in range(3):
        indices = [index for place_epoch, index in places if place_epoch == epoch]
        assert sorted(indices) == list(range(length))
    assert source.steps_per_epoch == length / batch_size


def test_a_stream_can_begin_at_any_step():
    undisturbed = take(stream(), 8)
    assert equal(take(stream(start_step=5), 3), undisturbed[5:])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    assert equal(take(stream(workers=workers, start_step=1), 6), take(stream(start_step=1), 6))


def test_ranks_share_the_steps_of_one_process():
    whole = take(stream(batch_size=6), 4)
    shares = [take(stream(batch_size=2, rank=rank, world_size=3), 4) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert batch.names == [name for share in shares for name in share[step].names]
        assert torch.equal(batch.images, torch.cat([share[step].images for share in shares]))


def test_epochs_and_seeds_differ():
    first, second = (stream().places(step) for step in (0, 5))  # 10 samples: step 5 begins the third epoch
    assert [index for _, index in first] != [index for _, index in second]
    assert stream(seed=1).places(0) != first
    names = {}
    for batch in take(stream(), 5):
        for name, image in zip(batch.names, batch.images, strict=True):
            names.setdefault(name, []).append(image)
    assert all(len(images) == 2 and not torch.equal(*images) for images in names.values())


def test_without_shuffling():
    assert [place for step in range(3) for place in stream(4, shuffle=False, batch_size=2).places(step)] == [
        (0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1),
    ]  # fmt: skip


def test_the_global_generators_are_left_alone():
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state()
    take(stream(workers=1), 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1][0] == np.random.RandomState(0).get_state()[1][0]


def test_a_pipeline_says_what_to_pad_to():
    source = SampleStream(Numbers(3), Pipeline((jitter,), pad_px=5), seed=0, batch_size=2)
    assert take(source, 1)[0].images.shape == (2, 3, 5, 5)


BAD = (2, 5, 6)


def torn(**options: object) -> SampleStream:
    return SampleStream(Numbers(10, bad=BAD), jitter, **{"seed": 0, "batch_size": 4, **options})  # type: ignore[arg-type]


def test_unreadable_samples_are_named_and_replaced_by_others():
    source = torn()
    for step, batch in enumerate(take(source, 10)):
        indices = [index for _, index in source.places(step)]
        assert {index for index in indices if index in BAD} <= {index for index, _ in batch.unreadable} <= set(BAD)
        assert all(problem == f"{index}.png: the file is empty" for index, problem in batch.unreadable)
        for index, name in zip(indices, batch.names, strict=True):
            assert int(name) not in BAD and (index in BAD or name == str(index))


def test_replacements_are_a_function_of_seed_epoch_and_number():
    """Of neither workers nor ranks nor the first step; and another one in another epoch."""
    whole = take(torn(), 10)
    assert equal(take(torn(workers=2, start_step=3), 4), whole[3:7])
    shares = [take(torn(batch_size=2, rank=rank, world_size=2), 10) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert batch.names == [name for share in shares for name in share[step].names]
        assert torch.equal(batch.images, torch.cat([share[step].images for share in shares]))
        assert batch.unreadable == [problem for share in shares for problem in share[step].unreadable]
    places = [place for step in range(10) for place in torn().places(step)]
    names = [name for batch in whole for name in batch.names]
    assert len({name for (_, index), name in zip(places, names, strict=True) if index == 2}) > 1
    assert [batch.names for batch in take(torn(seed=1), 10)] != [batch.names for batch in whole]


@pytest.mark.parametrize("workers", [0, 2])
def test_data_without_a_readable_sample_is_named_in_one_line(workers):
    source = SampleStream(Numbers(3, bad=(0, 1, 2)), jitter, seed=0, batch_size=1, workers=workers)
    with pytest.raises(
        UsageError, match=r"^None of 8 samples drawn one after the other can be read: \d\.png: .*; "
    ) as error:
        take(source, 1)
    assert "\n" not in str(error.value) and str(error.value).count("the file is empty") in (2, 3)


def test_only_usage_errors_make_a_sample_unreadable():
    class Broken(Numbers):
        def __getitem__(self, index: int) -> Sample:
            raise KeyError("a mistake of ours")

    with pytest.raises(KeyError, match="a mistake of ours"):
        take(SampleStream(Broken(3), jitter, seed=0, batch_size=1), 1)


def test_processes_that_read_outlive_signals_and_end_with_the_stream():
    batches = iter(stream(workers=2))
    assert len(list(itertools.islice(batches, 2))) == 2  # each of them is at work
    readers = multiprocessing.active_children()
    assert len(readers) == 2
    for reader in readers:
        for name in ("TERM", "INT"):
            subprocess.run(["kill", f"-{name}", str(reader.pid)], check=True)
    assert equal(list(itertools.islice(batches, 8)), take(stream(start_step=2), 8))
    batches.close()
    for reader in readers:
        reader.join(30)
    assert [reader.exitcode for reader in readers] == [0, 0]


def test_processes_that_read_end_with_the_one_they_read_for():
    context = multiprocessing.get_context("fork")
    reader = context.Process(target=lambda: (shield_worker(0), time.sleep(60)), daemon=True)
    reader.start()
    time.sleep(0.5)
    subprocess.run(["kill", "-TERM", str(reader.pid)], check=True)  # as SLURM does
    reader.join(timeout=0.5)
    assert reader.is_alive()
    reader.terminate()  # as Python does at its end, before it waits without end
    reader.join(timeout=10)
    is_over = not reader.is_alive()
    reader.kill()
    assert is_over


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_do_not_go_together_are_an_error_of_the_stream(workers):
    def shrink(one: Sample, rng: np.random.Generator) -> Sample:
        return replace(one, image=one.image[: 1 + int(one.name) % 2])

    with pytest.raises(UsageError, match=r"^samples of one batch differ in size"):
        take(SampleStream(Numbers(4), shrink, seed=0, batch_size=4, workers=workers), 1)


def test_wrong_requests():
    with pytest.raises(UsageError, match="the sample set is empty"):
        stream(0)
    for options in ({"batch_size": 0}, {"rank": 2, "world_size": 2}, {"start_step": -1}):
        with pytest.raises(ValueError, match="must be below world_size"):
            stream(**options)
