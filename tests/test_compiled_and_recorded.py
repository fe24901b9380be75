"""What `vpd.optimise` puts in the place of Python's calls: `torch.compile`'s code, and graphs by shape."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from fake_recorder import FakeRecorder
from tiny import CLASSES
from vpd import DepthModel, ReferringModel, SegmentationModel, optimising
from vpd.backbones import compiled
from vpd.backbones.compiled import Compiled
from vpd.backbones.tiny_encoder import TinyEncoder, TinyEncoderConfig
from vpd.cli import main
from vpd.config import Resize
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.inference.graphs import Graphs
from vpd.optimising import optimise
from vpd.prediction_jobs.manifest import MANIFEST
from vpd.tasks.model import PerceptionModel

IMAGE = np.random.default_rng(0).integers(0, 255, (70, 100, 3), dtype=np.uint8)
OTHER = IMAGE.transpose(1, 0, 2)
WORDS: dict[str, dict[str, Any]] = {"segment": {"scores": True}, "refer": {"text": "the dog"}, "depth": {}}


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path) -> dict[str, PerceptionModel]:
    torch.manual_seed(0)
    windows = Resize(size_px=128, window_px=64, stride_px=64, flip=True)
    made: dict[str, PerceptionModel] = {
        "segment": SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=16),
        "windows": SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, head_channels=16, fit=windows),
        "refer": ReferringModel.from_diffusion(tiny_diffusion, head_channels=16),
        "depth": DepthModel.from_diffusion(tiny_diffusion, scenes=["kitchen"], head_channels=16, feature_channels=32),
    }
    for model in made.values():
        torch.nn.init.uniform_(model.adapter.gamma, 0.2, 0.6)
        model.eval()
    return made


def outcome(model: PerceptionModel, image: Any = IMAGE, **options: Any) -> Tensor:
    """What `predict` gives as numbers; of several images one after the other."""
    task = model.config.task
    made = model.predict(image, **{"size": 64, **options}, **WORDS[task])
    name = {"segment": "scores", "refer": "probability", "depth": "depth_m"}[task]
    return torch.cat([getattr(one, name).flatten() for one in (made if isinstance(made, list) else [made])])


def small_encoder(model: PerceptionModel) -> TinyEncoder:
    channels = model.backbone.vae.config.latent_channels
    return TinyEncoder(TinyEncoderConfig.for_vae(latent_stride=model.backbone.latent_stride, latent_channels=channels))


class TestCompiled:
    """Two graphs, encoder and UNet, for a shape: no break, and no more at the next picture of it."""

    @pytest.fixture
    def counter(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[CompileCounterWithBackend]:
        """Compiles what a model's `compile_mode` asks for, but without making kernels."""
        torch._dynamo.reset()
        counter, compile_for_real = CompileCounterWithBackend("eager"), torch.compile
        counter.modes = []

        def compile_to_count(function: Callable[..., Any], *, mode: str, **options: Any) -> Callable[..., Any]:
            counter.modes.append(mode)
            return compile_for_real(function, backend=counter, **options)

        monkeypatch.setattr(compiled.torch, "compile", compile_to_count)
        yield counter
        torch._dynamo.reset()

    def test_two_graphs_a_shape(self, models: dict[str, PerceptionModel], counter: CompileCounterWithBackend) -> None:
        plain = optimise(models["segment"], dtype="float32")
        fast = optimise(models["segment"], dtype="float32", compile_mode="max-autotune")
        assert counter.modes == ["max-autotune"] * 2
        for number, image in enumerate([IMAGE, IMAGE, OTHER, IMAGE, OTHER]):
            torch.testing.assert_close(outcome(fast, image), outcome(plain, image), atol=1e-5, rtol=1e-5)
            assert counter.frame_count == (2 if number < 2 else 4)
        encoder, unet = (sum(node.op != "placeholder" for node in graph.graph.nodes) for graph in counter.graphs[:2])
        assert encoder > 50 and unet > 500
        with torch.no_grad():  # each is entered by itself too
            latents = fast.backbone.encode(torch.zeros(1, 3, 64, 128))
            fast.backbone(None, fast.prepared_text.layers, latents=latents)
        assert counter.frame_count == 4

    @pytest.mark.extras
    @pytest.mark.parametrize("name", ["refer", "depth"])
    def test_other_tasks(
        self, models: dict[str, PerceptionModel], counter: CompileCounterWithBackend, name: str
    ) -> None:
        fast = optimise(models[name], dtype="float32", compile_mode="default")
        wanted = outcome(optimise(models[name], dtype="float32"))
        for _ in range(2):
            torch.testing.assert_close(outcome(fast), wanted, atol=1e-5, rtol=1e-5)
            assert counter.frame_count == 2

    @pytest.mark.extras
    def test_latents_that_are_kept(
        self, models: dict[str, PerceptionModel], counter: CompileCounterWithBackend
    ) -> None:
        fast, caches = (
            optimise(models["depth"], dtype="float32", compile_mode="default"),
            FrozenCaches(TensorCache(2**20)),
        )
        wanted = outcome(optimise(models["depth"], dtype="float32"))
        for _ in range(2):
            torch.testing.assert_close(outcome(fast, caches=caches), wanted, atol=1e-5, rtol=1e-5)
        assert counter.frame_count == 2

    @pytest.mark.extras
    def test_windows_are_one_shape(
        self, models: dict[str, PerceptionModel], counter: CompileCounterWithBackend
    ) -> None:
        fast = optimise(models["windows"], dtype="float32", compile_mode="default")
        wanted = outcome(optimise(models["windows"], dtype="float32"), size=128)
        torch.testing.assert_close(outcome(fast, size=128), wanted, atol=1e-5, rtol=1e-5)
        assert counter.frame_count == 2

    @pytest.mark.extras
    def test_small_encoder(self, models: dict[str, PerceptionModel], counter: CompileCounterWithBackend) -> None:
        options: dict[str, Any] = {"dtype": "float32", "encoder": small_encoder(models["depth"])}
        fast = optimise(models["depth"], compile_mode="default", **options)
        for _ in range(2):
            wanted = outcome(optimise(models["depth"], **options))
            torch.testing.assert_close(outcome(fast), wanted, atol=1e-5, rtol=1e-5)
        assert counter.frame_count == 2

    @pytest.mark.extras
    def test_copies(self, models: dict[str, PerceptionModel], counter: CompileCounterWithBackend) -> None:
        fast = optimise(models["depth"], dtype="float32", compile_mode="default")
        wanted = outcome(fast)
        for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            with torch.no_grad():
                for parameter in fast.parameters():
                    parameter.add_(1)
                torch.testing.assert_close(outcome(twin), wanted)
                for parameter in fast.parameters():
                    parameter.sub_(1)
            assert twin.backbone._compiled[0]._function.__self__ is twin.backbone


