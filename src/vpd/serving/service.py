"""What answers: models, the queue in front of them, and what is counted; programs and the page ask through it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from vpd.inference.overlapped import threads_for
from vpd.serving.counters import Counters
from vpd.serving.engine import Engine
from vpd.serving.served import OF_ONE, Answered, Asked, Served
from vpd.serving.settings import ServiceSettings


class UnknownModelError(LookupError):
    """No model of that name, or for that task, is served."""


class Service:
    """Models, the queue in front of them, and what is counted; handlers of HTTP and the page ask through it.

    Args:
        models: What is served; the first of a task answers where no name is given.
        settings: Limits.
    """

    def __init__(self, models: Sequence[Served], settings: ServiceSettings) -> None:
        self.models, self.settings = tuple(models), settings
        self.counters = Counters()
        device = self.models[0].model.device
        batch = settings.batch or (8 if device.type == "cuda" else 1)
        self.engine = Engine(
            places=settings.queue,
            batch=batch,
            most_px=settings.max_px,
            threads=max(1, threads_for(self.models[0].model).network),
            on_group=self.counters.saw_group,
        )
        self.counters.watch(waiting=lambda: self.engine.waiting, inside=lambda: self.engine.inside)

    def find(self, task: str, name: str | None = None) -> Served:
        """A model of a task.

        Raises:
            UnknownModelError: If there is none, or none of that name.
        """
        of_task = [served for served in self.models if served.task == task]
        found = [served for served in of_task if name in (None, served.name)]
        if not found:
            known = ", ".join(served.name for served in of_task) or f"none; served are {', '.join(self.tasks)}"
            raise UnknownModelError(f"There is no model {name or ''} for {task}. Served: {known}.".replace("  ", " "))
        return found[0]

    def named(self, name: str) -> Served:
        """A model of any task.

        Raises:
            UnknownModelError: If there is none of that name.
        """
        for served in self.models:
            if served.name == name:
                return served
        raise UnknownModelError(
            f"There is no model of that name. Served: {', '.join(served.name for served in self.models)}."
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Of the models."""
        return tuple(dict.fromkeys(served.task for served in self.models))

    def check(self, served: Served, words: dict[str, Any], *, size: int | None = None) -> None:
        """Refuse what a model cannot answer, or would take too long for, before it is queued.

        Raises:
            UsageError: If it is so.
        """
        settings = self.settings
        served.check(words, size, max_size=settings.max_size, max_new_classes=settings.max_new_classes)

    def ask(
        self, served: Served, content: bytes, words: dict[str, Any], *, size: int | None = None, attention: bool = False
    ) -> Future[Answered]:
        """Queue a picture; whoever calls holds a place of the engine.

        Args:
            served: Who is asked.
            content: Of the image file.
            words: For the model's `predict`.
            size: Short side to run at, pixels.
            attention: Whether maps of attention to the words of the text are wanted.

        Raises:
            UsageError: If the picture is too large, or the words do not fit the model.
        """
        px = served.count_pixels(content)
        self.check(served, words, size=size)
        own = {name: value for name, value in words.items() if name in OF_ONE}
        shared = {name: value for name, value in words.items() if name not in OF_ONE}
        key = served.key(words, size)
        work = partial(_answer_all, served, shared, size)
        return self.engine.submit(work, key=key, asked=Asked(content, own, attention), px=px)


def _answer_all(served: Served, words: dict[str, Any], size: int | None, asked: Sequence[Asked]) -> list[Any]:
    return served.answer_all(asked, words=words, size=size)
