"""Another way to fit images than the one a model was saved with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from vpd.config import Fit
from vpd.errors import UsageError, wrong_fields
from vpd.tasks.model import PerceptionModel


def change_fit(model: PerceptionModel, changes: Mapping[str, Any]) -> None:
    """Fit images differently from now on, such as `{"scales": [0.5, 1, 1.5], "flip": True}` for segmentation.

    Args:
        model: Whose `config.fit` changes.
        changes: Fields of `Fit`.

    Raises:
        UsageError: If a field is unknown, a value is wrong, or the task cannot do it; the model stays as it was.
    """
    if unknown := sorted(set(changes) - set(Fit.model_fields)):
        raise UsageError(f"Unknown keys of the fit: {', '.join(unknown)}. Known: {', '.join(Fit.model_fields)}.")
    settings = model.config.model_dump()
    settings["fit"] |= changes
    try:
        model.config = type(model.config).model_validate(settings)
    except ValidationError as error:
        problems = "; ".join(map(str, wrong_fields(error)))
        given = ", ".join(f"{name}={value}" for name, value in changes.items())
        raise UsageError(f"Images cannot be fitted by {given}: {problems}.") from error
