"""Whether a run goes on with the samples that it began with: the number of a step says which of them it takes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

from vpd.data.sample import SampleSet
from vpd.errors import UsageError
from vpd.training.checkpoints import Checkpoint
from vpd.training.config import TrainConfig

logger = logging.getLogger(__name__)


def data_identity(sample_set: SampleSet) -> dict[str, Any]:
    """Number of the samples, and a hash of what tells them apart, in their order; none where nothing is known."""
    digest, is_empty = hashlib.sha256(), True
    keys = sample_set.sample_keys() if hasattr(sample_set, "sample_keys") else ()  # any class with samples will do
    for key in keys:
        digest.update(key.encode("utf-8", "surrogateescape") + b"\0")
        is_empty = False
    return {"samples": len(sample_set), "keys_sha256": None if is_empty else digest.hexdigest()}


def check_same_data(checkpoint: Checkpoint, train_set: SampleSet, config: TrainConfig) -> None:
    """Make sure that a run goes on with its samples, or is meant to go on with others.

    Args:
        checkpoint: Where it goes on; one of an older release, which does not tell, goes on with anything.
        train_set: What it is to go on with.
        config: Says whether that may be something else (`on_changed_data`).

    Raises:
        UsageError: If there are other samples, or another order of them.
    """
    before, now = checkpoint.data, data_identity(train_set)
    if before is None or not _differ(before, now):
        return
    if before["samples"] == now["samples"]:
        what = f"still has {now['samples']} samples, but other names or another order"
    else:
        what = f"had {before['samples']} samples and has {now['samples']} now"
    told = f"The training set {what} ({config.data.root}, {config.data.split})"
    if config.on_changed_data == "go_on":
        logger.warning("%s; the run goes on with it from step %d.", told, checkpoint.step)
        return
    raise UsageError(
        f"{told}, so the run would go on with other steps than it was started for. Put the data back as they were; or "
        "go on all the same by -s on_changed_data=go_on; or start a new run in another folder, from this one's model "
        f"(--model {checkpoint.folder})."
    )


def _differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    hashes = (before["keys_sha256"], now["keys_sha256"])
    return before["samples"] != now["samples"] or (None not in hashes and hashes[0] != hashes[1])
