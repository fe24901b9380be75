"""A prediction job with a model that is quick to run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from vpd.config import Resize
from vpd.errors import UsageError
from vpd.inference.inputs import read_source
from vpd.prediction_jobs.job import PredictionJob, Share
from vpd.prediction_jobs.worker import Outcome, Predictor
from vpd.tasks.predictions import SegmentationPrediction


class Thresholder:
    """Stands for a model: bright pixels are class 1."""

    dtype, device = torch.float32, torch.device("cpu")
    task, words = "segment", ()

    def __init__(self, weight: float = 1.0, most_at_once: int = 99, shortage: Exception | None = None) -> None:
        self.config = SimpleNamespace(model_dump_json=lambda: "{}")
        self.weight = torch.tensor([weight])
        self.most_at_once = most_at_once
        self.shortage = shortage or torch.OutOfMemoryError()
        self.batches: list[int] = []

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}

    def for_words(self, words: dict[str, Any]) -> tuple[Thresholder, dict[str, Any]]:
        return self, words

    def prompts(self, number: int) -> Any:
        return SimpleNamespace(text=lambda numbers, caches: None)

    def fit_at(self, size: int | None) -> Resize:
        return Resize(mode="native")

    def predict(self, images: list[Any], **options: Any) -> list[SegmentationPrediction]:
        if options.get("classes") == ["unknown"]:
            raise UsageError("no such class")
        if len(images) > self.most_at_once:
            raise self.shortage
        self.batches += [len(images)] if images else []
        images = [read_source(image, "a picture") for image in images]
        return [
            SegmentationPrediction(
                labels=torch.from_numpy((np.asarray(image.convert("L")) > 127).astype(np.uint8)),
                classes=("dark", "bright"),
                image=image,
            )
            for image in images
        ]


class Job:
    """A job with its predictor."""

    def __init__(
        self,
        model: Any,
        photos: Path,
        out: Path,
        *,
        batch_size: int = 2,
        share: Share | None = None,
        **options: Any,
    ) -> None:
        self.predictor = Predictor(model, out, model_name="m", options=options)
        self.job = PredictionJob([str(photos)], out, self.predictor.origin, batch_size=batch_size, share=share)

    def run(self) -> Iterator[Outcome]:
        yield from self.job.run(self.predictor.run)

    def finish(self) -> list[Outcome]:
        outcomes = list(self.run())
        self.job.finish()
        return outcomes

    def pending(self) -> list[str]:
        return [item.name for item in self.job.pending]
