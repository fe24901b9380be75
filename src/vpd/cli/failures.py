"""From an exception to the words a user gets: one clear message, and a traceback only for our own mistakes."""

from __future__ import annotations

from pydantic import ValidationError

from vpd.errors import UsageError, wrong_fields

DEBUG_VARIABLE = "VPD_DEBUG"


def describe(error: Exception) -> str | None:
    """What to tell the user about an error that the request or the machine caused; none = a mistake of ours."""
    if isinstance(error, ValidationError):
        return _describe_fields(error)
    if isinstance(error, UsageError):
        return str(error)
    if isinstance(error, OSError):
        return _describe_system(error)
    # torch's errors, told without importing it
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
        return "The device has not enough memory. Use a smaller --batch or --size, or --device cpu."
    if isinstance(error, ValueError):
        return f"{error} ({DEBUG_VARIABLE}=1 shows where)"
    return None


def _describe_fields(error: ValidationError) -> str:
    """Every wrong key with its path, what is wrong with it and what it was."""
    lines = []
    for field in wrong_fields(error):
        message = "unknown key" if field.kind == "extra_forbidden" else field.message
        given = "" if field.kind == "missing" else f" (got {_short(field.given)})"
        lines.append(f"{field.path or 'value'}: {message}{given}")
    if len(lines) == 1:
        return f"{error.title}: {lines[0]}"
    return f"{error.title} has {len(lines)} wrong keys:\n  " + "\n  ".join(lines)


def _describe_system(error: OSError) -> str:
    """The system's reason with the file it speaks of."""
    if error.strerror is None:
        return str(error) or type(error).__name__
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
