"""Prediction jobs for clips with a model that is quick to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thresholder import Thresholder
from vpd.prediction_jobs.clip_job import ClipJob
from vpd.prediction_jobs.worker import Predictor


class QuickModel(Thresholder):
    """Needs no look at the whole clip."""

    def looks_ahead(self, options: dict[str, Any]) -> bool:
        return False


def job_of(source: Path | str, out: Path, *, model: QuickModel | None = None, **options: Any) -> ClipJob:
    return ClipJob(str(source), Predictor(model or QuickModel(), out, model_name="m", options={}), **options)


def stopped_after(job: ClipJob, frames: int) -> int:
    """Stops a job when so many frames are done; returns how many were in the end."""
    done = 0
    for _ in job.run():
        done += 1
        if done == frames:
            job.stop()
    return done