class TestCompiledFunction:
    @pytest.fixture(autouse=True)
    def _reset(self) -> Iterator[None]:
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def test_outputs_are_not_those_of_the_code(self) -> None:
        """Which CUDA graphs overwrite."""
        kept = torch.zeros(3)
        made = Compiled(lambda values: ((kept, values), {2: kept}), backend="eager")(torch.ones(3))
        (first, second), third = made[0], made[1][2]
        assert not {first.data_ptr(), third.data_ptr()} & {kept.data_ptr()} and second.tolist() == [1, 1, 1]

    def test_after_torchs_limit_others_run_as_they_are(self) -> None:
        counter = CompileCounterWithBackend("eager")
        limit = torch._dynamo.config.recompile_limit
        double = Compiled(lambda values: values * 2, backend=counter)
        for _ in range(2):
            for size in range(2, limit + 6):
                assert double(torch.ones(size)).sum() == 2 * size
            assert counter.frame_count == limit


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[FakeRecorder]:
    """Of the models that are optimised, as if the CPU were a GPU."""
    made: list[FakeRecorder] = []

    def graphs_on(device: torch.device) -> Graphs:
        made.append(FakeRecorder())
        return Graphs(made[-1])

    monkeypatch.setattr(optimising, "graphs_on", graphs_on)
    return made


