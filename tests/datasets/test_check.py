from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_layouts import (
    as_python_2,
    write_ade20k,
    write_cityscapes,
    write_kitti,
    write_nyu,
    write_refcoco,
)
from vpd.data.sample import CountedDepth, Sample
from vpd.datasets.check import check_data
from vpd.datasets.findings import SplitFindings
from vpd.datasets.layouts import LAYOUTS
from vpd.datasets.plain_pickle import read_plain_pickle
from vpd.errors import UsageError


def split_of(report, name):
    return next(split for split in report.splits if split.split == name)


def text_of(report):
    return "\n".join(line for split in report.splits for line in split.lines())


# What is right


def test_a_good_folder(folder_root):
    report = check_data("folder", folder_root)
    assert report.problems == []
    train = split_of(report, "train")
    assert train.samples == 2 and train.sizes == {(8, 6): 2}
    assert train.pixels_of_class == {"sky": 46, "road": 0, "car": 48, "(ignored)": 2}
    lines = train.lines()
    assert lines[0] == "train: 2 samples; 0 problems"
    assert "  sizes (width x height): 8x6 (2)" in lines and "  classes without a pixel: road" in lines
    assert "  pixels: car 50.0 %, sky 47.9 %, (ignored) 2.1 %" in lines


def test_depth_and_referring_figures(nyu_root, refer_root):
    train = check_data("nyu", nyu_root).splits[0]
    assert train.depth_m == pytest.approx((1.045, 1.046)) and train.scenes == {"study": 1, "kitchen": 1}
    assert "  depth: 1.045 to 1.046 m; measured: 97.9 % of pixels" in train.lines()
    train = split_of(check_data("refcoco", refer_root), "train")
    assert (train.samples, len(train.expressions)) == (2, 4)
    assert "  expressions: at most 6 words, 8 tokens" in train.lines()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("ade20k", write_ade20k),
        ("cityscapes", write_cityscapes),
        ("nyu", write_nyu),
        ("kitti", write_kitti),
        ("refcoco", write_refcoco),
        ("refcoco+", lambda root: write_refcoco(root, dataset="refcoco+")),
        ("refcocog", lambda root: write_refcoco(root, dataset="refcocog")),
    ],
)
def test_a_part_of_a_benchmark_is_no_problem(tmp_path, name, write, monkeypatch):
    full = LAYOUTS[name].full
    root = write(tmp_path)
    report = check_data(name, root)
    assert report.problems == [] and report.notes == ()
    assert {split.split: split.full for split in report.splits}.items() <= full.items()
    found = {split.split: len(split.expressions) or split.samples for split in report.splits}
    for split in report.splits:
        missing = full[split.split] - found[split.split]
        assert f"a part: {missing:,} of the published {full[split.split]:,} are missing" in split.lines()[0]
    monkeypatch.setitem(LAYOUTS, name, replace(LAYOUTS[name], full=found))
    assert all(", complete; 0 problems" in split.lines()[0] for split in check_data(name, root).splits)
    monkeypatch.setitem(
        LAYOUTS, name, replace(LAYOUTS[name], full={**dict.fromkeys(found, 1), "extra": 1, "official_train": 9})
    )
    report = check_data(name, root)
    assert report.notes == ("not there: extra",)
    assert "more than the published 1; 0 problems" in text_of(report)


def test_another_split_or_list_is_not_held_against_the_usual_one(tmp_path):
    write_refcoco(tmp_path, dataset="refcocog", split_by="google")
    report = check_data("refcocog", tmp_path, options={"split_by": "google"})
    assert [(split.split, split.full) for split in report.splits] == [("train", None), ("val", None)]
    assert "3 of its 3 pictures are in train too" in text_of(report)
    root = write_kitti(tmp_path / "kitti", style="bts")
    report = check_data("kitti", root, options={"list_file": root / "eigen_test_files_with_gt.txt"})
    assert split_of(report, "test").full is None and "lines without depth: 1" in text_of(report)


# What is wrong


def test_everything_wrong_is_named_once(folder_root, picture):
    picture(folder_root / "images/val/lone.jpg")
    (folder_root / "labels/train/b2.png").write_text("text")
    (folder_root / "images/train/b10.jpg").write_bytes(b"")
    problems = check_data("folder", folder_root).problems
    assert len(problems) == 3
    for words in (("lone", "no label"), ("labels/train/b2.png: not an image",), ("b10.jpg: the file is empty",)):
        assert sum(all(word in problem for word in words) for problem in problems) == 1


