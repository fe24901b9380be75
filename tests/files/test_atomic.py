import json
import math
import os
from pathlib import Path

import pytest

from vpd.errors import UsageError
from vpd.files.atomic import (
    append_json_line,
    atomic_folder,
    atomic_write,
    check_writable,
    read_json_lines,
    remove_folder,
    writable_folder,
    write_json,
)


def test_atomic_write_replaces_whole_and_keeps_the_suffix(tmp_path: Path):
    target = tmp_path / "weights.bin"
    target.write_text("old")
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".bin"
        assert temporary.parent == tmp_path
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["weights.bin"]


def test_atomic_write_leaves_the_old_file_when_the_writer_fails(tmp_path: Path):
    target = tmp_path / "weights.bin"
    target.write_text("old")

    def fail_half_way() -> None:
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["weights.bin"]


def test_atomic_write_names_the_missing_folder(tmp_path: Path):
    with (
        pytest.raises(FileNotFoundError, match=r"no folder .*absent"),
        atomic_write(tmp_path / "absent" / "a.json"),
    ):
        pass


def test_atomic_write_gives_normal_permissions(tmp_path: Path):
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_write(tmp_path / "ours") as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    assert (tmp_path / "ours").stat().st_mode == plain.stat().st_mode


def test_errors_of_the_system_name_the_file_that_was_meant(tmp_path: Path):
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(tmp_path / "a.json"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.json")


def test_write_json_has_null_for_what_json_cannot_say(tmp_path: Path):
    write_json(tmp_path / "a.json", {"miou": math.nan, "iou": (1.0, math.inf), "name": "größe"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"miou": None, "iou": [1.0, None], "name": "größe"}
    assert "größe" in text


def test_lines_survive_a_torn_end(tmp_path: Path):
    log = tmp_path / "log.jsonl"
    assert read_json_lines(log) == []
    append_json_line(log, {"step": 1})
    with log.open("ab") as file:
        file.write(b'{"step": 2, "na\xff')
    append_json_line(log, {"step": 3})
    assert read_json_lines(log) == [{"step": 1}, {"step": 3}]


def test_writable_folder_makes_parents_and_leaves_no_trace(tmp_path: Path):
    folder = writable_folder(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


def test_a_folder_can_be_checked_without_making_it(tmp_path: Path):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Not a directory"):
        check_writable(tmp_path / "file" / "below")
    check_writable(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_writable_folder_sweeps_what_killed_runs_left(tmp_path: Path):
    for name in (".tmp-old", ".tmp-young", "old.png"):
        (tmp_path / name).touch()
    for name in (".tmp-old", "old.png"):
        os.utime(tmp_path / name, (0, 0))
    writable_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-young", "old.png"]


def test_writable_folder_does_not_mind_files_of_others_that_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    gone = [tmp_path / ".tmp-renamed", tmp_path / ".tmp-removed"]
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter(gone))  # listed, and gone before it is looked at
    assert writable_folder(tmp_path) == tmp_path


def test_writable_folder_names_what_is_wrong(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UsageError, match="file: it is a file"):
        writable_folder(file)
    with pytest.raises(UsageError, match="Not a directory"):
        writable_folder(file / "below")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with pytest.raises(UsageError, match=r"locked.*read-only|locked.*Permission denied"):
        writable_folder(locked)


def test_folder_is_replaced_whole(tmp_path: Path):
    folder = tmp_path / "model"
    for content in ("old", "new"):
        with atomic_folder(folder) as partial:
            assert list(partial.iterdir()) == []
            (partial / content).write_text(content)
            assert not (folder / content).exists()
    assert [path.name for path in folder.iterdir()] == ["new"]
    remove_folder(folder)
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path: Path):
    folder = tmp_path / "model"
    with atomic_folder(folder) as partial:
        (partial / "old").touch()

    def fail_half_way() -> None:
        with atomic_folder(folder) as partial:
            (partial / "new").touch()
            raise OSError(28, "No space left on device")

    with pytest.raises(UsageError, match=r"Cannot write .*model: No space left on device\. .*--resume"):
        fail_half_way()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in folder.iterdir()] == ["old"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
def test_line_that_finds_no_room_names_its_file():
    with pytest.raises(OSError, match="No space left") as error:
        append_json_line("/dev/full", {"a": 1})
    assert error.value.filename == "/dev/full"
