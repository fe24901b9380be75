"""`vpd data check` and `vpd data prepare`."""

import json

import pytest

from data_layouts import write_nyu, write_nyu_mat, write_refcoco
from vpd.datasets.prepare import prepare_data
from vpd.errors import UsageError


def run(*words):
    from vpd.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["data", *map(str, words)])
    return int(stop.value.code or 0)


def test_check_command(folder_root, tmp_path, capfd):
    assert run("check", "folder", folder_root, "--json", tmp_path / "report.json") == 0
    assert "All files are right." in capfd.readouterr().out
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["format"] == "folder" and content["splits"][0]["sizes"] == {"8x6": 2}
    (folder_root / "images/val/v1.jpg").write_bytes(b"\xff\xd8")
    assert run("check", "folder", folder_root) == 1
    captured = capfd.readouterr()
    assert captured.err.endswith("1 problem.\n") and "train: 2 samples" in captured.out
    assert (captured.out + captured.err).count("v1.jpg") == 1
    assert run("check", "nyu", folder_root) == 2
    error = capfd.readouterr().err
    assert error.startswith("vpd: ") and error.count("\n") == 1


def test_check_finds_the_layout_out(folder_root, tmp_path, capfd, monkeypatch):
    assert run("check", folder_root) == 0
    assert capfd.readouterr().out.startswith(f"{folder_root}: folder layout\n")
    monkeypatch.chdir(tmp_path)
    assert run("check", "nyu") == 2
    assert capfd.readouterr().err == "vpd: nyu is a layout; which folder shall be checked? vpd data check nyu DIR\n"
    folder_root.rename("nyu")  # a folder may be called so
    assert run("check", "nyu") == 0


def test_many_problems_are_shortened_on_the_screen_only(tmp_path, capfd):
    root = write_nyu(tmp_path)
    lines = "".join(f"kitchen/rgb_{n:05d}.jpg kitchen/sync_depth_{n:05d}.png\n" for n in range(30))
    (root / "train_list.txt").write_text(lines)
    assert run("check", "nyu", root, "--json", tmp_path / "report.json") == 1
    error = capfd.readouterr().err
    assert error.count("no such file") == 20 and "... and 10 more; --json FILE writes them all." in error
    splits = json.loads((tmp_path / "report.json").read_text())["splits"]
    assert [len(split["problems"]) for split in splits] == [30, 0]


def test_check_command_takes_options(tmp_path, capfd):
    write_refcoco(tmp_path, dataset="refcocog", split_by="google")
    assert run("check", "refcocog", tmp_path, "-s", "split_by=google") == 0
    assert "  3 of its 3 pictures are in train too: refs(google).p divides objects" in capfd.readouterr().out


def test_prepare_command(tmp_path, capfd):
    write_refcoco(tmp_path)
    assert run("prepare", "refcoco", tmp_path) == 0
    assert capfd.readouterr().out == f"{tmp_path}/refcoco/refs(unc).json: written\n"
    assert run("prepare", "refcoco", tmp_path) == 0
    assert capfd.readouterr().out == f"{tmp_path}/refcoco/refs(unc).json: is up to date\n"
    write_nyu_mat(tmp_path / "nyu_depth_v2_labeled.mat", number=2)
    assert run("prepare", "nyu", tmp_path) == 0
    expected = f"{tmp_path}/official_splits: 2 pictures, a part of the whole 1,449; 2 written now\n"
    assert capfd.readouterr().out == expected
    assert run("check", "nyu", tmp_path) == 0


@pytest.mark.parametrize("name", ["refcoco/refs(unc).json", "official_splits/rooms.json", "notes.json"])
def test_files_of_others_are_not_written_over(tmp_path, capfd, name):
    write_refcoco(tmp_path)
    write_nyu_mat(tmp_path / "nyu_depth_v2_labeled.mat", number=2)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"00000": "my own room"}')
    words = {"refs(unc)": ["prepare", "refcoco"], "rooms": ["prepare", "nyu"], "notes": ["check", "refcoco"]}[path.stem]
    more = ["--json", path] if path.stem == "notes" else []
    before = sorted(tmp_path.rglob("*"))
    assert run(*words, tmp_path, *more) == 2
    error = capfd.readouterr().err
    assert str(path) in error and ("says" in error or "did not make" in error)
    assert path.read_text() == '{"00000": "my own room"}' and sorted(tmp_path.rglob("*")) == before


def test_what_needs_no_preparation(tmp_path):
    with pytest.raises(UsageError, match="ade20k needs no preparation; only these do: nyu, refcoco, refcoco"):
        prepare_data("ade20k", tmp_path)
    with pytest.raises(UsageError, match="unknown data format 'cub'"):
        prepare_data("cub", tmp_path)
    with pytest.raises(UsageError, match="gone: no such folder"):
        prepare_data("nyu", tmp_path / "gone")
