"""The one error that a command line turns into a message and exit status 2, and what is told of wrong fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pydantic import ValidationError


class UsageError(ValueError):
    """A request that cannot be met as it stands: says what was got, what is needed, what to do."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]


class WrongField(NamedTuple):
    """One of the things that pydantic finds wrong with what was given."""

    place: tuple[str | int, ...]
    """Keys and positions on the way to the field; empty = the whole."""
    kind: str
    """pydantic's name of the problem, such as `missing` or `extra_forbidden`."""
    message: str
    """What is wrong."""
    given: Any
    """What stood there; of a field that is missing, what it is missing from."""

    @property
    def path(self) -> str:
        """The place with dots, as in settings."""
        return ".".join(map(str, self.place))

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.place else self.message


def wrong_fields(error: ValidationError) -> list[WrongField]:
    """Everything that is wrong, in pydantic's order."""
    return [
        WrongField(found["loc"], found["type"], found["msg"].removeprefix("Value error, "), found["input"])
        for found in error.errors(include_url=False)
    ]
