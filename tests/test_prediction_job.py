import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vpd.errors import UsageError
from vpd.files import read_json_lines
from vpd.prediction_job import MANIFEST, PredictionJob, fingerprint
from vpd.predictions import SegmentationPrediction


class Thresholder:
    """Stands for a model: bright pixels are class 1."""

    dtype = torch.float32

    def __init__(self, weight: float = 1.0, most_at_once: int = 99, shortage: Exception | None = None) -> None:
        self.config = SimpleNamespace(task="segment", model_dump_json=lambda: "{}")
        self.weight = torch.tensor([weight])
        self.most_at_once = most_at_once
        self.shortage = shortage or torch.OutOfMemoryError()
        self.batches: list[int] = []

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}

    def predict(self, images: list[Image.Image], *, batch_size: int, **options: Any) -> list[SegmentationPrediction]:
        if options.get("classes") == ["unknown"]:
            raise UsageError("no such class")
        if len(images) > self.most_at_once:
            raise self.shortage
        self.batches.append(len(images))
        return [
            SegmentationPrediction(
                labels=torch.from_numpy((np.asarray(image.convert("L")) > 127).astype(np.uint8)),
                classes=("dark", "bright"),
                image=image,
            )
            for image in images
        ]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(5):
        Image.new("RGB", (6 + index, 4), "white" if index % 2 else "black").save(folder / f"{index}.png")
    return folder


def job(model: Any, photos: Path, out: Path, batch_size: int = 2, **options: Any) -> PredictionJob:
    return PredictionJob(model, [str(photos)], out, model_name="m", options=options, batch_size=batch_size)


def test_every_image_gets_data_picture_and_line(photos: Path, tmp_path: Path):
    model = Thresholder()
    outcomes = list(job(model, photos, tmp_path / "out", size=64, text=None).run())
    assert [outcome.error for outcome in outcomes] == [None] * 5
    assert model.batches == [2, 2, 1]
    lines = read_json_lines(tmp_path / "out" / MANIFEST)
    assert [Path(line["source"]).name for line in lines] == [f"{index}.png" for index in range(5)]
    line = lines[3]
    assert (line["height"], line["width"], line["data"]) == (4, 9, "3.png")
    assert line["options"] == {"size": 64, "dtype": "float32"}
    assert line["classes"] == [{"label": 1, "name": "bright", "share": 1.0}]
    with Image.open(tmp_path / "out" / "3.png") as labels:
        assert np.asarray(labels).tolist() == [[1] * 9] * 4
    with Image.open(tmp_path / "out" / line["picture"]) as picture:
        assert picture.format == "JPEG"


def test_a_stopped_job_goes_on(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    run = job(Thresholder(), photos, out).run()
    for _ in range(3):
        next(run)
    run.close()
    again = Thresholder()
    rest = job(again, photos, out)
    assert [item.name for item in rest.pending] == ["3", "4"]
    assert len(list(rest.run())) == sum(again.batches) == 2
    assert job(again, photos, out).pending == []
    assert len(read_json_lines(out / MANIFEST)) == 5


def test_what_is_damaged_since_is_done_again(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    list(job(Thresholder(), photos, out).run())
    (out / "0.png").unlink()
    (out / "1.overlay.jpg").unlink()
    Image.new("RGB", (50, 40), "red").save(photos / "2.png")
    lines = (out / MANIFEST).read_text().splitlines(keepends=True)
    (out / MANIFEST).write_text("".join(lines[:4]) + lines[4][:30])  # torn by a crash
    (photos / "3.png").unlink()  # finished and gone: nothing to do
    again = job(Thresholder(), photos, out)
    assert [item.name for item in again.pending] == ["0", "1", "2", "4"]
    assert all(outcome.error is None for outcome in again.run())
    assert job(Thresholder(), photos, out).pending == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 32}, "size: 64 there, 32 now"),
        ({"classes": ["a"]}, r"classes: None there, \['a'\] now"),
        ({"model": Thresholder(weight=2.0)}, "fingerprint: .* there, .* now"),
    ],
)
def test_a_folder_holds_predictions_of_one_kind(photos: Path, tmp_path: Path, changes: dict[str, Any], said: str):
    list(job(Thresholder(), photos, tmp_path / "out", size=64).run())
    model = changes.pop("model", Thresholder())
    with pytest.raises(UsageError, match=rf"made differently \({said}.*another --out"):
        job(model, photos, tmp_path / "out", **{"size": 64, **changes})


