from __future__ import annotations

import copy
import gc
import logging
import pickle
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from fake_recorder import FakeRecorder
from vpd.inference import cuda_recorder, graphs
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.inference.cuda_recorder import CudaRecorder, graphs_on
from vpd.inference.graphs import Graphs


class Network(nn.Module):
    """Something that depends on all it is given; says how often Python ran it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
        self.runs: list[torch.Size] = []
        self.fails: list[Exception] = []
        self.eval()

    def forward(self, images: Tensor, text: Tensor | None = None, *, caches: FrozenCaches | None = None) -> Tensor:
        if self.fails:
            raise self.fails.pop()
        self.runs.append(images.shape)
        return self.layer(images) * (1 if text is None else text.sum())


def pictures(width: int = 4, number: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(number, 3, 2, width, generator=torch.manual_seed(seed))


@torch.no_grad()
def run_all(books: Graphs, network: Network, widths: Sequence[int]) -> None:
    """Calls with pictures of these widths, each checked."""
    for number, width in enumerate(widths):
        images = pictures(width, seed=number)
        torch.testing.assert_close(books.run(network, images), network.layer(images))


def recordings(recorder: FakeRecorder) -> int:
    return recorder.log.count("record")


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def recorder() -> FakeRecorder:
    return FakeRecorder()


@pytest.fixture
def books(recorder: FakeRecorder) -> Graphs:
    return Graphs(recorder)


class TestWhatIsRecorded:
    def test_run_then_recorded_then_replayed(self, books: Graphs, network: Network, recorder: FakeRecorder) -> None:
        run_all(books, network, [4])
        assert recorder.log == []
        run_all(books, network, [4])
        assert recorder.log == ["record", "replay"]
        run_all(books, network, [4, 4])
        assert recorder.log == ["record", *["replay"] * 3]

    def test_shapes_that_do_not_come_again_never_are(
        self, books: Graphs, network: Network, recorder: FakeRecorder
    ) -> None:
        run_all(books, network, range(1, 30))
        assert recorder.log == [] and len(network.runs) == 29

    def test_what_makes_a_shape(self, books: Graphs, network: Network, recorder: FakeRecorder) -> None:
        images = pictures(number=2)
        others: list[tuple[Tensor, Tensor | None]] = [
            (images, None),
            (images[:1].clone(), None),
            (images, torch.ones(2, 3)),
            (images, torch.ones(2, 4)),
            (images.contiguous(memory_format=torch.channels_last), None),
        ]
        with torch.no_grad():
            for inputs in others * 2:
                books.run(network, *inputs)
            network.double()
            books.run(network, images.double())
        assert recordings(recorder) == len(others)

    def test_a_part_of_a_picture_is_of_its_own_shape(
        self, books: Graphs, network: Network, recorder: FakeRecorder
    ) -> None:
        """Windows of pictures of any size have one."""
        with torch.no_grad():
            for width in (8, 9, 10):
                part = pictures(width)[..., 2:6]
                torch.testing.assert_close(books.run(network, part), network.layer(part))
        assert recorder.log == ["record", "replay", "replay"]

    def test_inputs_are_those_of_the_call(self, books: Graphs, network: Network) -> None:
        with torch.no_grad():
            for seed in range(5):
                images, text = pictures(seed=seed), torch.randn(2, 3, generator=torch.manual_seed(seed))
                torch.testing.assert_close(books.run(network, images, text), network.layer(images) * text.sum())

    def test_outputs_stay(self, books: Graphs, network: Network) -> None:
        """The fake spoils all others at each replay, as graphs that share memory do."""
        images = [pictures(width, seed=seed) for seed, width in enumerate([4, 6] * 4)]
        with torch.no_grad():
            got = [books.run(network, image) for image in images]
            for output, image in zip(got, images, strict=True):
                torch.testing.assert_close(output, network.layer(image))

    def test_in_inference_mode_and_out_of_it(self, books: Graphs, network: Network, recorder: FakeRecorder) -> None:
        for mode in (torch.inference_mode, torch.no_grad) * 3:
            with mode():
                torch.testing.assert_close(books.run(network, pictures()), network.layer(pictures()))
        assert recorder.log == ["record", *["replay"] * 5]


class TestWhatJustRuns:
    def test_with_gradients(self, books: Graphs, network: Network, recorder: FakeRecorder) -> None:
        for _ in range(4):
            books.run(network, pictures()).sum().backward()
        assert recorder.log == [] and network.layer.weight.grad is not None

    @torch.no_grad()
    def test_in_training(self, books: Graphs, network: Network, recorder: FakeRecorder) -> None:
        for _ in range(4):
            books.run(network.train(), pictures())
        assert recorder.log == []

    @torch.no_grad()
    def test_with_a_cache_of_latents(self, books: Graphs, network: Network, recorder: FakeRecorder) -> None:
        for _ in range(4):
            books.run(network, pictures(), caches=FrozenCaches(latents=TensorCache(1000)))
        assert recorder.log == []
        for _ in range(4):  # texts are read before the network runs
            books.run(network, pictures(), caches=FrozenCaches(texts=TensorCache(1000)))
        assert recordings(recorder) == 1

    @torch.no_grad()
    def test_on_another_device(self, books: Graphs, network: Network, recorder: FakeRecorder) -> None:
        network.to("meta")
        for _ in range(4):
            books.run(network, pictures().to("meta"))
        assert recorder.log == []

    def test_while_compiling(self, books: Graphs, network: Network, recorder: FakeRecorder) -> None:
        traced = torch.compile(lambda images: books.run(network, images), backend="eager")
        with torch.no_grad():
            for _ in range(4):
                torch.testing.assert_close(traced(pictures()), network.layer(pictures()))
        assert recorder.log == []


class TestHowLongItIsKept:
    def test_least_recently_used_go_first(self, network: Network, recorder: FakeRecorder) -> None:
        books = Graphs(recorder, most=2)
        run_all(books, network, [4, 4, 5, 5, 4])
        assert recordings(recorder) == 2
        run_all(books, network, [6, 6, 4])  # 5 goes
        assert recordings(recorder) == 3
        before = len(network.runs)
        run_all(books, network, [5])
        assert recordings(recorder) == 3 and len(network.runs) == before + 1

    def test_shapes_that_push_one_another_out_are_recorded_ever_less(
        self, network: Network, recorder: FakeRecorder
    ) -> None:
        run_all(Graphs(recorder, most=2), network, [4, 5, 6] * 60)
        assert recordings(recorder) < 3 * 8

    def test_beyond_the_limit_all_go_at_once(self, network: Network) -> None:
        """What they share is given back as a whole."""
        recorder = FakeRecorder(free=400, taken=lambda numbers: 10 * numbers)
        books = Graphs(recorder, share=0.5)
        run_all(books, network, [2, 2])  # 80 bytes of at most 200
        assert books.held_bytes == 80
        run_all(books, network, [4, 4])  # 160 more
        assert books.held_bytes == 160
        assert recorder.log == ["record", "replay", "record", "settle", "forget", "record", "replay"]
        assert len(recorder.outputs) == 1

    def test_what_is_too_big_alone_runs(self, network: Network) -> None:
        recorder = FakeRecorder(free=400, taken=lambda numbers: 10 * numbers)
        books = Graphs(recorder, share=0.5)
        run_all(books, network, [8] * 6)
        assert recordings(recorder) == 1 and books.held_bytes == 0 and recorder.outputs == []
        run_all(books, network, [2] * 3)
        assert books.held_bytes == 80
        run_all(books, network, [8] * 3)
        assert books.held_bytes == 80 and recordings(recorder) == 2

    def test_the_limit_is_of_what_was_free_at_first(self, network: Network) -> None:
        recorder = FakeRecorder(free=400, taken=lambda numbers: 10 * numbers)
        books = Graphs(recorder, share=0.5)
        run_all(books, network, [2, 2])
        recorder.free = 0
        run_all(books, network, [1, 1])
        assert books.held_bytes == 120

    @pytest.mark.parametrize("how", ["to", "data", "assign"])
    def test_weights_that_move(self, books: Graphs, network: Network, recorder: FakeRecorder, how: str) -> None:
        run_all(books, network, [4] * 3)
        if how == "to":
            network.double().float()
        elif how == "data":
            network.layer.bias.data = torch.ones(2)
        else:
            network.load_state_dict({key: value + 1 for key, value in network.state_dict().items()}, assign=True)
        run_all(books, network, [4] * 3)
        assert recorder.log == ["record", "replay", "replay", "settle", "forget", "record", "replay", "replay"]

    def test_weights_that_change_in_place_are_read(
        self, books: Graphs, network: Network, recorder: FakeRecorder
    ) -> None:
        run_all(books, network, [4] * 3)
        network.load_state_dict({key: value + 1 for key, value in network.state_dict().items()})
        run_all(books, network, [4] * 3)
        assert recordings(recorder) == 1

    def test_copies_have_none(self, books: Graphs, network: Network) -> None:
        run_all(books, network, [4] * 3)
        for twin in (copy.deepcopy(books), pickle.loads(pickle.dumps(books))):
            assert isinstance(twin, Graphs) and twin.held_bytes == 0
            run_all(twin, network, [4] * 3)
            assert twin.held_bytes == books.held_bytes

    def test_dropped_by_hand(self, books: Graphs, network: Network, recorder: FakeRecorder) -> None:
        run_all(books, network, [4] * 3)
        books.drop()
        assert books.held_bytes == 0 and recorder.log[-2:] == ["settle", "forget"]
        run_all(books, network, [4] * 2)
        assert recordings(recorder) == 2

    def test_the_books_forget_shapes(
        self, network: Network, recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(graphs, "_REMEMBERED", 3)
        books = Graphs(recorder)
        run_all(books, network, [4, 4, 4, *range(10, 20), 4, 10])
        assert recordings(recorder) == 1 and recorder.log.count("replay") == 3
        assert len(books._shapes) == 3


class TestFailures:
    def test_it_runs_and_says_so_once(
        self, books: Graphs, network: Network, recorder: FakeRecorder, caplog: pytest.LogCaptureFixture
    ) -> None:
        recorder.fails = RuntimeError("operation not permitted when stream is capturing\nand more")
        with caplog.at_level(logging.WARNING):
            run_all(books, network, [4, 5] * 10)
        assert recordings(recorder) == 2
        (record,) = caplog.records
        assert record.message.endswith("recording fails: operation not permitted when stream is capturing")

    def test_after_some_shapes_no_more_are_tried(self, books: Graphs, network: Network, recorder: FakeRecorder) -> None:
        recorder.fails = RuntimeError("no")
        run_all(books, network, [4, 5, 6, 7, 8, 9] * 3)
        assert recordings(recorder) == 3

    def test_memory_that_does_not_suffice(
        self, books: Graphs, network: Network, recorder: FakeRecorder, caplog: pytest.LogCaptureFixture
    ) -> None:
        run_all(books, network, [4, 4])
        recorder.fails = torch.OutOfMemoryError("no")
        run_all(books, network, [5, 5, 5])
        assert recordings(recorder) == 3 and books.held_bytes == 0  # tried again without the first
        recorder.fails = None
        run_all(books, network, [6, 6, 5, 5])
        assert recordings(recorder) == 4 and not caplog.records

    def test_recordings_give_way_to_a_network_that_needs_the_memory(
        self, books: Graphs, network: Network, recorder: FakeRecorder
    ) -> None:
        run_all(books, network, [4, 4])
        network.fails = [torch.OutOfMemoryError("no")]
        run_all(books, network, [5])
        assert recorder.log[-2:] == ["settle", "forget"] and books.held_bytes == 0
        network.fails = [torch.OutOfMemoryError("no")]
        with torch.no_grad(), pytest.raises(torch.OutOfMemoryError):
            books.run(network, pictures())

    def test_a_callers_mistake_is_none_of_the_recorder(
        self, books: Graphs, network: Network, recorder: FakeRecorder
    ) -> None:
        for _ in range(6):
            network.fails = [ValueError("wrong text")]
            with torch.no_grad(), pytest.raises(ValueError, match="wrong text"):
                books.run(network, pictures())
        run_all(books, network, [4, 4])
        assert recorder.log == ["record", "replay"]

    def test_nothing_of_a_failed_recording_is_held(self, books: Graphs, network: Network) -> None:
        held = []

        class Failing(FakeRecorder):
            def record(self, run, device):  # type: ignore[no-untyped-def]
                output = run()
                held.append(weakref.ref(output))
                raise RuntimeError("no")

        gc.disable()
        try:
            run_all(Graphs(Failing()), network, [4, 4])
        finally:
            gc.enable()
        assert held and all(output() is None for output in held)


def test_threads_share_it(network: Network) -> None:
    """The fake fails where two replay at a time, and spoils what was not copied before the next."""
    recorder = FakeRecorder()
    books, wrong = Graphs(recorder, most=3), list[str]()

    def work(seed: int) -> None:
        with torch.no_grad():
            for number in range(40):
                images = pictures(3 + (seed + number) % 4, seed=100 * seed + number)
                if not torch.allclose(books.run(network, images), network.layer(images)):
                    wrong.append(f"{seed}: {number}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and recorder.log.count("replay") > 100


class TestOnCuda:
    """What can be seen of it without a GPU."""

    def test_where_there_is_one(self) -> None:
        assert isinstance(graphs_on(torch.device("cuda")), Graphs)
        assert graphs_on(torch.device("cpu")) is graphs_on(torch.device("mps")) is None

    def test_pictures_elsewhere_are_not_recorded(self, network: Network) -> None:
        assert not CudaRecorder().can_record(pictures())
        books = Graphs(CudaRecorder())
        run_all(books, network, [4] * 4)
        assert len(network.runs) == 4
        books.drop()

    def test_copies(self) -> None:
        assert isinstance(copy.deepcopy(CudaRecorder()), CudaRecorder)

    @pytest.mark.parametrize("fails", [False, True])
    def test_the_order_of_a_recording(self, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """By stand-ins for what it calls: run on the stream of its own, then recorded there, the stream set back."""
        log: list[str] = []
        stream = Mock(name="own stream", device=torch.device("cuda", 0))
        current = [Mock(name="stream of the thread")]

        @contextmanager
        def on(other: Mock) -> Iterator[None]:
            before, current[0] = current[0], other
            try:
                yield
            finally:
                current[0] = before

        @contextmanager
        def capture(graph: Mock, *, pool: str, stream: Mock, capture_error_mode: str) -> Iterator[None]:
            log.append(f"begin {pool} {capture_error_mode}")
            try:
                yield
            finally:
                log.append("end")
                if fails:
                    raise RuntimeError("ending it fails too")

        stand_ins: dict[str, Any] = {
            "Stream": lambda: stream,
            "stream": on,
            "graph": capture,
            "CUDAGraph": Mock,
            "Event": Mock,
        }
        stand_ins |= {"device": lambda device: nullcontext(), "graph_pool_handle": lambda: "pool"}
        stand_ins |= {"current_stream": lambda device=None: current[0], "memory_reserved": lambda: 10 * len(log)}
        stand_ins["empty_cache"] = partial(log.append, "empty_cache")
        stand_ins["synchronize"] = lambda device=None: log.append("synchronize")
        for name, stand_in in stand_ins.items():
            assert hasattr(torch.cuda, name)
            monkeypatch.setattr(torch.cuda, name, stand_in)

        for name in ("end", "release"):
            told = lambda device, pool, name=name: log.append(f"{name} {device} {pool}")  # noqa: E731
            monkeypatch.setattr(torch._C, f"_cuda_{name}{'AllocateToPool' if name == 'end' else 'Pool'}", told)

        def run() -> Tensor:
            assert current[0] is stream
            log.append("run")
            if fails and log.count("run") == 2:
                raise ValueError("cannot be recorded")
            return torch.ones(1)

        recorder, thread_stream = CudaRecorder(), current[0]
        begun = ["run", "synchronize", "empty_cache", "begin pool thread_local", "run", "end"]
        if fails:
            with pytest.raises(ValueError, match="cannot be recorded") as error:
                recorder.record(run, stream.device)
            assert log == [*begun, "end 0 pool", "release 0 pool"] and error.value.__suppress_context__
        else:
            recording = recorder.record(run, stream.device)
            assert log == begun and recording.taken_bytes == 10 * (len(log) - 3)
            thread_stream.wait_stream.assert_called_once_with(stream)
            for turn in range(3):
                with recorder.turn():
                    recording.replay()
                assert thread_stream.wait_event.call_count == turn
        assert current[0] is thread_stream
        recorder.settle()
        recorder.forget()
        recorder.settle()
        assert log[-2:] == ["synchronize", "empty_cache"]

    def test_it_is_the_only_file_that_knows_cuda(self) -> None:
        text = Path(graphs.__file__).read_text(encoding="utf-8")
        assert "torch.cuda" not in text and "torch.cuda.graph(" in Path(cuda_recorder.__file__).read_text("utf-8")
