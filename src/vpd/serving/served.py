"""The models of a service: found by task and name, asked for many pictures at once, each answered by itself."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from PIL import Image

from vpd.errors import UsageError
from vpd.files.decoding import PHOTO_FORMATS, Encoded, declared_pixels
from vpd.files.images import Picture, read_picture
from vpd.inference.attention_maps import WordMap, word_maps
from vpd.inference.memory import BudgetError
from vpd.inference.outputs import OutputError
from vpd.inference.plan import check_fitted_size
from vpd.inference.resize import Fitted, fit_picture, fitted_size
from vpd.loading import load
from vpd.tasks.model import PerceptionModel
from vpd.tasks.predictions import Prediction
from vpd.weights.shipped import ADAPTED

logger = logging.getLogger(__name__)

PICTURE = "the picture"
"""What messages call what was sent: names come from outside and are not repeated."""
OF_ONE = ("text", "scene")
"""Words of `predict` that may differ among pictures which run together."""
_READERS, _KEPT_CLASS_LISTS = 4, 8


class Asked(NamedTuple):
    """One picture, as it was sent, and what is asked about it."""

    content: bytes
    """Of the image file."""
    words: Mapping[str, Any]
    """Those of `OF_ONE`."""
    is_attention_wanted: bool = False
    """Whether the answer shall have maps of attention to the words of the text."""


@dataclass(frozen=True)
class Answered:
    """What a model said about a picture."""

    prediction: Prediction
    notes: tuple[str, ...]
    """What is to be said of how the picture was read."""
    words: tuple[WordMap, ...] = ()
    """Attention to each word, where it was asked for."""


class Served:
    """A model of a service.

    Args:
        name: What callers call it.
        model: Of any task.
        max_px: Largest picture, pixels.
        memory: What a prediction may take, as for `predict`.
        is_miniature: Whether it is one of those that come with the package, which know rendered scenes only.
    """

    def __init__(
        self,
        name: str,
        model: PerceptionModel[Any],
        *,
        max_px: int = 40_000_000,
        memory: str | None = None,
        is_miniature: bool = False,
    ) -> None:
        self.name, self.model, self.is_miniature = name, model, is_miniature
        self._max_px, self._memory = max_px, memory
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="vpd-reader")
        self._class_lists: OrderedDict[tuple[str, ...], Any] = OrderedDict()
        self._lock = Lock()

    @property
    def task(self) -> str:
        """Word of its task."""
        return str(self.model.task)

    def count_pixels(self, content: bytes) -> int:
        """Pixels that the header of an image file tells of; `max_px` where it cannot be read, as decoding will say.

        Raises:
            TooLargeError: If it has more pixels than are taken.
        """
        found = declared_pixels(Encoded(content, PICTURE), PHOTO_FORMATS, most_px=self._max_px)
        return self._max_px if found is None else found

    def check(
        self, words: Mapping[str, Any], size: int | None, *, max_size: int | None = None, max_new_classes: int
    ) -> None:
        """Refuse words that the model cannot answer, or would take too long for, before they are queued.

        Args:
            words: For `predict`.
            size: Short side to run at, pixels.
            max_size: The largest that it may be; none = twice the model's own, which is always served.
            max_new_classes: Most class names that the model does not know.

        Raises:
            UsageError: If there are such.
        """
        own = {name: [value] for name, value in words.items() if name in OF_ONE}
        own_px = self.model.config.fit.size_px
        most_px = max(own_px, max_size or 2 * own_px)
        if size is not None and size > most_px:
            raise UsageError(
                f"size={size}: {most_px} px is the most that is served (--max-size); this model was trained at "
                f"{own_px} px. Send a smaller size, or none."
            )
        # prompts of classes are made when their turn comes; a model that cannot make any says so now
        if "classes" not in words or self.model.text_encoder is None:
            self.model.prompts(1, **{**words, **own})
        elif (number := self._names_to_read(words["classes"])) > max_new_classes:
            raise UsageError(
                f"classes: {number} names must be read for this request, as the model does not know them; "
                f"{max_new_classes} is the most that is served (--max-new-classes). Send fewer at a time."
            )

    def _names_to_read(self, classes: Sequence[str]) -> int:
        """How many class names the text encoder will read."""
        new = {*classes} - {*self.model.config.classes}
        return len(classes) if new and self.model.is_optimised else len(new)  # that one takes no prompts over

    def key(self, words: Mapping[str, Any], size: int | None) -> Hashable:
        """What pictures must agree in to run together."""
        return self.name, size, tuple(sorted((k, _hashable(v)) for k, v in words.items() if k not in OF_ONE))

    def answer_all(self, asked: Sequence[Asked], *, words: Mapping[str, Any], size: int | None) -> list[Any]:
        """For each picture an `Answered`, or the error to raise for it alone.

        Args:
            asked: Pictures with their own words.
            words: Words that all of them share.
            size: Short side to run at.
        """
        fit = self.model.fit_at(size)

        def read(one: Asked) -> Picture | UsageError:
            try:
                picture = read_picture(Encoded(one.content, PICTURE), most_px=self._max_px)
                check_fitted_size(picture.image, fit, PICTURE)
            except UsageError as error:
                return error
            return picture

        pictures = list(self._readers.map(read, asked)) if len(asked) > 1 else [read(asked[0])]
        results: list[Any] = list(pictures)
        good = [place for place, picture in enumerate(pictures) if isinstance(picture, Picture)]
        # those of one fitted size beside one another, as only such neighbours run together
        good.sort(key=lambda place: fitted_size(fit, *reversed(pictures[place].image.size)))  # type: ignore[union-attr]
        try:
            model, shared = self._for_words(dict(words))
        except UsageError as error:
            return [error if isinstance(result, Picture) else result for result in results]
        predictions = self._predict(
            model, [pictures[place] for place in good], [asked[place] for place in good], shared, size
        )
        for place, prediction in zip(good, predictions, strict=True):
            results[place] = prediction
            if isinstance(prediction, Exception):
                continue
            try:
                maps = self._word_maps(prediction.image, asked[place], fit) if asked[place].is_attention_wanted else ()
            except Exception as error:  # of this picture alone
                results[place] = _told(error)
                continue
            results[place] = Answered(prediction, pictures[place].notes, maps)  # type: ignore[union-attr]
        return results

    def _predict(
        self, model: Any, pictures: Sequence[Any], asked: Sequence[Asked], shared: Mapping[str, Any], size: int | None
    ) -> list[Any]:
        """Predictions; where they cannot be made together, of one picture after the other, or why there is none."""
        if not pictures:
            return []
        fit = model.fit_at(size)
        own = {name: [one.words.get(name) for one in asked] for name in OF_ONE if name in model.words}
        images = (
            [Fitted.of(picture.image, fit) for picture in pictures]
            if self._memory is None
            else [p.image for p in pictures]
        )
        try:
            return list(model.predict(images, batch_size=len(images), size=size, memory=self._memory, **own, **shared))
        except Exception as error:  # the other pictures shall not suffer
            if len(pictures) > 1:
                return [
                    self._predict(model, [picture], [one], shared, size)[0]
                    for picture, one in zip(pictures, asked, strict=True)
                ]
            return [_told(error)]

    def _word_maps(self, image: Image.Image, asked: Asked, fit: Any) -> tuple[WordMap, ...]:
        """Attention at the size that the network sees."""
        if self.model.text_encoder is None:
            return ()
        fitted = fit_picture(image, fit)
        text = str(asked.words.get("text"))
        return tuple(
            word_maps(
                self.model.backbone,
                self.model.text_encoder,
                fitted,
                text,
                adapter=self.model.adapter,
                length=self.model.config.token_length,
            )
        )

    def _for_words(self, words: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Model and words for a group; prompts of class lists that come again are kept."""
        classes = words.get("classes")
        if classes is None or self.model.is_optimised:
            return self.model, words
        names = tuple(classes)
        if self.model.text_encoder is None:
            self.model.prompts(1, classes=names)  # refuses new names, for which a text encoder would be downloaded
        with self._lock:
            if names not in self._class_lists:
                self._class_lists[names] = self.model.for_words({"classes": list(names)})
            self._class_lists.move_to_end(names)
            while len(self._class_lists) > _KEPT_CLASS_LISTS:
                self._class_lists.popitem(last=False)
            model, left = self._class_lists[names]
        return model, {**left, **{name: value for name, value in words.items() if name != "classes"}}


