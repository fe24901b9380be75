"""The one error that a command line turns into a message and exit status 2."""

from __future__ import annotations


class UsageError(ValueError):
    """A request that cannot be met as it stands: says what was got, what is needed, what to do."""
