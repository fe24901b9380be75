"""One share of a prediction run among several jobs that write into one folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vpd.errors import UsageError

_SLURM = ("ID", "MIN", "MAX", "COUNT")


@dataclass(frozen=True)
class Share:
    """Share `number` of `count` shares."""

    number: int
    """From 1 to `count`."""
    count: int
    """How many shares there are."""

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def manifest(self) -> str:
        """Name of the share's own manifest."""
        return f"{self.number}-of-{self.count}.jsonl"

    def has(self, place: int) -> bool:
        """Whether the chunk at this place of the whole list belongs to the share; shares differ by one at most."""
        return place % self.count == self.number - 1


def parse_share(text: str, environment: Mapping[str, str]) -> Share:
    """The share that a user's word means.

    Args:
        text: `3/16`, counted from 1; or `slurm`, for the share of this member of a SLURM job array.
        environment: Where SLURM says which member this is.

    Raises:
        UsageError: If it is neither, or there is no job array without gaps.
    """
    if text == "slurm":
        return _share_of_array(environment)
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(
            f"--shard {text}: give the number of this job and how many there are, counted from 1, "
            "such as 1/8 to 8/8; or slurm, in a job array."
        )
    return Share(number, count)


def _share_of_array(environment: Mapping[str, str]) -> Share:
    """The share of a member of a SLURM job array; its first member has the first share."""
    found = {word: environment.get(f"SLURM_ARRAY_TASK_{word}", "") for word in _SLURM}
    if not all(value.isdecimal() for value in found.values()):
        raise UsageError(
            "--shard slurm works in a SLURM job array (sbatch --array=1-16 ...), which sets "
            f"{', '.join(f'SLURM_ARRAY_TASK_{word}' for word in _SLURM)}. Elsewhere give --shard 3/16."
        )
    member, first, last, count = (int(found[word]) for word in _SLURM)
    if last - first + 1 != count or not first <= member <= last:
        raise UsageError(
            f"--shard slurm needs an array that counts without gaps; this one has {count} members from {first} to "
            f"{last}. Submit --array=1-{count}: what is finished is not done again; or give --shard 3/16."
        )
    return Share(member - first + 1, count)
