"""Outputs of a network that are not numbers make no prediction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from vpd.errors import UsageError

NOT_NUMBERS = "the outputs are not numbers"


class OutputError(UsageError):
    """NaN or infinity in what a network makes of a picture.

    Args:
        message: The whole of it.
        number: Place of the picture in the call of `predict`, from 0.
        reason: The message without the picture's name.
    """

    def __init__(self, message: str, *, number: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.number, self.reason = number, reason


class Watch:
    """Looks at the outputs for a group of pictures, and lets no prediction be made of what are no numbers.

    On a GPU, whoever looks must wait, and nothing is launched meanwhile; so it looks once, when all is launched.

    Args:
        names: Of each picture, its place in the call, and what the user calls it.
        dtype: Type that the network runs in, for the message.
        device: Where it runs.
    """

    def __init__(self, names: Sequence[tuple[int, str]], dtype: torch.dtype, device: torch.device) -> None:
        self._names, self._dtype, self._is_late = names, dtype, device.type == "cuda"
        self._sums: list[Tensor] = []

    def see(self, strip: Tensor) -> Tensor:
        """A strip of outputs as it is; see `checked`."""
        if not self._is_late:
            return checked(strip, names=self._names, dtype=self._dtype)
        self._sums.append(strip.sum(dim=(1, 2, 3), dtype=torch.float64))  # in which none overflows
        return strip

    def until_known(self, strips: Iterable[Tensor]) -> Iterator[Tensor]:
        """Strips as they are; who has used the last one learns whether they are of numbers.

        Raises:
            OutputError: If any that was seen holds NaN or infinity.
        """
        yield from strips
        if self._sums:
            sums, self._sums = torch.stack(self._sums).sum(dim=0), []
            if not sums.isfinite().all():
                places = (~sums.isfinite()).nonzero()
                raise _not_numbers(*self._names[int(places[0])], self._dtype)


def checked(strip: Tensor, *, names: Sequence[tuple[int, str]], dtype: torch.dtype) -> Tensor:
    """A strip of outputs as it is, `(b, c, rows, w)`, if all of it are numbers.

    Args:
        strip: As `run_windows` yields it.
        names: Of each picture of the batch, its place in the call, and what the user calls it.
        dtype: Type that the network runs in, for the message.

    Raises:
        OutputError: If it holds NaN or infinity.
    """
    # one pass and one answer for the batch; a sum of numbers may overflow, which the second look tells
    if not strip.sum(dim=(1, 2, 3)).isfinite().all():
        for part, (number, name) in zip(strip, names, strict=True):
            if not part.isfinite().all():
                raise _not_numbers(number, name, dtype)
    return strip


def _not_numbers(number: int, name: str, dtype: torch.dtype) -> OutputError:
    reason = f"{NOT_NUMBERS}: {likely_causes(dtype)}"
    return OutputError(f"{name}: {reason}", number=number, reason=reason)


def likely_causes(dtype: torch.dtype) -> str:
    """Why outputs are not numbers where a network runs in a type, and what to do."""
    if torch.finfo(dtype).bits > 16:
        return "weights damaged (`vpd info MODEL` looks at them)"
    half = str(dtype).removeprefix("torch.")
    return f"weights damaged (`vpd info MODEL` looks at them), or {half} overflows (load the model in float32)"
