"""Predictions for many files: written as they come, listed in a manifest, gone on with after a stop."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vpd.errors import UsageError
from vpd.files import append_json_line, atomic_write, read_json_lines, writable_folder
from vpd.images import read_image
from vpd.output_names import Item, name_outputs
from vpd.predictions import Prediction
from vpd.tasks.depth import DepthModel
from vpd.tasks.referring import ReferringModel
from vpd.tasks.segmentation import SegmentationModel

MANIFEST = "predictions.jsonl"
_JPEG_MAX_PX = 65_500
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of one image."""

    source: Path
    """The image."""
    error: str | None = None
    """Why it was skipped; none = done."""


class PredictionJob:
    """Predicts the images that `sources` name into `out`: a data file, a picture and a manifest line for each.

    Every file is written whole or not at all and the line comes last, so a job can be stopped at any moment and
    made again: it goes on with what is missing.

    Args:
        model: One of the three task models.
        sources: Image files, folders, glob patterns.
        out: Folder to write into.
        model_name: What the manifest calls the model.
        options: Arguments of the model's `predict` (`text`, `classes`, `scene`, `size`); none are left out.
        batch_size: Images that are read and predicted together.

    Raises:
        UsageError: If the sources or the folder cannot be used, or the folder holds predictions made by another
            model or with other options.
    """

    def __init__(
        self,
        model: SegmentationModel | ReferringModel | DepthModel,
        sources: Sequence[str],
        out: str | Path,
        *,
        model_name: str,
        options: dict[str, Any],
        batch_size: int = 1,
    ) -> None:
        self.out = Path(out)
        self._options = {key: value for key, value in options.items() if value is not None}
        self._model, self._call_options = _prepare(model, self._options)
        self._batch_size = batch_size
        self._origin = {
            "task": model.config.task,
            "model": model_name,
            "fingerprint": fingerprint(model.config.model_dump_json(), model.state_dict()),
            "options": {**self._options, "dtype": str(model.dtype).removeprefix("torch.")},
        }
        lines = [line for line in read_json_lines(self.out / MANIFEST) if _is_ours(line)]
        self._check_origin(lines)
        names = {line["source"]: str(line["data"]).removesuffix(".png") for line in lines}
        self.items = name_outputs(sources, self.out, taken=names)
        known = {line["source"]: line for line in lines}
        self.pending = [item for item in self.items if not self._is_done(item, known.get(str(item.source)))]
        writable_folder(self.out)

    def run(self) -> Iterator[Outcome]:
        """Predict what is missing; yields each image when it is done or skipped.

        Raises:
            UsageError: If the model refuses the options.
        """
        waiting = iter(self.pending)
        while items := list(islice(waiting, self._batch_size)):
            readable: list[tuple[Item, Image.Image]] = []
            for item in items:
                try:
                    readable.append((item, read_image(item.source)))
                except UsageError as error:
                    yield Outcome(item.source, str(error))
            for item, prediction in self._predict(readable):
                if isinstance(prediction, str):
                    yield Outcome(item.source, prediction)
                else:
                    self._write(item, prediction)
                    yield Outcome(item.source)

    def _predict(self, readable: Sequence[tuple[Item, Image.Image]]) -> Iterator[tuple[Item, Prediction | str]]:
        """Predictions of a batch; where memory does not suffice, of one image after the other."""
        if not readable:
            return
        images = [image for _, image in readable]
        try:
            predictions = self._model.predict(images, batch_size=len(images), **self._call_options)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(readable) == 1:
                yield readable[0][0], f"{readable[0][0].source}: not enough memory; give a smaller --size"
                return
            logger.warning("not enough memory for %d images at once; going on one by one", len(readable))
            self._batch_size = 1
        else:
            yield from zip((item for item, _ in readable), predictions, strict=True)
            return
        for one in readable:
            yield from self._predict([one])

    def _write(self, item: Item, prediction: Prediction) -> None:
        data, picture = self.out / item.data, self.out / item.picture
        data.parent.mkdir(parents=True, exist_ok=True)
        prediction.save(data)
        drawn = prediction.overlay()
        drawn.thumbnail((_JPEG_MAX_PX, _JPEG_MAX_PX))
        with atomic_write(picture) as temporary:
            drawn.save(temporary, format="JPEG", quality=90, subsampling=0)
        line = {
            "source": str(item.source),
            "source_bytes": item.source.stat().st_size,
            "data": item.data,
            "picture": item.picture,
            "height": prediction.image.height,
            "width": prediction.image.width,
            **prediction.facts(),
            **self._origin,
        }
        append_json_line(self.out / MANIFEST, line)

    def _is_done(self, item: Item, line: dict[str, Any] | None) -> bool:
        if line is None or not all((self.out / name).is_file() for name in (item.data, item.picture)):
            return False
        return not item.source.exists() or line.get("source_bytes") == item.source.stat().st_size

    def _check_origin(self, lines: Sequence[dict[str, Any]]) -> None:
        for line in lines:
            then, now = _flat(line), _flat(self._origin)
            changed = [key for key in sorted({*then, *now}) if key != "model" and then.get(key) != now.get(key)]
            if changed:
                what = "; ".join(f"{key}: {then.get(key)} there, {now.get(key)} now" for key in changed)
                raise UsageError(
                    f"{self.out} holds predictions that were made differently ({what}). "
                    f"Give another --out, or remove {self.out / MANIFEST} to predict everything anew."
                )


def fingerprint(config: str, weights: Mapping[str, Tensor]) -> str:
    """16 letters that change with a model's configuration and weights; quick, and no protection against intent."""
    digest = hashlib.sha256(config.encode())
    for name, tensor in sorted(weights.items()):
        total = int(tensor.view(_BITS[tensor.element_size()]).sum(dtype=torch.int64))
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {total}\n".encode())
    return digest.hexdigest()[:16]


def _prepare(model: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Model and arguments for every image; prompts of new class names are made once, not for each image."""
    classes = options.get("classes")
    if classes and getattr(model.config, "head", None) == "open":
        return model.with_classes(classes), {key: value for key, value in options.items() if key != "classes"}
    return model, options


def _is_ours(line: Any) -> bool:
    """Whether a manifest line tells of a file inside the output folder."""
    if not isinstance(line, dict) or not all(isinstance(line.get(key), str) for key in ("source", "data")):
        return False
    data = Path(line["data"])
    return not data.is_absolute() and ".." not in data.parts


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's, the accelerator's, or torch's on the CPU, which has no type of its own."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _flat(origin: dict[str, Any]) -> dict[str, Any]:
    """The parts of a manifest line that say how a prediction was made, options beside the rest."""
    parts = {key: origin.get(key) for key in ("task", "model", "fingerprint")}
    options = origin.get("options") or {}
    return {**parts, **{key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}}
