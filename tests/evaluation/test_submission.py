"""Predictions in the benchmarks' formats, read back as their tools would."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from hand_made import Samples
from vpd.data.sample import CountedDepth, Sample
from vpd.errors import UsageError
from vpd.evaluation.submission import Submission
from vpd.tasks.predictions import DepthPrediction, MaskPrediction, SegmentationPrediction

GREY = Image.new("RGB", (3, 2))


def sample(name: str) -> Sample:
    return Sample(name, np.zeros((2, 3, 3), np.uint8))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def segmentation(labels: list[list[int]]) -> SegmentationPrediction:
    return SegmentationPrediction(torch.tensor(labels, dtype=torch.uint8), ("a", "b", "c"), GREY)


def test_labels_have_the_numbers_of_the_benchmark(tmp_path: Path):
    samples = Samples()
    submission = Submission(tmp_path / "plain", samples)
    labels = [[0, 1, 2], [2, 1, 0]]
    assert submission.keep(sample("town/one"), segmentation(labels)) == {"name": "town/one", "file": "town/one.png"}
    assert read(tmp_path / "plain" / "town" / "one.png").tolist() == labels
    samples.label_values = (7, 11, 33)
    Submission(tmp_path / "ids", samples).keep(sample("one"), segmentation(labels))
    written = read(tmp_path / "ids" / "one.png")
    assert written.dtype == np.uint8 and written.tolist() == [[7, 11, 33], [33, 11, 7]]
    Submission(tmp_path / "none", samples).keep(sample("one"), segmentation([[0, 255, 2], [2, 1, 0]]))
    assert read(tmp_path / "none" / "one.png").tolist() == [[7, 255, 33], [33, 11, 7]]


@pytest.mark.parametrize(
    ("far_m", "model_far_m", "steps_a_metre"),
    [(10.0, 80.0, 1000), (80.0, 60.0, 256), (None, 10.0, 1000), (None, 80.0, 256)],
)
def test_depth_has_the_step_of_the_benchmark(tmp_path: Path, far_m, model_far_m: float, steps_a_metre: int):
    samples = Samples()
    samples.counted = CountedDepth(max_depth_m=far_m)
    depth_m = torch.tensor([[0.5, 2.0, 9.75], [1.25, 3.0, 7.5]])
    Submission(tmp_path, samples).keep(sample("d"), DepthPrediction(depth_m, model_far_m, None, GREY))
    written = read(tmp_path / "d.png")
    assert written.dtype == np.uint16
    assert written.tolist() == (depth_m * steps_a_metre).int().tolist()


def test_masks_are_run_lengths_that_coco_reads(tmp_path: Path):
    mask = torch.tensor([[True, False, True], [True, True, False]])
    submission = Submission(tmp_path, Samples())
    prediction = MaskPrediction(mask, mask.float(), "the „left” one", GREY)
    record = submission.keep(sample("../anywhere"), prediction)  # no file, so any name will do
    submission.write_index([record, None])
    first, second = (json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines())
    assert (first["name"], first["text"], second) == ("../anywhere", "the „left” one", None)
    assert first["segmentation"]["size"] == [2, 3]
    assert coco.decode(first["segmentation"]).astype(bool).tolist() == mask.tolist()


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/absolute/out", "", "link/out", "nul\0"])
def test_names_stay_in_the_folder(tmp_path: Path, name: str):
    folder = tmp_path / "predictions"
    submission = Submission(folder, Samples())
    (tmp_path / "elsewhere").mkdir()
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="this name leads out of"):
        submission.keep(sample(name), segmentation([[0]]))
    assert [path.name for path in tmp_path.rglob("*.png")] == []


def test_samples_of_one_name_are_not_handed_in(tmp_path: Path):
    submission = Submission(tmp_path, Samples())
    records = [submission.keep(sample(name), segmentation([[0]])) for name in ("a", "b", "a")]
    with pytest.raises(UsageError, match=r"1 files were written for more than one sample, first a\.png: the data has"):
        submission.write_index(records)
    assert not (tmp_path / "predictions.jsonl").exists()
    assert submission.write_index(records[:2]).is_file()


def test_files_that_no_evaluation_wrote_stay(tmp_path: Path):
    Image.new("L", (3, 2), 7).save(tmp_path / "a.png")
    before, made = (tmp_path / "a.png").read_bytes(), segmentation([[1]])
    with pytest.raises(UsageError, match=f"would write over 1 file that it did not make: {tmp_path}/a.png. Give anoth"):
        Submission(tmp_path, Samples()).keep(sample("b"), made)  # at the first sample, not when its turn comes
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"] and (tmp_path / "a.png").read_bytes() == before
    (tmp_path / "a.png").unlink()
    (tmp_path / ".tmp-0123.png").touch()  # of another process that writes
    Submission(tmp_path, Samples()).keep(sample("b"), made)  # killed before the index
    again = Submission(tmp_path, Samples())
    again.write_index([again.keep(sample("b"), made)])
    Image.new("L", (3, 2)).save(tmp_path / "b.png")  # as earlier versions wrote it, without a mark, but it is listed
    Submission(tmp_path, Samples()).keep(sample("b"), made)
    assert read(tmp_path / "b.png").tolist() == [[1]]
    for content in ('{"source": "/a.jpg", "data": "a.png"}\n', "notes", "[]\n"):
        (tmp_path / "predictions.jsonl").write_text(content)
        with pytest.raises(UsageError, match=f"did not make: {tmp_path}/predictions.jsonl"):
            Submission(tmp_path, Samples())
        assert (tmp_path / "predictions.jsonl").read_text() == content


def test_a_name_with_dots_inside_is_no_harm(tmp_path: Path):
    Submission(tmp_path, Samples()).keep(sample("munich_000000.000019"), segmentation([[1]]))
    assert (tmp_path / "munich_000000.000019.png").is_file()