def test_files_without_partner(tmp_path):
    root = write_ade20k(tmp_path / "ade")
    (root / "annotations/training/ADE_train_00000002.png").unlink()
    (problem,) = check_data("ade20k", root).problems
    assert "ADE_train_00000002.jpg: no annotation" in problem
    root = write_cityscapes(tmp_path / "city", width=32, height=16)
    (root / "leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit.png").unlink()
    (problem,) = check_data("cityscapes", root).problems
    assert "frankfurt_000000_000019_gtFine_labelIds.png: no image" in problem


def test_list_lines_to_missing_files_and_8_bit_depth(tmp_path):
    root = write_nyu(tmp_path / "nyu")
    (root / "sync/study_room_0004/sync_depth_00046.png").unlink()
    depth = root / "official_splits/test/bathroom/sync_depth_00045.png"
    Image.fromarray(np.ones((480, 640), np.uint8)).save(depth)
    problems = check_data("nyu", root).problems
    assert problems == [
        f"{root}/sync/study_room_0004/sync_depth_00046.png: no such file; {root}/train_list.txt, line 3 names it",
        f"{depth}: depth needs one channel of 16 bits or float; this picture has one channel of 8 bits (grey), "
        "which is depth made visible. Save what was measured, in millimetres: "
        "Image.fromarray((depth_m * 1000).round().astype('uint16')).save('NAME.png')",
    ]


def test_names_that_stand_twice_and_empty_splits(nyu_root):
    path = nyu_root / "train_list.txt"
    first = path.read_text().splitlines()[0]
    path.write_text(f"{first}\n{first}\n")
    assert check_data("nyu", nyu_root).problems == [
        "train/study_room_0004/rgb_00045: the name stands twice in this split"
    ]
    path.write_text("")
    (problem,) = check_data("nyu", nyu_root).problems
    assert "the train split has no pair" in problem


def test_content_that_teaches_nothing(folder_root, nyu_root, refer_root, grey, edit_json):
    grey(folder_root / "labels/val/v1.png", np.full((6, 8), 255, dtype=np.uint8))
    overall, single = check_data("folder", folder_root).problems
    assert overall.startswith("val: every pixel is ignored") and single == "val/v1: every pixel is ignored"
    grey(nyu_root / "sync/study_room_0004/sync_depth_00045.png", np.zeros((6, 8), dtype=np.uint16))
    grey(nyu_root / "sync/kitchen_0028b/sync_depth_00046.png", np.full((6, 8), 10_500, dtype=np.uint16))
    overall, *single = check_data("nyu", nyu_root).problems
    assert overall.startswith("train: 100.0 % of the measured pixels are at or beyond max_depth_m=10")
    assert single == [
        "train/study_room_0004/rgb_00045: no pixel has a depth",
        "train/kitchen_0028b/rgb_00046: depth is 10.500 to 10.500 m; only less than 10 m counts",
    ]
    edit_json(
        refer_root / "refcoco/instances.json",
        lambda content: content["annotations"][2].update(segmentation=[[20, 0, 24, 0, 24, 4]]),
    )
    assert check_data("refcoco", refer_root).problems == [
        "val: every mask is empty: object pixels must be above 0",
        "val/ref_3: the mask is empty",
        "val/ref_3: a polygon reaches 15 px out of COCO_train2014_000000000008.jpg",
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda a: a[2]["segmentation"].update(size=[9, 6]), "run lengths are for size [9, 6], the picture has [6, 9]"),
        (lambda a: a[2]["segmentation"].update(counts=[1, 2]), "run lengths do not add up to 6x9 pixels"),
        (lambda a: a[2].update(segmentation=[[1e6, 0, 1, 0, 1, 1]]), "polygon point 1000000.0 is no place in or near"),
        (lambda a: a[2].update(segmentation=[[-3, 0, 6, 0, 6, 5]]), "val/ref_3: a polygon reaches 3 px out of COCO"),
        (lambda a: a[2].update(segmentation=[[0, 0, 6, 0, 6, 9]]), "val/ref_3: a polygon reaches 3 px out of COCO"),
    ],
)
def test_bad_masks(refer_root, edit_json, change, problem):
    edit_json(refer_root / "refcoco/instances.json", lambda content: change(content["annotations"]))
    (told,) = check_data("refcoco", refer_root).problems
    assert problem in told


