"""What is known on disk of a clip that is being predicted: what it is, which parts of it are done, what is left to do.

A part is a stretch of frames that was finished: `parts/000250.mp4` has its pictures, `000250.safetensors` what the
smoothing goes on from, and `000250.jsonl`, which is written last, a line for each frame. When all are there, they
become one video and one `frames.jsonl`.

What is there is read by `look`, which changes nothing, and again by `held`, once no other run can write: only then it
is gone on with, or removed where the clip is another by now. What no record tells of is somebody else's, and refused.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vpd.errors import UsageError
from vpd.files.atomic import TEMPORARY_PREFIX, atomic_write, read_json, read_json_lines, write_json
from vpd.files.lock import LOCK_FILE, only_run_in
from vpd.prediction_jobs.clip_files import ClipFiles
from vpd.prediction_jobs.frame_files import DIGITS
from vpd.video.encoding import Part, join

FOLDER_SUFFIX, VIDEO_SUFFIX = ".frames", ".overlay.mp4"
RECORD, LINES, PARTS, _KEY = "clip.json", "frames.jsonl", "parts", "key.png"
_DATA_FILE = re.compile(rf"[0-9]{{{DIGITS},}}\.png")

logger = logging.getLogger(__name__)


class ClipRecord:
    """The files of one clip.

    Args:
        out: Output folder.
        name: Of the clip's outputs.
        made: What decides them: the source and how it is predicted and drawn.
        files: What the clip is made of; none = it cannot be had again.

    Raises:
        UsageError: As `look` does.
    """

    def __init__(self, out: Path, name: str, made: Mapping[str, Any], files: ClipFiles | None) -> None:
        self.folder, self.video = out / f"{name}{FOLDER_SUFFIX}", out / f"{name}{VIDEO_SUFFIX}"
        self._made, self._files = json.loads(json.dumps(made)), files
        self._state: dict[str, Any] = {}
        self.told: dict[str, Any] = {}
        """What an earlier run found out: `size` of the pictures, `words` that they share, and at the end the result."""
        self._is_outdated = False  # what is there is of what the clip was before
        self.look()

    def look(self) -> None:
        """Read what is there, and whether it is of this clip as it is now; changes nothing on disk.

        Raises:
            UsageError: If there are outputs of that name that were made otherwise, or are not of a clip.
        """
        self.told, self._is_outdated = {}, False
        path = self.folder / RECORD
        if not path.exists():
            self._refuse_strangers()
            return
        if self._files is None:
            raise UsageError(f"{self.folder} was taken by another run. Start again: a stream gets a name of its own.")
        there = dictionary(read_json(path))
        made = dictionary(there.get("made"))
        if changed := sorted(key for key, value in self._made.items() if made.get(key) != value):
            raise UsageError(
                f"{self.folder} holds a clip that was made differently ({', '.join(changed)}). Give another --out, or "
                f"remove {self.folder} and {self.video.name} to predict it anew."
            )
        self._state = dictionary(there.get("source_state"))
        if self._files.are(self._state):
            self.told = dictionary(there.get("told"))
        else:
            self._is_outdated = True

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.told.get("is_complete")) and (self.video.exists() or not self.told.get("predicted"))

    @property
    def num_done(self) -> int:
        """Frames, from the first on, that are done; 0 if all are, or all are to be done again."""
        if self._is_outdated or self.told.get("is_complete"):
            return 0
        path = self._part(".jsonl")
        return int(read_json_lines(path)[-1]["frame"]) + 1 if path is not None else 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Take the clip for this run alone. Only now it is certain what is done; what is outdated is removed.

        Raises:
            UsageError: If another run is at it, or as `look` does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with only_run_in(self.folder):
            self.look()
            if not self.is_complete:
                self._begin()
            yield

    def note(self, **found: Any) -> None:
        """Remember something for runs that go on."""
        self.told |= found
        self._write()

    def key(self) -> Image.Image | None:
        """The key below the pictures, as an earlier run drew it."""
        path = self.folder / _KEY
        if not path.exists():
            return None
        with Image.open(path, formats=("PNG",)) as image:
            return image.convert("RGB")

    def keep_key(self, key: Image.Image) -> None:
        """Store the key below the pictures."""
        with atomic_write(self.folder / _KEY) as temporary:
            key.save(temporary, format="PNG")

    def smoothing(self) -> dict[str, Tensor] | None:
        """What smoothing goes on from; none = from nothing.

        Raises:
            UsageError: If that is lost, though frames are done.
        """
        path = self._part(".safetensors")
        try:
            return load_file(path) if path is not None else None
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{path} cannot be read ({error}). Remove {self.folder} to begin anew.") from None

    def part_video(self, first: int) -> Path:
        """Where the pictures of a part go."""
        return self.folder / PARTS / f"{first:0{DIGITS}d}.mp4"

    def finish_part(self, first: int, lines: Sequence[Mapping[str, Any]], state: dict[str, Tensor]) -> None:
        """A part is done: its data files and pictures are there."""
        before, stem = self._part(".safetensors"), self.folder / PARTS / f"{first:0{DIGITS}d}"
        if state:
            with atomic_write(stem.with_suffix(".safetensors")) as temporary:
                save_file(state, temporary)
        with atomic_write(stem.with_suffix(".jsonl")) as temporary:
            temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        if before is not None and before.stem != stem.name:
            before.unlink(missing_ok=True)

    def finish(self, note: str) -> None:
        """All parts are done: put them together."""
        self.note(is_complete=True, **put_together(self.folder, self.video), note=note)
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)

    def _refuse_strangers(self) -> None:
        """Make sure that nothing is written into or over what is there without a record."""
        theirs = [self.video] if os.path.lexists(self.video) else []
        if self.folder.is_dir():
            theirs += [path for path in sorted(self.folder.iterdir()) if not _is_of_a_beginning(path.name)]
        elif os.path.lexists(self.folder):
            theirs.append(self.folder)
        if theirs:
            raise UsageError(
                f"{theirs[0]} is there, and no record of a clip ({self.folder / RECORD}): its outputs would be written "
                "over, or beside, what may be yours. Give another --out, or move it away."
            )

    def _begin(self) -> None:
        """Say what the folder is for, and remove what is of no use any more."""
        if self._is_outdated:
            logger.warning(
                "%s: the clip changed since it was predicted. What was made of it before is removed; it begins anew.",
                self.folder,
            )
            self._state = {}  # which fits nothing: should this run be killed while it removes, the next does it again
            self._write()
            self._remove_outputs()
        elif self.told.pop("is_complete", None):  # but the video is gone
            self._remove_parts()
        self._is_outdated = False
        self._state = (self._files.state() if self._files else {}) or self._state
        self._write()
        (self.folder / PARTS).mkdir(exist_ok=True)

    def _remove_parts(self) -> None:
        if (self.folder / PARTS).exists():
            shutil.rmtree(self.folder / PARTS)  # none may be left, it would be taken for one of what comes now

    def _remove_outputs(self) -> None:
        self._remove_parts()
        data = [path for path in self.folder.iterdir() if _DATA_FILE.fullmatch(path.name)]  # of killed runs, no list
        for path in (*data, self.folder / LINES, self.folder / _KEY, self.video):
            path.unlink(missing_ok=True)

    def _write(self) -> None:
        write_json(self.folder / RECORD, {"made": self._made, "source_state": self._state, "told": self.told})

    def _part(self, suffix: str) -> Path | None:
        """A file of the last part that is done."""
        finished = finished_parts(self.folder)
        path = finished[-1].with_suffix(suffix) if finished else None
        return path if path is not None and path.exists() else None


def finished_parts(folder: Path) -> list[Path]:
    """The lines of each part that is done, in their order."""
    return sorted((folder / PARTS).glob("*.jsonl"), key=lambda path: int(path.stem))


def put_together(folder: Path, video: Path) -> dict[str, Any]:
    """Make one file of all lines and one video of all parts; returns what a record tells of the result."""
    parts, num_frames, num_predicted = list[Part](), 0, 0
    with atomic_write(folder / LINES) as temporary, temporary.open("w") as file:
        for path in finished_parts(folder):
            lines = read_json_lines(path)
            shown = [line["time_s"] for line in lines if "data" in line]
            parts += [Part(path.with_suffix(".mp4"), shown[0], len(shown))] if shown else []
            num_frames, num_predicted = num_frames + len(lines), num_predicted + len(shown)
            file.writelines(f"{json.dumps(line)}\n" for line in lines)
    if parts:
        with atomic_write(video) as temporary:
            join(parts, temporary)
    counts = {"frames": num_frames, "predicted": num_predicted, "skipped": num_frames - num_predicted}
    return {**counts, "video": video.name if parts else None}


def is_free(out: Path, name: str) -> bool:
    """Whether a clip's outputs of that name would lie beside and over nothing."""
    return not any(os.path.lexists(out / f"{name}{suffix}") for suffix in (FOLDER_SUFFIX, VIDEO_SUFFIX))


def _is_of_a_beginning(name: str) -> bool:
    """Whether a run that was killed as it began may have left such a file."""
    return name == LOCK_FILE or name.startswith(TEMPORARY_PREFIX)


def dictionary(value: Any) -> dict[str, Any]:
    """What stands in a file, where it is what it should be."""
    return value if isinstance(value, dict) else {}
