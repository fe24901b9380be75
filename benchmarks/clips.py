"""Does a clip run at the rate of the same frames as JPEG files, and does its memory stay?

    python benchmarks/clips.py [--frames 300] [--rounds 1] [--model world-segment] [--size PX] [--threads 1] [--out F]

Renders a clip of a scene as an MP4 file and as JPEG files, and predicts them by `vpd predict segment` in turns, each in
a process of its own. Tells CPU and wall seconds of each, start included, their ratio, and memory: at the 100th frame
(of less than 300, when a third is written), at the last, and the most of all. Small: `--frames 12 --size 32`. It needs
PyAV.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # where `experiments` is
from experiments.clips import clip
from vpd.files.atomic import write_json
from vpd.video.encoding import VideoWriter

WIDTH, HEIGHT, FPS = 320, 240, 25
_RENDERED = 24  # shown on and back, as many are wanted
_EARLY = 100
_LOOK_S = 0.05

Figures = dict[str, float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--model", default="world-segment", help="for segmentation")
    parser.add_argument("--size", type=int, help="of the network's picture, px")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = parser.parse_args()
    options = ["--model", given.model, *(() if given.size is None else ("--size", str(given.size)))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = write_sources(folder, given.frames)
        runs: dict[str, list[Figures]] = {way: [] for way in sources}
        for number in range(given.rounds):
            for way, source in sources.items():
                out = folder / f"{way}-{number}"
                runs[way].append(measure(source, out, given.frames, options, threads=given.threads))
                print(f"{way}: {json.dumps(runs[way][-1])}", file=sys.stderr, flush=True)
    found = {way: {key: median(run[key] for run in each) for key in each[0]} for way, each in runs.items()}
    ratio = found["clip"]["cpu_s"] / found["files"]["cpu_s"]
    print("| | CPU s | seconds | MB at an early frame | at the last | most |\n|---|---|---|---|---|---|")
    for way, figures in found.items():
        memory = " | ".join(f"{figures[key]:.0f}" for key in ("early_mb", "last_mb", "most_mb"))
        print(f"| {way} | {figures['cpu_s']:.1f} | {figures['wall_s']:.1f} | {memory} |")
    print(f"CPU time of the clip over that of the files: {ratio:.2f}")
    if given.out:
        write_json(given.out, {**vars(given), "out": None, "load": os.getloadavg()[0], "cpu_ratio": ratio, **found})


def write_sources(folder: Path, frames: int) -> dict[str, Path]:
    """The same frames as a video and as a folder of JPEG files."""
    video, files = folder / "clip.mp4", folder / "files"
    files.mkdir()
    writer = VideoWriter(video, (WIDTH, HEIGHT), fps=FPS, pixel_aspect=Fraction(1))
    for number, picture in enumerate(pictures(frames)):
        picture.save(files / f"{number:06d}.jpg", quality=92)
        writer.add(picture, number / FPS)
    writer.close()
    return {"clip": video, "files": files}


def pictures(frames: int) -> Iterator[Image.Image]:
    """A camera that sways, and objects that move."""
    top = (WIDTH - HEIGHT) // 2
    rendered = [
        Image.fromarray(frame.rendering.image[top : top + HEIGHT])
        for frame in clip(77, 0, motion="both", frames=min(frames, _RENDERED), size_px=WIDTH)
    ]
    return islice(cycle([*rendered, *rendered[-2:0:-1]]), frames)


def measure(source: Path, out: Path, frames: int, options: Sequence[str], *, threads: int) -> Figures:
    """Predict in a process of its own; what it took."""
    command = [sys.executable, "-m", "vpd", "predict", "segment", str(source), "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    data = out / f"{source.stem}.frames" if source.is_file() else out
    early, began_s = min(_EARLY, max(1, frames // 3)), time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    early_mb = last_mb = 0.0
    while True:
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        count, memory_mb = number_of_data_files(data), resident_mb(process.pid)
        early_mb = early_mb or (memory_mb if count >= early else 0.0)
        last_mb = memory_mb if memory_mb and count < frames else last_mb
        time.sleep(_LOOK_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or number_of_data_files(data) != frames:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}.")
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "wall_s": round(time.monotonic() - began_s, 2),
        "early_mb": round(early_mb, 1),
        "last_mb": round(last_mb, 1),
        "most_mb": round(used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, 1),
    }


def number_of_data_files(folder: Path) -> int:
    """Frames or pictures whose labels are written."""
    if not folder.is_dir():
        return 0
    return sum(entry.name.endswith(".png") and entry.name[0].isdecimal() for entry in os.scandir(folder))


def resident_mb(process: int) -> float:
    """Memory that a process holds; 0 where the system does not tell it as Linux does."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