def test_bad_images_are_named_and_the_rest_is_done(photos: Path, tmp_path: Path):
    (photos / "1.png").write_bytes(b"")
    (photos / "2.png").write_text("no image")
    Image.effect_noise((64, 64), 50).save(photos / "3.png")
    (photos / "3.png").write_bytes((photos / "3.png").read_bytes()[:2000])
    outcomes = list(job(Thresholder(), photos, tmp_path / "out", batch_size=3).run())
    errors = {outcome.source.name: outcome.error for outcome in outcomes if outcome.error}
    assert sorted(errors) == ["1.png", "2.png", "3.png"]
    assert all(str(photos / name) in error for name, error in errors.items())
    assert sorted(path.name for path in (tmp_path / "out").glob("?.png")) == ["0.png", "4.png"]
    assert not list((tmp_path / "out").glob(".tmp-*"))


def test_a_batch_too_large_for_memory_is_taken_apart(photos: Path, tmp_path: Path):
    model = Thresholder(most_at_once=1)
    outcomes = list(job(model, photos, tmp_path / "out", batch_size=4).run())
    assert [outcome.error for outcome in outcomes] == [None] * 5
    assert model.batches == [1] * 5


@pytest.mark.parametrize(
    "shortage", [MemoryError(), torch.OutOfMemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_an_image_too_large_for_memory_is_named(photos: Path, tmp_path: Path, shortage: Exception):
    outcomes = list(job(Thresholder(most_at_once=0, shortage=shortage), photos, tmp_path / "out").run())
    assert all("not enough memory" in (outcome.error or "") for outcome in outcomes)


def test_mistakes_inside_a_model_are_not_hidden(photos: Path, tmp_path: Path):
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(
            job(Thresholder(most_at_once=0, shortage=RuntimeError("shapes do not fit")), photos, tmp_path / "out").run()
        )


def test_a_manifest_cannot_lead_out_of_its_folder(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    lines = [{"source": str(photos / "0.png"), "data": data} for data in ("../0.png", str(tmp_path / "0.png"), 3)]
    (out / MANIFEST).write_text("".join(json.dumps(line) + "\n" for line in [*lines, [], "x"]))
    assert job(Thresholder(), photos, out).items[0].data == "0.png"


def test_nothing_is_made_for_a_wrong_request(tmp_path: Path):
    with pytest.raises(UsageError, match="no images"):
        job(Thresholder(), tmp_path, tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists()


def test_what_the_model_refuses_ends_the_job(photos: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="no such class"):
        list(job(Thresholder(), photos, tmp_path / "out", classes=["unknown"]).run())


def test_file_names_of_any_kind_come_back_from_the_manifest(tmp_path: Path):
    folder = tmp_path / "фото"
    folder.mkdir()
    odd = folder / "a\udcff 'b\n.png"  # not UTF-8 on disk
    Image.new("RGB", (4, 4)).save(odd)
    list(job(Thresholder(), folder, tmp_path / "out").run())
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["source"] == str(odd)
    assert job(Thresholder(), folder, tmp_path / "out").pending == []


def test_fingerprints_tell_weights_and_types_apart():
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "c": torch.tensor([True, False])}
    same = {name: tensor.clone() for name, tensor in reversed(weights.items())}
    assert fingerprint("{}", weights) == fingerprint("{}", same) != fingerprint('{"classes": 2}', weights)
    changed = weights["a"].clone()
    changed[1, 2] += 1e-6
    for other in (
        {**weights, "a": changed},
        {**weights, "a": weights["a"].bfloat16()},
        {**weights, "b": torch.tensor(4)},
    ):
        assert fingerprint("{}", other) != fingerprint("{}", weights)
