"""Predictions by Ray Data: workers on one machine or a cluster, each with a model of its own.

The only file that needs Ray (`pip install "vpd-perception[ray]"`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, astuple
from importlib import import_module
from pathlib import Path
from typing import Any

from vpd.errors import UsageError
from vpd.inference.heap import return_heap
from vpd.prediction_jobs.output_names import Item
from vpd.prediction_jobs.worker import Chunk, Outcome, Predictor

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
_MOST_TASKS = 10_000  # what a task has done is listed together: the fewer chunks in one, the less is done again
_CHUNKS = 16  # in one: while the model runs, the next are read and the last are written


def predict_by_ray(
    chunks: Iterable[Chunk],
    *,
    model: str,
    out: str | Path,
    origin: Mapping[str, Any],
    options: Mapping[str, Any],
    device: str = "auto",
    dtype: str = "auto",
    fast: Mapping[str, Any] | None = None,
    workers: int | None = None,
    stretch: bool = False,
) -> Iterator[Outcome]:
    """What `Predictor.run` does, spread over Ray actors that load the model once each.

    Where `RAY_ADDRESS` names a cluster, the run takes place there, and every node must see model, images and output
    folder under the same paths; otherwise on this machine. Actors that die are started again and given the same
    images again, whose files come out the same.

    Args:
        chunks: What to predict.
        model: Model folder, or hub id of one.
        out: Folder to write into.
        origin: `Predictor.origin` of the same model, for the fingerprint that the workers' models must have.
        options: Arguments of the model's `predict`.
        device: `auto` = a GPU for each worker where there are any; else as for `vpd.load`.
        dtype: As for `vpd.load`.
        fast: As for `Predictor`.
        workers: Models that run at once; none = one for each GPU, or one.
        stretch: As for `Predictor`.

    Yields:
        Each image when its files are written, in any order, and some twice.

    Raises:
        UsageError: If Ray is not installed, the device is one of several GPUs, the cluster has not enough GPUs or
            processors, or a worker cannot load the model or write.
    """
    check_ray()
    if ":" in device:
        raise UsageError(f"With Ray, each worker has a GPU of its own: give --device cuda instead of {device}.")
    loading = {"source": _seen_from_anywhere(model), "device": device, "dtype": dtype}
    predicting = {
        "out": str(Path(out).resolve()),
        "model_name": origin["model"],
        "options": dict(options),
        "stretch": stretch,
        "fast": None if fast is None else {**fast, "encoder": _seen_from_anywhere(fast.get("encoder"))},
    }
    rows = [{"chunk": _encode(chunk)} for chunk in chunks]
    if not rows:
        return
    import ray

    with _cluster() as resources:
        needs = worker_needs(resources, device=device, workers=workers)
        size = needs.pop("workers")
        results = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_TASKS)).map_batches(
            Worker,
            batch_size=max(1, min(_CHUNKS, len(rows) // size)),  # or few chunks would all go to one worker
            batch_format="numpy",
            fn_constructor_args=(loading, predicting, origin["fingerprint"]),
            compute=ray.data.ActorPoolStrategy(size=size),
            **needs,
        )
        for row in results.iter_rows():
            result = json.loads(row["result"])
            if "refused" in result:
                raise UsageError(result["refused"])
            yield Outcome(**result)


def _seen_from_anywhere(source: str | None) -> str | None:
    """The full path of a folder; a hub id as it is."""
    return str(Path(source).resolve()) if source and Path(source).exists() else source


def worker_needs(resources: Mapping[str, float], *, device: str, workers: int | None) -> dict[str, Any]:
    """How many workers there will be, and what each asks the cluster for, of what it has (`CPU`, `GPU`).

    Raises:
        UsageError: If there are fewer GPUs, or processors where none are wanted.
    """
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    use_gpus = device == "cuda" or (device == "auto" and gpus > 0)
    workers = workers or (max(1, gpus) if use_gpus else 1)
    there, kind = (gpus, "GPUs") if use_gpus else (cpus, "processors")
    if workers > there:
        raise UsageError(f"Ray finds {there} {kind} for {workers} workers. Give fewer --workers, or another --device.")
    return {"workers": workers, "num_cpus": max(1, cpus // workers), "num_gpus": int(use_gpus)}


class Worker:
    """A model in an actor of its own: what comes in and goes out are rows of Ray Data.

    Args:
        loading: Arguments of `vpd.load`.
        predicting: Arguments of `Predictor`.
        fingerprint: What the model must have; another is refused when the first row comes.
    """

    def __init__(self, loading: dict[str, Any], predicting: dict[str, Any], fingerprint: str) -> None:
        from vpd.loading import load

        self._refused = ""
        if predicting["options"].get("memory"):
            return_heap()
        try:
            self._predictor = Predictor(load(**loading), **predicting)
        except UsageError as error:  # raised here, it would make Ray start the actor again and again
            self._refused = str(error)
            return
        if self._predictor.origin["fingerprint"] != fingerprint:
            self._refused = f"{loading['source']} is not the same model on every node. Put it where all see it."

    def __call__(self, rows: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
        """Predict the chunks of some rows; what was done before an error is told too."""
        results: list[dict[str, Any]] = []
        if self._refused:
            results.append({"refused": self._refused})
        else:
            try:
                for outcome in self._predictor.run(_decode(chunk) for chunk in rows["chunk"]):
                    results.append(asdict(outcome))
            except OSError as error:
                results.append({"refused": f"A worker cannot go on: {error}"})
        return {"result": [json.dumps(result) for result in results]}


def check_ray() -> None:
    """Make sure that Ray is there, before a model is loaded.

    Raises:
        UsageError: If it is not.
    """
    try:
        import_module("ray.data")
    except ImportError as error:
        raise UsageError(f'--engine ray needs Ray Data ({error}): pip install "vpd-perception[ray]"') from None


@contextmanager
def _cluster() -> Iterator[Mapping[str, float]]:
    """The cluster of `RAY_ADDRESS`, or one on this machine for as long as the block runs; yields its resources."""
    for variable, value in _QUIET.items():
        os.environ.setdefault(variable, value)
    import ray

    address = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(**quiet) if address else ray.init("local", include_dashboard=False, **quiet)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _encode(chunk: Chunk) -> str:
    """A chunk as JSON, whose strings hold file names that are not UTF-8 too."""
    return json.dumps([(*astuple(item), item.source in chunk.wanted) for item in chunk.items])


def _decode(text: str) -> Chunk:
    rows = json.loads(text)
    items = tuple(Item(*fields) for *fields, _ in rows)
    return Chunk(items, frozenset(source for source, *_, is_wanted in rows if is_wanted))
