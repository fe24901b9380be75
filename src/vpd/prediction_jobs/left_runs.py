"""Runs of cameras and streams that were killed: what they had finished is put together by the next run."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from vpd.errors import UsageError, first_line
from vpd.files.atomic import read_json, write_json
from vpd.files.lock import LOCK_FILE, only_run_in
from vpd.prediction_jobs.clip_record import (
    FOLDER_SUFFIX,
    PARTS,
    RECORD,
    VIDEO_SUFFIX,
    dictionary,
    finished_parts,
    put_together,
)

logger = logging.getLogger(__name__)


def finish_left_runs(out: Path, source: str) -> None:
    """Put together what runs of a camera or stream left that ended without doing so; what fails is told and left.

    Args:
        out: Output folder.
        source: What records of the runs call the camera or stream.
    """
    for path in sorted(out.glob(f"*{FOLDER_SUFFIX}/{RECORD}")):
        folder = path.parent
        try:
            if not finished_parts(folder) or not _is_left(path, source):
                continue
            with only_run_in(folder):
                is_held = (folder / LOCK_FILE).stat().st_size > 0  # not where the disk has no locks: it may be running
                if is_held and _is_left(path, source):  # another run may just have done it
                    _finish(path)
        except UsageError:  # a run is under way in it, or the record is damaged
            continue
        except Exception as error:  # of whatever kind: it shall not keep the new run from its frames
            logger.warning("%s: what an earlier run left cannot be put together (%s)", folder, first_line(error))


def _is_left(path: Path, source: str) -> bool:
    """Whether a record is of that stream, and of a run that did not finish."""
    there = dictionary(read_json(path))
    return dictionary(there.get("made")).get("source") == source and not _told(there).get("is_complete")


def _finish(path: Path) -> None:
    folder = path.parent
    video = folder.with_name(folder.name.removesuffix(FOLDER_SUFFIX) + VIDEO_SUFFIX)
    if os.path.lexists(video):
        raise FileExistsError(f"{video} is there, and may be yours; move it away")
    there, result = dictionary(read_json(path)), put_together(folder, video)
    told = {
        **_told(there),
        "is_complete": True,
        **result,
        "note": "The run was killed; the next one put this together.",
    }
    write_json(path, {**there, "told": told})
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    logger.warning("%d frames of an earlier run that was killed are put together: %s", result["predicted"], folder)


def _told(there: dict[str, Any]) -> dict[str, Any]:
    return dictionary(there.get("told"))
