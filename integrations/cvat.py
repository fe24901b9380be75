"""A function for CVAT's automatic annotation: classes, or texts under labels, become masks or polygons.

`cvat-cli --server-host HOST auto-annotate TASK --function-file integrations/cvat.py -p model=str:run`

See docs/labelling.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import cvat_sdk.auto_annotation as cvataa
import cvat_sdk.models
from cvat_sdk.masks import encode_mask
from PIL import Image

import vpd
from vpd.config import first_names
from vpd.errors import UsageError
from vpd.tasks.conversions import Region, polygons


class Function:
    """Finds a model's classes in pictures, or what texts mean.

    Args:
        model: Segments or refers.
        texts: Label -> what to look for under it, each once. Of a model that segments, the classes for which there is
            none keep their names, but where that is the label of a text; texts that are no classes need a model that
            takes other ones.
        words: Further words of `predict`, such as `memory`; of a model that refers also `min_presence`.

    Raises:
        UsageError: If the model is for another task, has nothing to look for, or knows no such classes.
    """

    def __init__(self, model: Any, *, texts: Mapping[str, str] | None = None, **words: Any) -> None:
        texts = dict(texts or {})
        if model.task not in ("segment", "refer"):
            raise UsageError(
                f"CVAT takes masks; a model for {model.task} gives none: one that segments or refers does."
            )
        if model.task == "refer" and not texts:
            raise UsageError("A referring model needs texts: -p 'texts=str:mug=the mug on the left; plate=a plate'.")
        if twice := [text for text, count in Counter(texts.values()).items() if count > 1]:
            raise UsageError(f"{first_names(twice)}: one text cannot be found under two labels.")
        if model.task == "segment" and "min_presence" in words:
            raise UsageError("min_presence is for models that refer; this one segments.")
        self._model, self._texts, self._words = model, texts, words
        if model.task == "segment":
            own = tuple(model.config.classes)
            other = [text for text in texts.values() if text not in own]
            if other:
                self._model, left = model.for_words({"classes": [*own, *other]})  # their prompts are made once
                if left:
                    raise UsageError(
                        f"The model cannot look for {first_names(other)}: it knows {first_names(own)}. Other classes "
                        "need the open head."
                    )
            named = {text: label for label, text in texts.items()}
            self._texts = {named.get(text, text): text for text in (*own, *other)}  # labels of texts go before classes
        labels = [cvataa.label_spec(label, number, type="mask") for number, label in enumerate(self._texts)]
        self._spec = cvataa.DetectionFunctionSpec(labels=labels)
        self._number = {text: number for number, text in enumerate(self._texts.values())}

    @property
    def spec(self) -> cvataa.DetectionFunctionSpec:
        """The labels, of which a project has those that it wants."""
        return self._spec

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> list[cvat_sdk.models.LabeledShapeRequest]:
        """A mask for each label in a picture, or a polygon for each of its parts."""
        least = context.conf_threshold or 0.0
        shapes = []
        for region in self._regions(image, scores=least > 0):
            number = self._number.get(region.name)  # none: a class whose label another text has
            if number is None or (region.score is not None and region.score < least):
                continue
            score = {} if region.score is None else {"score": region.score}
            if context.conv_mask_to_poly:
                shapes += [
                    cvataa.polygon(number, outline.ravel().tolist(), **score) for outline in polygons(region.mask)
                ]
            else:
                shapes.append(cvataa.mask(number, encode_mask(region.mask), **score))
        return shapes

    def _regions(self, image: Image.Image, *, scores: bool) -> Iterator[Region]:
        if self._model.task == "refer":
            for text in self._number:
                yield from self._model.predict(image, text=text, **self._words).regions()
        else:
            yield from self._model.predict(image, scores=scores, **self._words).regions()


def create(
    model: str, texts: str = "", min_presence: float | None = None, device: str = "auto", memory: str | None = None
) -> Function:
    """The function, as CVAT's command line makes it of its `-p` options.

    Args:
        model: Model folder, run or hub id.
        texts: `label=text` with `;` between them.
        min_presence: Score below which a text fits nothing.
        device: As for `vpd.load`.
        memory: What a prediction may take, such as `4GB`.

    Raises:
        UsageError: If the model cannot be loaded, or the texts cannot be read.
    """
    pairs = [[part.strip() for part in pair.split("=", 1)] for pair in texts.split(";") if pair.strip()]
    if not all(len(pair) == 2 and all(pair) for pair in pairs) or len({pair[0] for pair in pairs}) < len(pairs):
        raise UsageError(f"texts are written as 'label=what to look for; other label=...', not {texts!r}.")
    words = {"memory": memory, **({} if min_presence is None else {"min_presence": min_presence})}
    return Function(vpd.load(model, device=device), texts=dict(pairs), **words)