def test_points_on_the_border_are_right(refer_root, edit_json):
    edit_json(
        refer_root / "refcoco/instances.json",
        lambda content: content["annotations"][2].update(segmentation=[[-0.5, 0, 9.9, 0, 9.9, 6.5]]),
    )
    assert check_data("refcoco", refer_root).problems == []


def test_expressions_that_the_text_encoder_cuts_or_hardly_knows_are_counted(refer_root):
    path = refer_root / "refcoco/refs(unc).p"
    records = read_plain_pickle(path)
    sentences = records[0]["sentences"]
    for sentence, text in zip(sentences, ("dog " * 39, "dog " * 38, "красная чашка"), strict=True):
        sentence["sent"] = text.strip()
    records[1]["sentences"][0]["sent"] = "red " * 80
    path.write_bytes(as_python_2(records))
    report = check_data("refcoco", refer_root)
    assert report.problems == []
    lines = split_of(report, "train").lines()
    assert "  expressions: at most 80 words, 82 tokens" in lines
    assert "  2 expressions of more than 40 tokens lose their ends at that token_length" in lines
    assert "  1 expression of more than 77 tokens loses its end at that token_length" in lines
    assert "  1 expression in another alphabet, which CLIP's text encoder hardly knows" in lines
    assert not [line for line in split_of(report, "val").lines() if "tokens" in line and "lose" in line]


def test_class_list_of_the_wrong_length(tmp_path):
    root = write_ade20k(tmp_path)
    with (root / "objectInfo150.txt").open("a") as file:
        file.write("151\t0.01\t10\t1\tnew\n")
    problems = check_data("ade20k", root).problems
    assert len(problems) == 2 and all("lists 151 classes; ADE20K SceneParsing has 150" in line for line in problems)


def test_an_expression_without_a_word_is_a_problem():
    report = SplitFindings("train")
    sample = Sample("a", np.zeros((2, 2, 3), np.uint8), mask=np.ones((2, 2), bool), texts=("cup", " "))
    report.add(sample, (), CountedDepth())
    assert report.problems == ["train/a: an expression has no word"]


def test_a_split_that_cannot_be_opened_is_a_problem(refer_root):
    (refer_root / "refcoco/instances.json").write_text("{")
    report = check_data("refcoco", refer_root)
    assert len(report.problems) == 4 and "not JSON" in report.problems[0]


def test_wrong_requests(folder_root, tmp_path):
    with pytest.raises(UsageError, match="unknown data format 'vkitti'; choose one of: folder"):
        check_data("vkitti", folder_root)
    with pytest.raises(UsageError, match=r"not the nyu layout\. Looked for sync/ or official_splits/\. Found: classes"):
        check_data("nyu", folder_root)
    with pytest.raises(UsageError, match="no such folder"):
        check_data("folder", tmp_path / "gone")
    with pytest.raises(UsageError, match=r"unknown option of the folder layout: crop\. Known: .*unpaired"):
        check_data("folder", folder_root, options={"crop": "garg"})


def test_real_data_is_right(test_data):
    report = check_data("folder", test_data / "camvid")
    assert {split.split: split.samples for split in report.splits} == {"train": 367, "val": 101, "test": 233}
    assert report.problems == []
    report = check_data("refcoco", test_data / "refer")
    assert report.problems == [] and [split.samples for split in report.splits] == [177, 82, 11, 48]
    report = check_data("nyu", test_data / "nyu_depth_v2")
    assert report.problems == [] and [split.samples for split in report.splits] == [150, 56]


def test_rendered_scenes_have_no_files(tmp_path):
    with pytest.raises(UsageError, match=r"world: its scenes are rendered when they are asked for"):
        check_data("world", "world")
    with pytest.raises(UsageError, match=r"wrold: no such folder\. Did you mean world, the rendered scenes\?"):
        check_data("folder", "wrold")
    with pytest.raises(UsageError, match=r"world names the rendered scenes, whose format is world; leave --format out"):
        check_data("folder", "world")
