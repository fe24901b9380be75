"""The race of the demo: the same segmenter, trained from the pre-trained UNet and from a random one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from markupsafe import Markup

from vpd.backbones.stable_diffusion import StableDiffusionBackbone
from vpd.config import Resize
from vpd.data.geometric import RandomFlip
from vpd.drawing.charts import Axis, line_chart
from vpd.evaluation.evaluate import evaluate
from vpd.files.atomic import writable_folder, write_json
from vpd.files.own_files import begins_with, check_own_folder
from vpd.inference.cache import FrozenCaches, TensorCache
from vpd.model_folder import check_results_folder
from vpd.pages.page import Page, write_page
from vpd.processes import logging_at
from vpd.tasks.segmentation import SegmentationModel
from vpd.training.config import TrainConfig
from vpd.training.loop import Training
from vpd.training.settings import resolve_config
from vpd.weights.shipped import WORLD, shipped_diffusion
from vpd.world.dataset import WorldSamples
from vpd.world.scenes import CLASSES

STEPS, MEASURE_EVERY = 80, 8
_LABELLED, _MEASURED, _SIZE_PX, _BATCH = 128, 40, 64, 12
_PAGE, _DATA, _TITLE = "training.html", "training.json", "Does pre-training on text and pictures help?"
ARMS = ("pre-trained", "random")


@dataclass
class Race:
    """mIoU on fresh scenes after some steps of each arm."""

    steps: list[int]
    """After which it is measured."""
    miou: dict[str, list[float]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    """Arm -> what was measured so far."""

    def steps_to_the_end_of_random(self) -> int | None:
        """After how many steps the pre-trained arm is as good as the random one at its end; none = not yet."""
        target = self.miou["random"][-1]
        measured = zip(self.steps, self.miou["pre-trained"], strict=False)
        return next((step for step, value in measured if value >= target), None)


def run_race(
    out: str | Path, *, steps: int = STEPS, on_measured: Callable[[str, int, float], None] = lambda *_: None
) -> tuple[Path, Race]:
    """Train one arm after the other on the same scenes, and draw their curves again after each measuring.

    Args:
        out: Folder to write into.
        steps: Of each arm.
        on_measured: Gets the arm, its steps and its mIoU on fresh scenes.

    Returns:
        The page with the curves, and the race.

    Raises:
        UsageError: If the folder cannot be written, or holds files of these names that no race left.
        SystemExit: With 130 or 143, if Ctrl-C or SIGTERM came.
    """
    check_results_folder(out := Path(out))
    is_own = partial(begins_with, words=f"<title>{_TITLE}</title>")
    check_own_folder(out, [_PAGE, _DATA], "`vpd demo --train`", is_own=is_own)
    page, race = writable_folder(out) / _PAGE, Race([*range(0, steps + 1, MEASURE_EVERY)])
    scenes = WorldSamples("segment", "train", _LABELLED, _SIZE_PX, seed=11, keep=True)
    fresh = WorldSamples("segment", "test", _MEASURED, _SIZE_PX, seed=11, keep=True)
    latents = FrozenCaches(TensorCache(2**28), None)  # the VAE is frozen, and the same in both
    config = _config(steps)

    def note(arm: str, step: int, metrics: dict[str, float]) -> None:
        race.miou[arm].append(metrics["mIoU"])
        is_done = all(len(values) == len(race.steps) for values in race.miou.values())
        _draw(page, race, is_done=is_done)
        write_json(out / _DATA, {"steps": race.steps, "mIoU": race.miou})
        on_measured(arm, step, metrics["mIoU"])

    # what trainings tell of their folders, which go, is of no use to anybody
    with TemporaryDirectory() as scratch, logging_at(logging.WARNING, "vpd.training"):
        for arm in reversed(ARMS):  # the pre-trained one comes last, and is seen to pass the other
            model = _new_model(is_random=arm == "random")
            note(arm, 0, evaluate(model.eval(), fresh, batch_size=20, caches=latents)["metrics"])
            Training(
                model,
                scenes,
                RandomFlip(),
                config,
                Path(scratch, arm),
                validation_set=fresh,
                caches=(latents, latents),
                on_validated=partial(note, arm),
            ).run()
    return page, race


def _new_model(*, is_random: bool) -> SegmentationModel:
    """A segmenter before its first step; both arms have the same head, prompts and VAE."""
    torch.manual_seed(0)
    fit = Resize(size_px=_SIZE_PX, max_long_px=4 * _SIZE_PX)
    model = SegmentationModel.from_diffusion(shipped_diffusion(), classes=CLASSES, fit=fit, head_channels=48)
    if is_random:
        backbone = StableDiffusionBackbone.from_config(model.backbone.config)
        backbone.vae = model.backbone.vae
        model.backbone = backbone
    return model


def _config(steps: int) -> TrainConfig:
    """Settings of both arms: the recommended ones, at a rate that is right for rendered scenes."""
    given = {"model": WORLD, "data": {"root": WORLD}, "recipe": "default", "crop_px": _SIZE_PX, "batch_size": _BATCH}
    rates = {"learning_rate": 1e-3, "unet_lr_scale": 1.0}
    watched = {"validate_every": MEASURE_EVERY, "checkpoint_every": steps, "keep": 1, "pictures": 0, "trackers": ()}
    return resolve_config("segment", given, {"steps": steps, "workers": 0, **rates, **watched})


def _draw(page: Path, race: Race, *, is_done: bool) -> None:
    curves = {arm: list(zip(race.steps, [100 * value for value in race.miou[arm]], strict=False)) for arm in ARMS}
    chart = line_chart(curves, Axis("optimiser steps", 0, race.steps[-1]), Axis("mIoU on fresh scenes, %", 0, 100))
    told = ""
    if is_done:
        reached = race.steps_to_the_end_of_random()
        when = "never there" if reached is None else f"there after {reached}"
        told = (
            f" Random weights end at {100 * race.miou['random'][-1]:.1f} % after {race.steps[-1]} steps; the "
            f"pre-trained ones are {when}."
        )
    words = (
        f"One segmenter, {_LABELLED} labelled scenes, the whole UNet trains. The only difference is where its weights "
        f"come from.{told}"
    )
    told_page = Page(_TITLE, words, Markup(chart))  # noqa: S704, it escapes
    write_page(page, told_page, refresh_s=None if is_done else 2)
