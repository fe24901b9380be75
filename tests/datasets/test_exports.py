"""Every command of docs/own-data.md runs, on small exports and a tiny model."""

from __future__ import annotations

import pickle
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import exports
import pytest

from vpd.cli import main
from vpd.datasets.layouts import open_data

PAGE = Path(__file__).parents[2] / "docs" / "own-data.md"
SMALL = ("steps=1", "batch_size=2", "crop_px=32", "workers=0", "pictures=0", "trackers=[]", "validate_limit=1")
HEADS = {
    "segment": ("model_options.head_channels=8",),
    "depth": tuple(
        f"model_options.{word}" for word in ("head_channels=8", "feature_channels=16", "deconv_channels=[8, 8, 8]")
    ),
}
MOST_COMMANDS = 6


def camvid(root: Path) -> None:
    exports.write_tree(root, "{split}{kind} _ _labels", end="_L", colours=True)
    for split in ("train", "val"):
        (root / f"{split}_").rename(root / split)
    lines = [f"{name},{','.join(map(str, colour))}" for name, colour in exports.COLOURS.items()]
    (root / "class_dict.csv").write_text("\n".join(["name,r,g,b", *lines]))


EXPORTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "labelme": ("mugs", exports.write_labelme),
    "CVAT": ("task_mugs.zip", exports.write_cvat_masks),
    "Supervisely": ("mugs.zip", exports.write_supervisely),
    "Label Studio": ("mugs", exports.write_label_studio),
    "PASCAL VOC": ("VOC2012", exports.write_voc),
    "Folders of pictures and masks": (
        "archive.zip",
        lambda root: exports.write_tree(root, "{split}/{kind} images masks"),
    ),
    "Masks in colours": ("camvid", camvid),
    "Depth cameras": ("rooms", exports.write_depth_tree),
}
"""Heading of each section -> what its commands begin with, and how it is made."""


def commands_of() -> dict[str, list[str]]:
    """Commands of each section, by its heading; those before the first are of no tool."""
    sections = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for heading, body in zip(["", *sections[1::2]], sections[::2], strict=True):
        blocks = re.findall(r"```bash\n(.*?)```", body, flags=re.DOTALL)
        if lines := [line for block in blocks for line in block.splitlines() if line.strip()]:
            found[heading] = lines
    return found


def test_every_tool_has_an_export_here() -> None:
    commands = commands_of()
    after_training = commands.pop("")
    assert set(EXPORTS) <= set(commands) <= {*EXPORTS, "COCO files"}
    assert all(len(commands[heading]) + len(after_training) <= MOST_COMMANDS for heading in EXPORTS)
    assert all(any(" train " in line for line in commands[heading]) for heading in EXPORTS)


def run(line: str, model: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run one line, with a tiny model and one step, and return what it said."""
    program, *words = shlex.split(line)
    if program == "python":
        subprocess.run([sys.executable, *words], check=True)
        return ""
    assert program == "vpd"
    if words[0] == "train":
        words[words.index("world")] = str(model)
        words += [word for setting in (*SMALL, *HEADS[words[1]]) for word in ("-s", setting)]
    with pytest.raises(SystemExit) as stop:
        main(words)
    captured = capsys.readouterr()
    assert not stop.value.code, f"{line}\n{captured.out}\n{captured.err}"
    return captured.out


@pytest.mark.parametrize("heading", EXPORTS)
def test_commands_of_the_page(heading, tmp_path, tiny_diffusion, capsys, monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("vpd.cli.quiet_libraries", lambda: None)
    monkeypatch.chdir(tmp_path)
    name, write = EXPORTS[heading]
    if name.endswith(".zip"):
        write(tmp_path / "unpacked")
        shutil.make_archive(name.removesuffix(".zip"), "zip", tmp_path / "unpacked")
    else:
        write(tmp_path / name)
    exports.image_of(0).save("photo.jpg")
    commands = commands_of()
    lines = commands[heading] + (commands[""] if heading == "labelme" else [])
    told = [run(line, tiny_diffusion, capsys) for line in lines]
    assert any("All files are right." in words for words in told)
    assert (tmp_path / "run/model").is_dir()


@pytest.mark.parametrize("heading", EXPORTS)
def test_exports_can_be_handed_to_other_processes(heading, tmp_path):
    EXPORTS[heading][1](tmp_path)
    options = {"classes": exports.CLASSES} if heading.startswith("Folders") else {}
    samples = open_data(tmp_path, None, **options)
    copy = pickle.loads(pickle.dumps(samples))
    assert len(copy) == len(samples) and copy[0].name == samples[0].name
    assert list(copy.sample_keys()) == list(samples.sample_keys()) and len(set(copy.sample_keys())) == len(copy)
