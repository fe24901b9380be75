import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

WORDS = {"segment": [], "refer": ["--text", "the dog on the left"], "depth": ["--scene", "kitchen"]}
Models = dict[str, Path]
Command = Callable[..., Any]


def manifest(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("task", WORDS)
def test_a_folder_of_photos(vpd_command: Command, models: Models, photos: Path, tmp_path: Path, task: str):
    out = tmp_path / "new" / "out"
    words = ["predict", task, photos, "--model", models[task], "--out", out, "--batch", "2", *WORDS[task]]
    result = vpd_command(*words)
    lines = manifest(out)
    told = f"3 images predicted, 0 were there already, 0 skipped: {out}\n"
    if missed := sum(line.get("box", ...) is None for line in lines):
        told += f"In {missed} image{'s' * (missed > 1)} of these nothing was found: the text fits nothing there, "
        told += "or the model is unsure.\n"
    assert (result.status, result.out) == (0, told)
    assert [line["data"] for line in lines] == ["a.png", "b.png", "more/a.png"]
    for line in lines:
        with Image.open(out / line["data"]) as data, Image.open(line["source"]) as source:
            assert data.size == source.size == (line["width"], line["height"])
            assert data.mode == ("I;16" if task == "depth" else "L")
        with Image.open(out / line["picture"]) as picture:
            picture.load()
    again = vpd_command(*words)
    assert (again.status, again.out) == (0, f"0 images predicted, 3 were there already, 0 skipped: {out}\n")


def test_a_users_own_files_are_not_written_over(vpd_command: Command, models: Models, photos: Path, tmp_path: Path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (8, 6), 3).save(masks / "b.png")
    before = (masks / "b.png").read_bytes()
    words = ["predict", "segment", photos, "--model", models["segment"], "--out", masks]
    refused = vpd_command(*words)
    assert (
        refused.status == 2 and f"would write over 1 file that it did not make: {masks / 'b.png'}. Give" in refused.err
    )
    assert [path.name for path in masks.iterdir()] == ["b.png"] and (masks / "b.png").read_bytes() == before
    (masks / "b.png").rename(tmp_path / "b.png")
    assert vpd_command(*words).status == 0
    (masks / "predictions.jsonl").unlink()  # what the runs made themselves, they replace
    again = vpd_command(*words)
    assert again.status == 0 and again.out.startswith("3 images predicted, 0 were there already")


@pytest.mark.parametrize("task", WORDS)
def test_the_data_files_are_what_the_model_says(
    vpd_command: Command, models: Models, photos: Path, tmp_path: Path, task: str
):
    import vpd

    vpd_command("predict", task, photos / "a.jpg", "--model", models[task], "--out", tmp_path / "out", *WORDS[task])
    model = vpd.load(models[task])
    options = {"segment": {}, "refer": {"text": WORDS["refer"][1]}, "depth": {"scene": "kitchen"}}[task]
    prediction = model.predict(photos / "a.jpg", **options)
    with Image.open(tmp_path / "out" / "a.png") as data:
        pixels = np.asarray(data)
    if task == "segment":
        assert (pixels == prediction.labels.numpy()).all()
    elif task == "refer":
        assert (pixels == prediction.mask.numpy() * 255).all()
    else:
        np.testing.assert_allclose(pixels * 0.001, prediction.depth_m.numpy(), atol=0.0006)


def test_depth_in_the_same_colours_for_all(vpd_command: Command, models: Models, photos: Path, tmp_path: Path):
    words = ["predict", "depth", photos / "a.jpg", "--model", models["depth"], "--out"]
    assert vpd_command(*words, tmp_path / "own").status == 0
    assert vpd_command(*words, tmp_path / "far", "--near-m", "0", "--far-m", "1000").status == 0
    assert [line["options"] for line in manifest(tmp_path / "far")] == [
        {"dtype": "float32", "near_m": 0.0, "far_m": 1000.0}
    ]
    assert (tmp_path / "own" / "a.png").read_bytes() == (tmp_path / "far" / "a.png").read_bytes()
    (line,) = manifest(tmp_path / "own")
    ends = [f"--near-m={line['nearest_m']}", f"--far-m={line['farthest_m']}"]  # a random model's depth hardly varies
    assert vpd_command(*words, tmp_path / "tight", *ends).status == 0
    pictures = [tmp_path / name / manifest(tmp_path / name)[0]["picture"] for name in ("tight", "far")]
    tight, far = (np.asarray(Image.open(picture), np.int16) for picture in pictures)
    tight, far = (drawn[: drawn.shape[1] * 50 // 70 - 8] for drawn in (tight, far))  # without the scale below
    assert np.ptp(tight.reshape(-1, 3), axis=0).max() > 20 > np.ptp(far.reshape(-1, 3), axis=0).max()
    wrong = vpd_command(*words, tmp_path / "no", "--near-m", "5", "--far-m", "2")
    assert wrong.status == 2 and "Colours cannot go from near_m=5.0 to far_m=2.0" in wrong.err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("task", WORDS)
def test_fast(
    vpd_command: Command, models: Models, photos: Path, tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch
):
    """The same files of nearly the same model; the manifest says how, and a run goes on only as it began."""
    kept: list[bool] = []
    monkeypatch.setattr("vpd.inference.heap.keep_heap", lambda: kept.append(True))
    words = ["predict", task, photos, "--model", models[task], *WORDS[task]]
    slow, fast, exact = (tmp_path / name for name in ("slow", "fast", "exact"))
    assert vpd_command(*words, "--out", slow).status == 0 and not kept
    assert vpd_command(*words, "--out", fast, "--fast").status == 0 and kept == [True]
    assert vpd_command(*words, "--out", exact, "--fast", "--dtype", "float32").status == 0
    assert [line["options"].get("fast") for line in manifest(fast) + manifest(exact)] == ["auto"] * 3 + ["float32"] * 3
    assert [line["fingerprint"] for line in manifest(fast)] == [line["fingerprint"] for line in manifest(slow)]
    for line in manifest(slow):
        wanted, near, same = (np.asarray(Image.open(out / line["data"]), np.float32) for out in (slow, fast, exact))
        if task == "depth":
            np.testing.assert_allclose(same, wanted, atol=1)
            assert np.abs(near / wanted - 1).mean() < 0.01
        else:
            assert (same == wanted).mean() > 0.999 and (near == wanted).mean() > 0.9


def test_memory_can_be_kept_without_more(
    vpd_command: Command, models: Models, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept: list[bool] = []
    monkeypatch.setattr("vpd.inference.heap.keep_heap", lambda: kept.append(True))
    words = ["predict", "segment", photos, "--model", models["segment"], "--out", tmp_path / "out", "--keep-heap"]
    assert vpd_command(*words).status == 0 and kept == [True]
    assert "fast" not in manifest(tmp_path / "out")[0]["options"]


@pytest.mark.parametrize(
    ("task", "how"), [("segment", "in windows of"), ("depth", "in windows of"), ("refer", "at a short")]
)
def test_a_budget(
    vpd_command: Command, models: Models, tmp_path: Path, task: str, how: str, monkeypatch: pytest.MonkeyPatch
):
    """A big picture is run otherwise and that is said; one that fits is not; one too big for anything is skipped."""
    returned: list[bool] = []
    monkeypatch.setattr("vpd.inference.heap.return_heap", lambda: returned.append(True))
    monkeypatch.setattr("vpd.inference.plan.ONCE_BYTES", 0)
    monkeypatch.setattr("vpd.inference.plan.network_bytes", lambda _, images, text: 400 * math.prod(images))
    Image.effect_noise((420, 300), 80).convert("RGB").save(tmp_path / "big.png")
    Image.effect_noise((70, 50), 80).convert("RGB").save(tmp_path / "small.png")
    words = ["predict", task, tmp_path / "big.png", tmp_path / "small.png", "--model", models[task], *WORDS[task]]
    words += ["--size", 512 if task == "refer" else 300]
    out = tmp_path / "out"
    result = vpd_command(*words, "--out", out, "--memory", "45MB")
    assert result.status == 0 and returned == [True], result.err
    lines = {Path(line["source"]).stem: line for line in manifest(out)}
    assert lines["big"]["note"].startswith(how) and lines["big"]["options"]["memory"] == "45MB"
    assert re.search(rf"To stay within 45MB, (1 image was|\d images were) run {how}", result.out)
    again = vpd_command(
        *words, "--size", 512 if task == "refer" else 300, "--out", tmp_path / "none", "--memory", "1MB"
    )
    assert again.status == 1 and "1 MB are allowed" in again.err and "big.png" in again.err


def test_budgets_that_are_none(vpd_command: Command, models: Models, photos: Path, tmp_path: Path):
    words = ["predict", "segment", photos, "--model", models["segment"], "--out", tmp_path / "out"]
    result = vpd_command(*words, "--memory", "lots")
    assert result.status == 2 and "memory='lots'" in result.err and "4GB" in result.err
    result = vpd_command(*words, "--memory", "4GB", "--keep-heap")
    assert result.status == 2 and "Give one of the two" in result.err


def test_fast_in_a_precision_that_is_none(
    vpd_command: Command, models: Models, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vpd.inference.heap.keep_heap", lambda: True)
    words = ["predict", "segment", photos, "--model", models["segment"], "--out", tmp_path / "out"]
    result = vpd_command(*words, "--fast", "--dtype", "int7")
    assert result.status == 2 and "Unknown dtype 'int7'" in result.err


def test_what_was_left_out_and_how_pictures_were_read_is_told(
    vpd_command: Command, models: Models, photos: Path, tmp_path: Path
):
    (photos / "c.heic").touch()
    Image.new("P", (4, 4)).save(photos / "d.gif")
    grey = np.arange(7000, 7400, dtype=np.uint16).reshape(20, 20)
    Image.fromarray(grey).save(photos / "thermal.png")
    Image.fromarray(grey).save(photos / "warm.png")
    Image.new("RGB", (8, 8)).save(photos / "e.webp", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    words = ["predict", "segment", photos, "--model", models["segment"], "--out", tmp_path / "out"]
    result = vpd_command(*words)
    assert result.status == 0
    left_out = "1 .heic (to read it: pip install pillow-heif), 1 .gif (a clip: name it to predict it)"
    assert "Left out: " in result.out and "1 frame after the first" in result.out
    assert all(part in result.out for part in left_out.split(", "))
    assert f"vpd: note: {photos / 'e.webp'}: first of 2 frames\n" in result.err
    assert f"{photos / 'thermal.png'}: uses 1 % of its range; stretch it by --stretch" in result.err
    assert result.err.count("of its range") == 1 and "and 1 more like it" in result.err
    lines = {Path(line["source"]).name: line for line in manifest(tmp_path / "out")}
    assert lines["e.webp"]["frames"] == 2 and "image_notes" not in lines["a.jpg"]
    assert lines["warm.png"]["image_notes"][0].startswith("uses 1 % of its range")
    words[-1] = tmp_path / "stretched"
    result = vpd_command(*words, "--stretch")
    assert "of its range" not in result.err
    assert all(line["options"]["stretch"] for line in manifest(tmp_path / "stretched"))
    result = vpd_command(*words)
    assert result.status == 2 and "stretch: True there, none now" in result.err


def test_depth_without_a_scene_says_what_it_took(vpd_command: Command, models: Models, photos: Path, tmp_path: Path):
    vpd_command("predict", "depth", photos / "a.jpg", "--model", models["depth"], "--out", tmp_path / "out")
    assert "mean" in manifest(tmp_path / "out")[0]["scene"]


def test_bad_images_are_named_and_skipped(vpd_command: Command, models: Models, photos: Path, tmp_path: Path):
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("no image")
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:700])
    sources = [photos, photos / "absent.jpg"]
    result = vpd_command("predict", "segment", *sources, "--model", models["segment"], "--out", tmp_path / "out")
    assert result.status == 1
    assert "3 images predicted, 0 were there already, 4 skipped" in result.out
    for name in ("empty.jpg", "text.png", "cut.jpg", "absent.jpg"):
        assert f"vpd: skipped {photos / name}: " in result.err
    assert "Traceback" not in result.err
    assert len(manifest(tmp_path / "out")) == 3
    assert len(list((tmp_path / "out").rglob("*.*"))) == 2 * 3 + 1


@pytest.mark.parametrize(
    ("task", "words", "said"),
    [
        ("refer", [], "needs words: --text"),
        ("refer", ["--text", " "], "needs words: --text"),
        ("segment", ["--text", "a dog"], "--text belongs to `vpd predict refer`; segment has no use for it"),
        ("depth", ["--classes", "sky"], "--classes belongs to `vpd predict segment`"),
        ("refer", ["--text", "a", "--scene", "kitchen"], "--scene belongs to `vpd predict depth`"),
        ("depth", ["--scene", "kichen"], "does not know the scene 'kichen'. It knows: kitchen, office"),
        ("segment", ["--classes", "sky,dog"], "cannot predict dog"),
        ("segment", ["--device", "abacus"], "There is no device 'abacus'"),
        ("segment", ["--dtype", "float12"], "Unknown dtype 'float12'"),
        ("segment", ["--shard", "0/4"], "--shard 0/4: give the number of this job"),
        ("segment", ["--shard", "slurm"], "--shard slurm works in a SLURM job array"),
        ("segment", ["--workers", "2"], "--workers belongs to --engine ray"),
    ],
)
def test_wrong_requests(
    vpd_command: Command, models: Models, photos: Path, tmp_path: Path, task: str, words: list[str], said: str
):
    result = vpd_command("predict", task, photos, "--model", models[task], "--out", tmp_path / "out", *words)
    assert result.status == 2
    assert result.err.startswith("vpd: ")
    assert said in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists()


def test_shards_write_into_one_folder(
    vpd_command: Command, models: Models, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    words = ["predict", "segment", photos, "--model", models["segment"], "--out", out, "--shard"]
    result = vpd_command(*words, "1/2")
    assert (result.status, result.out.splitlines()) == (
        0,
        [
            f"2 images predicted, 0 were there already, 0 skipped: {out}",
            f"Shard 1/2 of 3 images; {out / 'predictions.jsonl'}: it is made when all shards are done.",
        ],
    )
    for name, value in {"ID": "7", "MIN": "6", "MAX": "7", "COUNT": "2"}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    result = vpd_command(*words, "slurm")
    assert result.status == 0
    assert "Shard 2/2 of 3 images; " in result.out
    assert "all shards are done" in result.out
    assert [line["data"] for line in manifest(out)] == ["a.png", "b.png", "more/a.png"]


def test_ray_that_is_not_installed(
    vpd_command: Command, models: Models, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    words = ["predict", "segment", photos, "--model", models["segment"], "--out", tmp_path / "out", "--engine", "ray"]
    result = vpd_command(*words)
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert 'pip install "vpd-perception[ray]"' in result.err
    assert not (tmp_path / "out").exists()


def test_a_model_of_another_task(vpd_command: Command, models: Models, photos: Path, tmp_path: Path):
    result = vpd_command("predict", "segment", photos, "--model", models["depth"], "--out", tmp_path / "out")
    assert result.status == 2
    assert "is a model for depth, but" in result.err and "`vpd predict depth ...`" in result.err
    assert not (tmp_path / "out").exists()


def test_sources_and_folders_that_cannot_be_used(vpd_command: Command, models: Models, photos: Path, tmp_path: Path):
    end = ["--model", models["segment"], "--out"]
    (tmp_path / "none").mkdir()
    for source, out, said in (
        (tmp_path / "none", tmp_path / "out", "no images in"),
        (photos / "*.webp", tmp_path / "out", "no images in"),
        ("clip.mp4", tmp_path / "out", "clip.mp4: no such file"),
        (photos, photos, "cannot take the output"),
        (photos / "b.png", photos, "would overwrite the image"),
        (photos, photos / "a.jpg", "it is a file"),
    ):
        result = vpd_command("predict", "segment", source, *end, out)
        assert (result.status, result.err.count("\n")) == (2, 1)
        assert said in result.err
        assert not (tmp_path / "out").exists()


def test_other_options_need_another_folder(vpd_command: Command, models: Models, photos: Path, tmp_path: Path):
    words = ["predict", "refer", photos, "--model", models["refer"], "--out", tmp_path / "out"]
    assert vpd_command(*words, "--text", "a dog").status == 0
    result = vpd_command(*words, "--text", "a cat")
    assert result.status == 2
    assert "text: a dog there, a cat now" in result.err
    assert "another --out" in result.err


def test_classes_choose_among_a_models_own(vpd_command: Command, models: Models, photos: Path, tmp_path: Path):
    words = ["predict", "segment", photos / "a.jpg", "--model", models["segment"], "--out", tmp_path / "out"]
    assert vpd_command(*words, "--classes", "car; sky").status == 0
    line = manifest(tmp_path / "out")[0]
    assert line["options"]["classes"] == ["car", "sky"]
    assert {entry["name"] for entry in line["classes"]} <= {"car", "sky"}
    with Image.open(tmp_path / "out" / "a.png") as data:
        assert json.loads(data.info["classes"]) == ["car", "sky"]


@pytest.mark.parametrize("size", [(1, 1), (1000, 97), (333, 77)], ids=str)
def test_odd_sizes_come_back_as_they_went(vpd_command: Command, models: Models, tmp_path: Path, size: tuple[int, int]):
    Image.new("RGB", size, "green").save(tmp_path / "odd.png")
    result = vpd_command(
        "predict", "depth", tmp_path / "odd.png", "--model", models["depth"], "--out", tmp_path / "out"
    )
    assert result.status == 0
    with Image.open(tmp_path / "out" / "odd.png") as data:
        assert data.size == size


def test_a_model_folder_takes_no_predictions_and_says_so_at_once(vpd_command: Command, models: Models, photos: Path):
    out = models["depth"]
    result = vpd_command("predict", "depth", photos, "--model", "no-model", "--out", out)
    assert result.status == 2
    assert result.err == f"vpd: {out} holds a model (model.safetensors). Remove it, or give another folder.\n"


def test_words_that_fit_nothing_are_told(
    vpd_command: Command, models: Models, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vpd.tasks.predictions.MaskPrediction.facts", lambda _: {"box": None})
    words = ["predict", "refer", photos, "--model", models["refer"], "--out", tmp_path / "out", *WORDS["refer"]]
    assert "In 3 images of these nothing was found" in vpd_command(*words).out
    facts: dict[str, object] = {"box": [0, 0, 5, 5], "presence": 0.1}
    for is_calibrated in (False, True):
        facts["presence_is_calibrated"] = is_calibrated
        monkeypatch.setattr("vpd.tasks.predictions.MaskPrediction.facts", lambda _: dict(facts))
        words[words.index("--out") + 1] = tmp_path / f"found-{is_calibrated}"
        told = vpd_command(*words).out
        assert "nothing was found" not in told
        assert ("In 3 images of these the text probably fits nothing (presence below 0.2)" in told) == is_calibrated


def test_ctrl_c_says_how_far_it_came(vpd_command: Command, models: Models, photos: Path, tmp_path: Path, monkeypatch):
    from vpd.prediction_jobs.job import PredictionJob

    run = PredictionJob.run

    def interrupted(self: PredictionJob, engine: Any) -> Any:
        yield next(run(self, engine))
        raise KeyboardInterrupt

    words = ["predict", "depth", photos, "--model", models["depth"], "--out", tmp_path / "out"]
    monkeypatch.setattr(PredictionJob, "run", interrupted)
    result = vpd_command(*words)
    assert (result.status, result.err) == (130, "vpd: stopped after 1 of 3; the same command goes on.\n")
    monkeypatch.setattr(PredictionJob, "run", run)
    assert "2 images predicted, 1 were there already" in vpd_command(*words).out


def test_a_text_that_fits_nothing(vpd_command: Command, models: Models, photos: Path, tmp_path: Path):
    words = ["predict", "refer", photos, "--model", models["refer"], "--text", "a dog", "--threshold", 0.01]
    result = vpd_command(*words, "--out", tmp_path / "all")
    assert result.status == 0 and "nothing was found" not in result.out
    lines = manifest(tmp_path / "all")
    assert all(0 < line["presence"] < 1 and not line["presence_is_calibrated"] for line in lines)
    result = vpd_command(*words, "--min-presence", 1, "--out", tmp_path / "none")
    assert result.status == 0 and "In 3 images of these nothing was found" in result.out
    assert all(line["box"] is None and line["options"]["min_presence"] == 1 for line in manifest(tmp_path / "none"))


@pytest.mark.parametrize(
    ("task", "words", "told"),
    [
        ("refer", ["--text", "a", "--threshold", "2"], "threshold=2.0: give a probability between 0 and 1"),
        ("refer", ["--text", "a", "--min-presence", "50"], "min_presence=50.0: give a number from 0"),
        ("depth", ["--min-presence", "0.5"], "--min-presence belongs to `vpd predict refer`"),
    ],
)
def test_wrong_thresholds_write_nothing(
    vpd_command: Command, models: Models, photos: Path, tmp_path: Path, task: str, words: list[str], told: str
):
    result = vpd_command("predict", task, photos, "--model", models[task], "--out", tmp_path / "out", *words)
    assert result.status == 2 and told in result.err and not (tmp_path / "out").exists()
