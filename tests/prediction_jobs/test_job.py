from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from many_images import Jobs, assert_same_outputs, lines_of, wait_until, write_pictures, write_quick_model
from thresholder import Job, Thresholder
from vpd.errors import UsageError
from vpd.files.atomic import read_json_lines
from vpd.loading import load
from vpd.prediction_jobs.job import Share
from vpd.prediction_jobs.manifest import MANIFEST
from vpd.prediction_jobs.output_names import Item
from vpd.prediction_jobs.worker import Chunk, Predictor, model_fingerprint


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        Image.new("RGB", (6 + index, 4), "white" if index % 2 else "black").save(folder / f"{index}.png")
    return folder


def names_in(manifest: Path) -> list[str]:
    return [Path(line["source"]).stem for line in read_json_lines(manifest)]


def test_every_image_gets_data_picture_and_line(photos: Path, tmp_path: Path):
    model = Thresholder()
    outcomes = Job(model, photos, tmp_path / "out", size=64, text=None).finish()
    assert [outcome.error for outcome in outcomes] == [None] * 5
    assert model.batches == [2, 2, 1]
    lines = read_json_lines(tmp_path / "out" / MANIFEST)
    assert [Path(line["source"]).name for line in lines] == [f"{index}.png" for index in range(5)]
    line = lines[3]
    assert (line["height"], line["width"], line["data"]) == (4, 9, "3.png")
    assert line["source_bytes"] == (photos / "3.png").stat().st_size
    assert line["options"] == {"size": 64, "dtype": "float32"}
    assert line["classes"] == [{"label": 1, "name": "bright", "share": 1.0}]
    with Image.open(tmp_path / "out" / "3.png") as labels:
        assert np.asarray(labels).tolist() == [[1] * 9] * 4
    with Image.open(tmp_path / "out" / line["picture"]) as picture:
        assert picture.format == "JPEG"


def test_a_stopped_job_goes_on(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    run = Job(Thresholder(), photos, out).run()
    for _ in range(3):
        next(run)
    run.close()
    again = Thresholder()
    rest = Job(again, photos, out)
    assert rest.pending() == ["3", "4"]
    assert len(rest.finish()) == 2
    assert again.batches == [2, 1]  # 2 and 3 ran together before, so they do again
    assert Job(again, photos, out).pending() == []
    assert names_in(out / MANIFEST) == ["0", "1", "2", "3", "4"]


def test_what_is_damaged_since_is_done_again(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    Job(Thresholder(), photos, out).finish()
    (out / "0.png").unlink()
    (out / "1.overlay.jpg").unlink()
    Image.new("RGB", (50, 40), "red").save(photos / "2.png")
    lines = (out / MANIFEST).read_text().splitlines(keepends=True)
    (out / MANIFEST).write_text("".join(lines[:4]) + lines[4][:30])  # torn by a crash
    (photos / "3.png").unlink()  # finished and gone: nothing to do
    again = Job(Thresholder(), photos, out, batch_size=1)
    assert again.pending() == ["0", "1", "2", "4"]
    assert all(outcome.error is None for outcome in again.finish())
    assert Job(Thresholder(), photos, out).pending() == []
    assert names_in(out / MANIFEST) == ["3", "0", "1", "2", "4"]  # 3 is no image of this run
    (line,) = (line for line in read_json_lines(out / MANIFEST) if line["data"] == "2.png")
    assert line["width"] == 50


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 32}, "size: 64 there, 32 now"),
        ({"classes": ["a"]}, r"classes: none there, \['a'\] now"),
        ({"model": Thresholder(weight=2.0)}, "fingerprint: .* there, .* now"),
    ],
)
def test_a_folder_holds_predictions_of_one_kind(photos: Path, tmp_path: Path, changes: dict[str, Any], said: str):
    Job(Thresholder(), photos, tmp_path / "out", size=64).finish()
    model = changes.pop("model", Thresholder())
    with pytest.raises(UsageError, match=rf"made differently \({said}.*another --out"):
        Job(model, photos, tmp_path / "out", **{"size": 64, **changes})


