"""What is known on disk of a clip that is being predicted: what it is, which parts of it are done, what is left to do.

A part is a stretch of frames that was finished: `parts/000250.mp4` has its pictures, `000250.safetensors` what the
smoothing goes on from, and `000250.jsonl`, which is written last, a line for each frame. When all are there, they
become one video and one `frames.jsonl`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vpd.errors import UsageError
from vpd.files.atomic import atomic_write, read_json, read_json_lines, write_json
from vpd.prediction_jobs.frame_files import DIGITS
from vpd.video.encoding import Part, join

FOLDER_SUFFIX, VIDEO_SUFFIX = ".frames", ".overlay.mp4"
RECORD, LINES, PARTS, _KEY = "clip.json", "frames.jsonl", "parts", "key.png"


class ClipRecord:
    """The files of one clip.

    Args:
        out: Output folder.
        name: Of the clip's outputs.
        made: What decides them: the source and how it is predicted and drawn.
        state: What the source is now; empty = it cannot be had again.

    Raises:
        UsageError: If there are outputs of that name that were made otherwise.
    """

    def __init__(self, out: Path, name: str, made: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        self.folder, self.video = out / f"{name}{FOLDER_SUFFIX}", out / f"{name}{VIDEO_SUFFIX}"
        self._made, self._state = json.loads(json.dumps(made)), json.loads(json.dumps(state))
        self.told: dict[str, Any] = self._read()
        """What an earlier run found out: `size` of the pictures, `words` that they share, and at the end the result."""

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.told.get("is_complete")) and (self.video.exists() or not self.told.get("predicted"))

    @property
    def num_done(self) -> int:
        """Frames, from the first on, that are done."""
        path = self._part(".jsonl")
        return int(read_json_lines(path)[-1]["frame"]) + 1 if path is not None else 0

    def begin(self) -> None:
        """Make the folder, and say what it is for."""
        (self.folder / PARTS).mkdir(parents=True, exist_ok=True)
        self._write()

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
        parts, num_frames, num_predicted = list[Part](), 0, 0
        with atomic_write(self.folder / LINES) as temporary, temporary.open("w") as file:
            for path in self._finished():
                lines = read_json_lines(path)
                shown = [line["time_s"] for line in lines if "data" in line]
                parts += [Part(path.with_suffix(".mp4"), shown[0], len(shown))] if shown else []
                num_frames, num_predicted = num_frames + len(lines), num_predicted + len(shown)
                file.writelines(f"{json.dumps(line)}\n" for line in lines)
        if parts:
            with atomic_write(self.video) as temporary:
                join(parts, temporary)
        counts = {"frames": num_frames, "predicted": num_predicted, "skipped": num_frames - num_predicted}
        self.note(is_complete=True, **counts, note=note, video=self.video.name if parts else None)
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)

    def _read(self) -> dict[str, Any]:
        """What the folder says, if it is of this clip as it is now; if the clip is another, all begins anew."""
        path = self.folder / RECORD
        if not path.exists():
            return {}
        there = read_json(path)
        there = there if isinstance(there, dict) else {}
        if changed := sorted(key for key, value in self._made.items() if there.get("made", {}).get(key) != value):
            raise UsageError(
                f"{self.folder} holds a clip that was made differently ({', '.join(changed)}). Give another --out, or "
                f"remove {self.folder} to predict it anew."
            )
        if there.get("source_state") != self._state:
            shutil.rmtree(self.folder / PARTS, ignore_errors=True)
            path.unlink()
            return {}
        told = there.get("told")
        return told if isinstance(told, dict) else {}

    def _write(self) -> None:
        write_json(self.folder / RECORD, {"made": self._made, "source_state": self._state, "told": self.told})

    def _finished(self) -> list[Path]:
        return sorted((self.folder / PARTS).glob("*.jsonl"), key=lambda path: int(path.stem))

    def _part(self, suffix: str) -> Path | None:
        """A file of the last part that is done."""
        finished = self._finished()
        path = finished[-1].with_suffix(suffix) if finished else None
        return path if path is not None and path.exists() else None