class TestRecorded:
    @pytest.mark.parametrize("name", ["segment", "refer", "depth"])
    def test_predictions(self, models: dict[str, PerceptionModel], recorders: list[FakeRecorder], name: str) -> None:
        plain, fast = (optimise(models[name], dtype="float32", graphs=graphs) for graphs in (False, True))
        (recorder,) = recorders
        assert plain.network is plain and fast.network != fast
        for image in (IMAGE, OTHER, IMAGE, OTHER, IMAGE[::-1].copy()):
            torch.testing.assert_close(outcome(fast, image), outcome(plain, image), atol=0, rtol=0)
        if name == "segment":  # others run a square, or a mirror image too
            assert recorder.log == ["record", "replay", "record", "replay", "replay"]
        assert 1 <= recorder.log.count("record") <= 2 and recorder.log.count("replay") >= 3

    def test_batches(self, models: dict[str, PerceptionModel], recorders: list[FakeRecorder]) -> None:
        plain, fast = (optimise(models["segment"], dtype="float32", graphs=graphs) for graphs in (False, True))
        images = [np.roll(IMAGE, shift, axis=1) for shift in range(7)]
        for _ in range(2):
            got, wanted = (outcome(model, images, batch_size=2) for model in (fast, plain))
            torch.testing.assert_close(got, wanted, atol=0, rtol=0)
        assert recorders[0].log.count("record") == 2  # of two and of one
        assert recorders[0].log.count("replay") == 6

    def test_windows(self, models: dict[str, PerceptionModel], recorders: list[FakeRecorder]) -> None:
        plain, fast = (optimise(models["windows"], dtype="float32", graphs=graphs) for graphs in (False, True))
        for image in (IMAGE, OTHER):
            got, wanted = (outcome(model, image, size=128) for model in (fast, plain))
            torch.testing.assert_close(got, wanted, atol=0, rtol=0)
        assert recorders[0].log.count("record") == 1 and recorders[0].log.count("replay") > 6

    def test_other_classes(self, models: dict[str, PerceptionModel], recorders: list[FakeRecorder]) -> None:
        """As many prompts are one shape, whatever they say."""
        plain, fast = (optimise(models["refer"], dtype="float32", graphs=graphs) for graphs in (False, True))
        for text in ("a", "the dog on the left", "cat", "a"):
            got, wanted = (model.predict(IMAGE, size=64, text=text).probability for model in (fast, plain))
            assert torch.equal(got, wanted)
        assert recorders[0].log == ["record", "replay", "replay", "replay"]

    def test_a_budget_is_kept_without(self, models: dict[str, PerceptionModel], recorders: list[FakeRecorder]) -> None:
        fast = optimise(models["segment"], dtype="float32")
        for _ in range(3):
            outcome(fast, memory="1GB")
        assert recorders[0].log == []

    def test_kept_latents_and_gradients(
        self, models: dict[str, PerceptionModel], recorders: list[FakeRecorder]
    ) -> None:
        fast = optimise(models["depth"], dtype="float32")
        for _ in range(3):
            outcome(fast, caches=FrozenCaches(latents=TensorCache(2**20)))
            fast.network(torch.zeros(1, 3, 64, 64))
        assert recorders[0].log == []

    def test_a_model_that_is_converted(self, models: dict[str, PerceptionModel], recorders: list[FakeRecorder]) -> None:
        fast = optimise(models["segment"], dtype="float32")
        wanted = [outcome(fast) for _ in range(3)][-1]
        fast.double()
        torch.testing.assert_close(outcome(fast), wanted, atol=1e-4, rtol=1e-4)
        fast.float()
        for _ in range(3):
            torch.testing.assert_close(outcome(fast), wanted)
        assert recorders[0].log.count("record") == 2 and "forget" in recorders[0].log

    def test_copies(self, models: dict[str, PerceptionModel], recorders: list[FakeRecorder]) -> None:
        fast = optimise(models["depth"], dtype="float32")
        wanted = [outcome(fast) for _ in range(2)][-1]
        for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
            assert twin.graphs is not None and twin.graphs.held_bytes == 0
            for _ in range(3):
                assert torch.equal(outcome(twin), wanted)
            assert twin.graphs.held_bytes == fast.graphs.held_bytes > 0

    def test_where_torch_records_itself(
        self, models: dict[str, PerceptionModel], recorders: list[FakeRecorder]
    ) -> None:
        found = {mode: optimise(models["depth"], compile_mode=mode) for mode in optimising._MODES}
        assert [mode for mode, fast in found.items() if fast.graphs is not None] == ["default"]
        assert [mode for mode, fast in found.items() if not fast.is_of_one_thread] == ["default"]

    def test_plain_models_and_cpus_have_none(self, models: dict[str, PerceptionModel]) -> None:
        assert models["depth"].graphs is optimise(models["depth"], dtype="float32").graphs is None

    def test_the_command_line(
        self, models: dict[str, PerceptionModel], recorders: list[FakeRecorder], tmp_path: Path
    ) -> None:
        """`vpd predict --fast`, whose manifest says of the predictions what it said without graphs."""
        models["segment"].save(tmp_path / "model")
        for number in range(6):
            path = tmp_path / "photos" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.roll(IMAGE, number, axis=0)).save(path)
        words = ["predict", "segment", tmp_path / "photos", "--model", tmp_path / "model", "--size", 64, "--batch", 2]
        arguments = [str(word) for word in (*words, "--fast", "--dtype", "float32", "--out", tmp_path / "out")]
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        assert recorders[0].log == ["record", "replay", "replay"]
        lines = [json.loads(line) for line in (tmp_path / "out" / MANIFEST).read_text("utf-8").splitlines()]
        assert len(lines) == 6
        assert all(line["options"] == {"size": 64, "dtype": "float32", "fast": "float32"} for line in lines)
        plain = optimise(models["segment"], dtype="float32", graphs=False)
        for line in lines:
            labels = plain.predict(line["source"], size=64).labels.numpy()
            assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / line["data"])), labels)