def load_served(
    sources: Sequence[str], *, device: str = "auto", dtype: str = "auto", max_px: int, memory: str | None = None
) -> list[Served]:
    """Models of a service; those that come with the package where none is named.

    Args:
        sources: Each a model folder, run, hub id or shipped name; `NAME=SOURCE` gives it another name.
        device: As for `vpd.load`.
        dtype: As for `vpd.load`.
        max_px: Largest picture, pixels.
        memory: What a prediction may take.

    Raises:
        UsageError: If one cannot be loaded, or two have one name.
    """
    served: dict[str, Served] = {}
    for given in sources or ADAPTED:
        name, _, source = given.partition("=") if "=" in given and not Path(given).exists() else ("", "", given)
        name = name or Path(source).expanduser().resolve().name if Path(source).exists() else name or source
        if name in served:
            raise UsageError(f"Two models are called {name}. Give one another name: --model OTHER={source}")
        model = load(source, device=device, dtype=dtype)
        served[name] = Served(name, model, max_px=max_px, memory=memory, is_miniature=source in ADAPTED)
    return list(served.values())


def _told(error: Exception) -> Exception:
    """What the caller is told of a picture that failed; logged, unless it is the caller's mistake."""
    if isinstance(error, UsageError) and not isinstance(error, OutputError):
        return error
    logger.error("A prediction failed.", exc_info=error)
    is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
    return BudgetError("There is not enough memory for this picture: send a smaller one.") if is_memory else error


def _hashable(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, (list, tuple)) else value