def test_bad_images_are_named_and_the_rest_is_done(photos: Path, tmp_path: Path):
    (photos / "1.png").write_bytes(b"")
    (photos / "2.png").write_text("no image")
    Image.effect_noise((64, 64), 50).save(photos / "3.png")
    (photos / "3.png").write_bytes((photos / "3.png").read_bytes()[:2000])
    outcomes = Job(Thresholder(), photos, tmp_path / "out", batch_size=3).finish()
    errors = {Path(outcome.source).name: outcome.error for outcome in outcomes if outcome.error}
    assert sorted(errors) == ["1.png", "2.png", "3.png"]
    assert all(str(photos / name) in error for name, error in errors.items())
    assert sorted(path.name for path in (tmp_path / "out").glob("?.png")) == ["0.png", "4.png"]
    assert not list((tmp_path / "out").glob(".tmp-*"))
    Image.new("RGB", (8, 8)).save(photos / "2.png")  # tried again, listed in its place
    again = Job(Thresholder(), photos, tmp_path / "out", batch_size=3)
    assert again.pending() == ["1", "2", "3"]
    assert [Path(outcome.source).stem for outcome in again.finish() if outcome.error is None] == ["2"]
    assert names_in(tmp_path / "out" / MANIFEST) == ["0", "2", "4"]


def test_a_batch_too_large_for_memory_is_taken_apart(photos: Path, tmp_path: Path):
    model = Thresholder(most_at_once=1)
    outcomes = Job(model, photos, tmp_path / "out", batch_size=4).finish()
    assert [outcome.error for outcome in outcomes] == [None] * 5
    assert model.batches == [1] * 5


