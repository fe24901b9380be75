"""Predictions within a budget: the same where one pass suffices, windows without seams or a smaller size where not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from tiny import CLASSES
from vpd import DepthModel, ReferringModel, SegmentationModel, UsageError
from vpd.config import Resize
from vpd.inference import plan as planning
from vpd.inference.memory import BudgetError, LiveBytes
from vpd.inference.plan import Planner
from vpd.inference.run import run_windows
from vpd.inference.windows import Cuts, PlainWindows, SmoothWindows
from vpd.tasks.model import PerceptionModel

WORDS: dict[str, dict[str, Any]] = {"segment": {}, "refer": {"text": "the dog"}, "depth": {}}
SIZE = (301, 423)  # multiples of nothing
TASKS = ["segment", "refer", "depth"]

pytestmark = pytest.mark.filterwarnings("ignore:Pictures are run:UserWarning")


@pytest.fixture(autouse=True)
def _no_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process takes once is more than tiny models take."""
    monkeypatch.setattr(planning, "ONCE_BYTES", 0)


@pytest.fixture(scope="module")
def models(tiny_diffusion: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    native = Resize(mode="native")
    options: dict[str, Any] = {"fit": native, "head_channels": 8}
    return {
        "segment": SegmentationModel.from_diffusion(tiny_diffusion, classes=CLASSES, **options).eval(),
        "refer": ReferringModel.from_diffusion(tiny_diffusion, token_length=8, **options).eval(),
        "depth": DepthModel.from_diffusion(
            # as published: what random weights make of other options hardly varies, and rounding shows
            tiny_diffusion,
            scenes=["kitchen", "office"],
            feature_channels=32,
            head_padding="zeros",
            head_skips=False,
            **options,
        ).eval(),
    }


def picture(height: int = SIZE[0], width: int = SIZE[1], seed: int = 0) -> Image.Image:
    """Something like a photograph: shaded ground, objects with edges, a little noise."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[0:height, 0:width]
    ground = np.stack([60 + 120 * down / height, 90 + 90 * across / width, 200 - 120 * down / height], axis=-1)
    image = Image.fromarray(ground.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        top, left, size = random.integers(0, height), random.integers(0, width), random.integers(20, 120)
        box = (int(left), int(top), int(left + size), int(top + size))
        (draw.ellipse if size % 2 else draw.rectangle)(
            box, fill=tuple(int(part) for part in random.integers(0, 256, 3))
        )
    noisy = np.asarray(image).astype(np.float32) + random.normal(0, 4, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def planner(model: PerceptionModel, memory_bytes: int = 10**6) -> Planner:
    """As `predict` makes it."""
    return Planner(model=model, asked=model.prompts(1, **WORDS[model.task]), memory_bytes=memory_bytes)


def least(model: PerceptionModel, side: int, fit: Resize | None = None, size: tuple[int, int] = SIZE) -> int:
    """A budget in which windows of this side fit, and no larger ones."""
    memory, windows = 10**6, SmoothWindows(side, side // 4)
    for _ in range(20):  # strips take a share of the budget
        memory = planner(model, memory).stream_bytes(fit or model.config.fit, size, windows)
    return int(memory * 1.01)


def answer(model: Any, image: Any = None, **options: Any) -> Tensor:
    """The numbers of a prediction."""
    task = model.config.task
    options |= WORDS[task] | ({"scores": True} if task == "segment" else {})
    made = model.predict(picture() if image is None else image, **options)
    return made.scores if task == "segment" else made.probability if task == "refer" else made.depth_m


@pytest.mark.parametrize("task", TASKS)
def test_what_fits_is_the_same_to_the_bit(models: dict[str, Any], task: str) -> None:
    prediction = models[task].predict(picture(70, 93), memory="4GB", **WORDS[task])
    assert prediction.note == ""
    assert torch.equal(answer(models[task], picture(70, 93), memory="4GB"), answer(models[task], picture(70, 93)))


@pytest.mark.parametrize(
    "changes", [{}, {"flip": True}, {"scales": (0.5, 1.0, 1.5)}, {"window_px": 128, "stride_px": 96}]
)
@pytest.mark.parametrize("mode", ["native", "resize_short"])
@pytest.mark.parametrize("antialias", [True, False])
def test_strips_are_the_same_to_the_bit(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], mode: Any, antialias: bool
) -> None:
    """One pass, or the model's own windows, whose logits are not kept as a whole."""
    model, image = models["segment"], picture(101, 143)
    fit = Resize.model_validate({"mode": mode, "size_px": 64, "antialias": antialias, **changes})
    monkeypatch.setattr(model, "config", model.config.model_copy(update={"fit": fit}))
    monkeypatch.setattr("vpd.inference.resize.STRIP_PIXELS", 1500)
    wanted = model.predict(image, scores=True)
    monkeypatch.setattr(Planner, "whole_bytes", lambda *_: 10**15)
    got = model.predict(image, scores=True, memory="4GB")
    assert got.note == ""
    assert torch.equal(got.scores, wanted.scores)
    assert torch.equal(got.labels, wanted.labels)


@pytest.mark.parametrize("changes", [{}, {"flip": True}, {"window_px": 128, "stride_px": 96, "flip": True}])
def test_strips_of_depth_are_the_same_to_the_bit(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    model, image = models["depth"], picture(101, 143)
    fit = Resize.model_validate({"size_px": 192, **changes})
    monkeypatch.setattr(model, "config", model.config.model_copy(update={"fit": fit}))
    wanted = model.predict(image)
    monkeypatch.setattr(Planner, "whole_bytes", lambda *_: 10**15)
    assert torch.equal(model.predict(image, memory="4GB").depth_m, wanted.depth_m)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("task", ["segment", "depth"])
def test_windows_stay_within_the_budget(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch, task: str, flip: bool
) -> None:
    model = models[task]
    monkeypatch.setattr(model, "config", model.config.model_copy(update={"fit": Resize(mode="native", flip=flip)}))
    for side in (256, 320):
        memory = least(model, side)
        made = model.predict(picture(), memory=memory, **WORDS[task])  # counts, which is not to be counted
        with LiveBytes() as live:
            model.predict(picture(), memory=memory, **WORDS[task])
        assert made.note == f"in windows of {side} px that overlap by {side // 4} px or more"
        assert made.facts()["note"] == made.note
        assert 0.4 * memory < live.peak <= memory
    with LiveBytes() as live:
        model.predict(picture(), **WORDS[task])
    assert live.peak > least(model, 256)  # what it takes without a budget


def test_windows_at_several_scales(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["segment"]
    fit = Resize(mode="native", scales=(0.5, 1.0, 1.5), flip=True)
    monkeypatch.setattr(model, "config", model.config.model_copy(update={"fit": fit}))
    memory = least(model, 320, fit)
    made = model.predict(picture(), memory=memory, scores=True)
    with LiveBytes() as live:
        model.predict(picture(), memory=memory, scores=True)
    assert "windows of" in made.note
    assert live.peak <= memory
    torch.testing.assert_close(made.scores.sum(dim=0), torch.ones(SIZE), atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", ["segment", "depth"])
def test_no_seams(models: dict[str, Any], task: str) -> None:
    """Steps of the outputs across borders of windows are as large as elsewhere, unlike those of a plain average."""
    model, image, windows = models[task], picture(400, 620), SmoothWindows(256, 64)
    embeds = None if task == "segment" else model.scene_prompts([None])

    def outputs(cuts: Cuts) -> Tensor:
        with torch.no_grad():
            strips = run_windows(model, image, embeds, cuts, rows=64)
            return torch.cat([strip.clone() for strip in strips], dim=-2)[0]

    def excess(values: Tensor, starts: list[int], dim: int) -> float:
        """Mean step where windows begin or end, to the mean step of the rows or columns around."""
        steps = values.diff(dim=dim).abs().mean(dim=[other for other in range(3) if other != dim])
        borders = {place - 1 for start in starts for place in (start, start + 256) if 0 < place < values.shape[dim]}
        around = {border + move for border in borders for move in range(-12, 13) if abs(move) > 1} - borders
        assert len(borders) >= 2
        return float(steps[list(borders)].mean() / steps[[p for p in around if 0 <= p < len(steps)]].mean())

    blended = outputs(windows)
    averaged = outputs(PlainWindows(256, 192))
    for dim, length in ((1, 400), (2, 620)):
        plain = [min(start, length - 256) for start in range(0, length - 64, 192)]
        assert excess(blended, windows.starts(length), dim) < 1.1
        assert excess(averaged, plain, dim) > excess(blended, windows.starts(length), dim)


def test_batches_are_as_large_as_fit(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models["segment"]
    images = [picture(64, 80, seed) for seed in range(3)] + [picture(*SIZE), picture(80, 64)]
    ran: list[tuple[int, ...]] = []
    run = model.forward

    def forward(images: Tensor, *inputs: Any, **options: Any) -> Tensor:
        ran.append(tuple(images.shape))
        return run(images, *inputs, **options)

    monkeypatch.setattr(model, "forward", forward)
    memory = least(model, 256)
    together = model.predict(images, batch_size=4, memory=memory)
    assert ran[0] == (3, 3, 64, 80)
    assert ran[-1] == (1, 3, 80, 64)
    assert [prediction.note[:10] for prediction in together] == ["", "", "", "in windows", ""]
    for image, prediction in zip(images, together, strict=True):
        alone = model.predict(image, memory=memory)
        assert (alone.labels != prediction.labels).float().mean() < 0.01
    for_two = planner(model).whole_bytes(model.config.fit, [(64, 80)] * 2)
    del ran[:]
    model.predict(images[:3], batch_size=4, memory=for_two)
    assert [shape[0] for shape in ran] == [2, 1]


def test_referring_is_run_smaller(models: dict[str, Any]) -> None:
    model = models["refer"]
    fit = Resize(mode="resize_short", size_px=256, max_long_px=1024)
    memory = planner(model).whole_bytes(fit, [(500, 700)])
    made = model.predict(picture(500, 700), text="the dog", memory=memory)
    with LiveBytes() as live:
        model.predict(picture(500, 700), text="the dog", memory=memory)
    assert made.note == "at a short side of 256 px instead of 500 px"
    assert live.peak <= memory
    assert torch.equal(made.probability, answer(model, picture(500, 700), size=256))
    with pytest.raises(BudgetError, match="at the smallest size that makes sense"):
        model.predict(picture(500, 700), text="the dog", memory="1MB")


@pytest.mark.parametrize("task", ["segment", "depth"])
def test_what_does_not_fit_at_all(models: dict[str, Any], task: str) -> None:
    with pytest.raises(BudgetError, match=r"423x301 px, .* needs \d+ MB even in windows of 256 px; 1 MB are allowed"):
        models[task].predict(picture(), memory="1MB")
    with pytest.raises(BudgetError, match="even as a whole; .* are allowed. Allow more memory, or give a smaller"):
        models[task].predict(picture(64, 64), memory="50KB")
    with pytest.raises(UsageError, match="such as 4GB"):
        models[task].predict([], memory="much")


def test_windows_are_told_once(models: dict[str, Any]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(2):
            models["depth"].predict(picture(), memory=least(models["depth"], 256))
    assert [str(warning.message) for warning in told if "Pictures" in str(warning.message)] == [
        planning.WINDOWS_WARNING
    ]


def test_outputs_of_one_group_are_gone_before_the_next_is_run(models: dict[str, Any]) -> None:
    model, images = models["segment"], [picture(150, 200, seed) for seed in range(3)]
    peaks = []
    for number in (1, 3):
        with LiveBytes() as live:
            model.predict(images[:number])
        peaks.append(live.peak)
    kept = 2 * 150 * 200  # the labels of the others
    assert peaks[1] <= peaks[0] + 2 * kept
