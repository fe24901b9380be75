import json
from pathlib import Path
from typing import Any

import pytest

from vpd.errors import UsageError
from vpd.prediction_jobs.manifest import MANIFEST, merge_manifests, read_manifests

ORIGIN = {"task": "depth", "model": "m", "fingerprint": "f", "options": {"scene": "kitchen", "classes": ("a", "b")}}


def line(name: str, *, data: str | None = None, **changes: Any) -> str:
    entry = {"source": f"/in/{name}", "source_bytes": 5, "data": data or f"{name}.png", **ORIGIN, **changes}
    return json.dumps(entry) + "\n"


def skip(source: str) -> str:
    return json.dumps({"source": f"/in/{source}", "skipped": "empty"}) + "\n"


def write(out: Path, **manifests: str) -> None:
    (out / "shards").mkdir(parents=True)
    for name, text in manifests.items():
        path = out / MANIFEST if name == "own" else out / "shards" / f"{name.replace('_', '-')}.jsonl"
        path.write_text(text)


def merged(out: Path, *sources: str, only_if_complete: bool = False) -> str:
    """Sources of the merged manifest, as one word; `?` in front where some are missing."""
    wanted = [f"/in/{source}" for source in sources]
    is_complete = merge_manifests(out, ORIGIN, wanted, only_if_complete=only_if_complete)
    text = (out / MANIFEST).read_text() if (out / MANIFEST).exists() else ""
    found = "".join(json.loads(row)["source"].removeprefix("/in/") for row in text.splitlines())
    return found if is_complete else f"?{found}"


def test_a_folder_that_is_not_there_has_nothing(tmp_path: Path):
    record = read_manifests(tmp_path / "none", ORIGIN)
    assert (record.done, record.skipped) == ({}, set())
    assert not merge_manifests(tmp_path / "none", ORIGIN, ["/in/a"], only_if_complete=False)
    assert not (tmp_path / "none").exists()


def test_all_manifests_count(tmp_path: Path):
    write(tmp_path, own=line("a"), **{"1_of_2": line("c") + skip("d"), "2_of_9": line("b") + skip("a")})
    record = read_manifests(tmp_path, ORIGIN)
    assert sorted(record.done) == ["/in/a", "/in/b", "/in/c"]
    assert record.skipped == {"/in/d"}  # a was read later
    assert merged(tmp_path, "a", "b", "c", "d", only_if_complete=True) == "abc"


def test_an_incomplete_manifest_is_made_only_where_asked(tmp_path: Path):
    write(tmp_path, **{"1_of_2": line("c"), "2_of_2": line("b") + line("x")})
    assert merged(tmp_path, "a", "b", "c", only_if_complete=True) == "?"
    assert merged(tmp_path, "a", "b", "c") == "?xbc"
    assert merged(tmp_path, "a", "b", "c") == "?xbc"


def test_lines_of_other_runs_stay_in_front(tmp_path: Path):
    write(tmp_path, own=line("y") + line("b") + line("x"), **{"1_of_1": line("a")})
    assert merged(tmp_path, "a", "b") == "yxab"


def test_a_manifest_in_order_is_not_written_again(tmp_path: Path):
    write(tmp_path, own=line("a") + line("b"), **{"1_of_1": line("b")})
    before = (tmp_path / MANIFEST).stat().st_ino
    assert merged(tmp_path, "a", "b") == "ab"
    assert (tmp_path / MANIFEST).stat().st_ino == before
    assert merged(tmp_path, "b", "a") == "ba"


@pytest.mark.parametrize("torn", ['{"sou', "\n", line("b")[:-1], "[]\n", '{"source": 3, "data": "b"}\n', "\udcff\n"])
def test_torn_and_strange_lines_are_left_out(tmp_path: Path, torn: str):
    write(tmp_path)
    (tmp_path / MANIFEST).write_bytes((line("a") + torn).encode(errors="surrogateescape"))
    assert sorted(read_manifests(tmp_path, ORIGIN).done) == ["/in/a"]
    assert merged(tmp_path, "a", "b") == "?a"
    assert (tmp_path / MANIFEST).read_text() == line("a")


@pytest.mark.parametrize("data", ["../a.png", "/elsewhere/a.png", "b/../../a.png"])
def test_lines_that_lead_out_of_the_folder_are_left_out(tmp_path: Path, data: str):
    write(tmp_path, own=line("a", data=data))
    assert read_manifests(tmp_path, ORIGIN).done == {}


def test_of_two_lines_that_which_fits_the_image_counts(tmp_path: Path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"12345")
    rows = [line("a", source=str(photo), source_bytes=size, note=size) for size in (5, 7, 5)]
    write(tmp_path, own=rows[0], **{"1_of_2": rows[1], "2_of_2": rows[2]})
    assert read_manifests(tmp_path, ORIGIN).done[str(photo)].state.size_bytes == 5
    photo.write_bytes(b"1234567")
    assert read_manifests(tmp_path, ORIGIN).done[str(photo)].state.size_bytes == 7
    photo.unlink()
    assert read_manifests(tmp_path, ORIGIN).done[str(photo)].state.size_bytes == 5  # the last


def test_images_with_one_name_for_their_outputs_are_not_done(tmp_path: Path):
    write(tmp_path, **{"1_of_2": line("a") + line("c"), "2_of_2": line("b", data="A.png")})
    assert sorted(read_manifests(tmp_path, ORIGIN).done) == ["/in/c"]
    assert merged(tmp_path, "a", "b", "c", only_if_complete=True) == "?"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "refer"}, "task: refer there, depth now"),
        ({"fingerprint": "g"}, "fingerprint: g there, f now"),
        ({"options": {"scene": "kitchen"}}, r"classes: none there, \['a', 'b'\] now"),
        ({"options": None}, r"classes: none there, \['a', 'b'\] now; scene: none there, kitchen now"),
    ],
)
@pytest.mark.parametrize("name", ["own", "1_of_2"])
def test_predictions_made_otherwise_are_refused(tmp_path: Path, name: str, changes: dict[str, Any], said: str):
    out = tmp_path / "out"
    write(out, **{name: line("a") + line("b", **changes)})
    files = f"remove {out / MANIFEST}" + ("" if name == "own" else f" and {out / 'shards'}")
    for call in (
        lambda: read_manifests(out, ORIGIN),
        lambda: merge_manifests(out, ORIGIN, ["/in/a", "/in/b"], only_if_complete=True),
    ):
        with pytest.raises(
            UsageError, match=rf"^{out} holds predictions that were made differently \({said}\).*{files}"
        ):
            call()


def test_a_model_may_be_called_otherwise(tmp_path: Path):
    write(tmp_path, own=line("a", model="another name"))
    assert sorted(read_manifests(tmp_path, ORIGIN).done) == ["/in/a"]