@pytest.mark.parametrize(
    "shortage", [MemoryError(), torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_an_image_too_large_for_memory_is_named(photos: Path, tmp_path: Path, shortage: Exception):
    outcomes = Job(Thresholder(most_at_once=0, shortage=shortage), photos, tmp_path / "out").finish()
    assert len(outcomes) == 5
    assert all("not enough memory" in (outcome.error or "") for outcome in outcomes)


def test_mistakes_inside_a_model_are_not_hidden(photos: Path, tmp_path: Path):
    model = Thresholder(most_at_once=0, shortage=RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Job(model, photos, tmp_path / "out").finish()


@pytest.mark.parametrize("memory", [None, "1GB"])
def test_an_error_of_the_list_comes_after_what_was_listed(photos: Path, tmp_path: Path, memory: str | None):
    def chunks() -> Iterator[Chunk]:
        yield Chunk((Item(str(photos / "0.png"), "0"),), frozenset([str(photos / "0.png")]))
        raise OSError("the list ends here")

    predictor, done = Predictor(Thresholder(), tmp_path / "out", model_name="m", options={"memory": memory}), []
    with pytest.raises(OSError, match="the list ends here"):
        for outcome in predictor.run(chunks()):
            done.append(outcome.error)
    assert done in ([None], [])  # of those that were being written, none is told


def test_files_that_cannot_be_written_end_the_job(photos: Path, tmp_path: Path):
    (photos / "sub").mkdir()
    Image.new("RGB", (4, 4)).save(photos / "sub" / "5.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").touch()
    with pytest.raises(FileExistsError):
        Job(Thresholder(), photos, tmp_path / "out").finish()


def test_a_manifest_cannot_lead_out_of_its_folder(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    lines = [{"source": str(photos / "0.png"), "data": data} for data in ("../0.png", str(tmp_path / "0.png"), 3)]
    (out / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in [*lines, [], "x"]))
    assert Job(Thresholder(), photos, out).job.items[0].data == "0.png"


def test_nothing_is_made_for_a_wrong_request(photos: Path, tmp_path: Path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="no images"):
        Job(Thresholder(), tmp_path / "none", tmp_path / "out" / "deep")
    with pytest.raises(UsageError, match="no such class"):
        Job(Thresholder(), photos, tmp_path / "out", classes=["unknown"])
    assert not (tmp_path / "out").exists()


def test_file_names_of_any_kind_come_back_from_the_manifest(tmp_path: Path):
    folder = tmp_path / "фото"
    folder.mkdir()
    odd = folder / "a\udcff 'b\n.png"  # not UTF-8 on disk
    Image.new("RGB", (4, 4)).save(odd)
    Job(Thresholder(), folder, tmp_path / "out").finish()
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["source"] == str(odd)
    assert Job(Thresholder(), folder, tmp_path / "out").pending() == []


def test_shards_share_the_work_and_the_last_makes_the_manifest(photos: Path, tmp_path: Path):
    Job(Thresholder(), photos, tmp_path / "alone").finish()
    out = tmp_path / "out"
    jobs = [Job(Thresholder(), photos, out, share=Share(number, 3)) for number in (1, 2, 3)]
    assert [job.pending() for job in jobs] == [["0", "1"], ["2", "3"], ["4"]]
    for job in (jobs[2], jobs[0]):
        job.finish()
        assert not (out / MANIFEST).exists()
    assert names_in(out / "shards" / "1-of-3.jsonl") == ["0", "1"]
    jobs[1].finish()
    assert_same_outputs(out, tmp_path / "alone", number=5)


def test_two_shards_that_finish_together_make_the_same_manifest(photos: Path, tmp_path: Path):
    jobs = [Job(Thresholder(), photos, tmp_path / "out", share=Share(number, 2)) for number in (1, 2)]
    for job in jobs:
        list(job.run())
    assert jobs[0].job.finish()
    made = (tmp_path / "out" / MANIFEST).stat()
    assert jobs[1].job.finish()
    assert (tmp_path / "out" / MANIFEST).stat().st_ino == made.st_ino  # nothing to change, so it was not replaced
    assert names_in(tmp_path / "out" / MANIFEST) == ["0", "1", "2", "3", "4"]


def test_another_number_of_shards_does_nothing_twice(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    Job(Thresholder(), photos, out, batch_size=1, share=Share(2, 2)).finish()
    assert names_in(out / "shards" / "2-of-2.jsonl") == ["1", "3"]
    jobs = [Job(Thresholder(), photos, out, batch_size=1, share=Share(number, 3)) for number in (1, 2, 3)]
    assert [job.pending() for job in jobs] == [["0"], ["4"], ["2"]]
    for job in jobs[:2]:
        job.finish()
    last = Job(Thresholder(), photos, out, batch_size=1)  # alone, for what is left
    assert last.pending() == ["2"]
    last.finish()
    assert names_in(out / MANIFEST) == ["0", "1", "2", "3", "4"]


def test_shards_tell_each_other_what_they_could_not_read(photos: Path, tmp_path: Path):
    (photos / "1.png").write_bytes(b"")
    out = tmp_path / "out"
    assert not Job(Thresholder(), photos, out, share=Share(1, 2)).job.finish()
    outcomes = [Job(Thresholder(), photos, out, share=Share(number, 2)).finish() for number in (1, 2)]
    assert [Path(outcome.source).stem for outcome in outcomes[0] if outcome.error] == ["1"]
    assert names_in(out / MANIFEST) == ["0", "2", "3", "4"]
    Image.new("RGB", (8, 8)).save(photos / "1.png")
    Job(Thresholder(), photos, out, share=Share(1, 2)).finish()
    assert names_in(out / MANIFEST) == ["0", "1", "2", "3", "4"]


def test_an_image_that_comes_twice_is_listed_once(photos: Path, tmp_path: Path):
    job = Job(Thresholder(), photos, tmp_path / "out")
    outcomes = list(job.job.run(lambda chunks: [outcome for outcome in job.predictor.run(chunks) for _ in "ab"]))
    assert len(outcomes) == len(read_json_lines(tmp_path / "out" / MANIFEST)) == 5


def test_fingerprints_tell_weights_and_types_apart():
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "c": torch.tensor([True, False])}
    same = {name: tensor.clone() for name, tensor in reversed(weights.items())}
    assert (
        model_fingerprint("{}", weights)
        == model_fingerprint("{}", same)
        != model_fingerprint('{"classes": 2}', weights)
    )
    changed = weights["a"].clone()
    changed[1, 2] += 1e-6
    for other in (
        {**weights, "a": changed},
        {**weights, "a": weights["a"].bfloat16()},
        {**weights, "b": torch.tensor(4)},
    ):
        assert model_fingerprint("{}", other) != model_fingerprint("{}", weights)


def share_out(root: Path, *, number: int, batch: int, shards: int) -> None:
    """Run shards of which one is killed at work, and one process alone; both must end in the same."""
    words = ["predict", "segment", write_pictures(root / "photos", number), "--model", write_quick_model(root)]
    words += ["--batch", batch, "--device", "cpu", "--out"]
    jobs = Jobs()
    jobs.finish(*words, root / "alone")
    manifest, share = root / "out" / "shards" / f"1-of-{shards}.jsonl", -(-number // shards)
    killed = jobs.start(*words, root / "out", "--shard", f"1/{shards}")
    wait_until(lambda: len(lines_of(manifest)) > share // 5, "the share does not get going")
    killed.kill()
    killed.join()
    assert share // 5 < len(lines_of(manifest)) < share
    together = [jobs.start(*words, root / "out", "--shard", f"{share + 1}/{shards}") for share in range(shards)]
    for job in together:
        job.join()
    assert [job.exitcode for job in together] == [0] * shards
    assert_same_outputs(root / "out", root / "alone", number=number)
    sources = [line["source"] for path in (root / "out" / "shards").iterdir() for line in lines_of(path)]
    assert len(sources) == len(set(sources)) == number  # nothing was done twice


def test_a_killed_shard_is_run_again(tmp_path: Path):
    share_out(tmp_path, number=80, batch=3, shards=2)


@pytest.mark.extras
def test_a_thousand_images_in_shards_of_which_one_is_killed(tmp_path: Path):
    share_out(tmp_path, number=1000, batch=8, shards=4)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["model.safetensors"], r"a model \(model.safetensors\)\. Remove it, or give another folder"),
        (["model_index.json"], r"a model \(model_index.json\)\. Remove it, or give another folder"),
        (["vae-training.safetensors"], r"a model \(vae-training.safetensors\)\. Remove it, or give another folder"),
        (["config.yaml", "checkpoints/step-1/model.safetensors"], r"a training run\. Give another folder"),
    ],
)
def test_predictions_are_not_mixed_into_models_and_runs(photos: Path, tmp_path: Path, names: list[str], what: str):
    out = tmp_path / "run"
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).touch()
    before = sorted(out.rglob("*"))
    with pytest.raises(UsageError, match=f"run holds {what}"):
        Job(Thresholder(), photos, out)
    assert sorted(out.rglob("*")) == before


def test_a_file_that_is_called_like_a_runs_settings_is_in_nobodys_way(photos: Path, tmp_path: Path):
    (tmp_path / "config.yaml").touch()
    assert len(Job(Thresholder(), photos, tmp_path).finish()) == len(list(photos.iterdir()))


def test_every_line_tells_what_makes_predictions_others(tmp_path: Path):
    model = load(write_quick_model(tmp_path))
    fast = {"dtype": "float32", "merge_above": 30, "compile_mode": None}
    predictor = Predictor(model, tmp_path / "out", model_name="m", options={"size": 64}, fast=fast)
    told = {"size": 64, "dtype": "float32", "fast": "float32", "merge_above": 30}
    assert predictor.origin["options"] == told
