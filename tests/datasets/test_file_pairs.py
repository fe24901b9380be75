"""How pictures find their labels and depth: trees, endings of names, lists, tables."""

import shutil

import numpy as np
import pytest
from exports import CLASSES, in_colours, labels_of, save, write_depth_tree, write_tree

from vpd.datasets.check import check_data
from vpd.datasets.folders import DepthFolder, FolderData
from vpd.datasets.layouts import detect_format, splits_of
from vpd.datasets.name_ends import common_affixes
from vpd.errors import UsageError


def opened(root, split="train", **options):
    samples = FolderData(root, split, classes=CLASSES, **options)
    assert [np.array_equal(samples[place].labels, labels_of(place)) for place in range(len(samples))] == [True, True]
    return samples


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        FolderData(root, split, classes=CLASSES, **options)
    return str(error.value)


@pytest.mark.parametrize(
    "form",
    [
        "{kind}/{split} images labels",
        "{kind}/{split} Images Masks",
        "{kind}/{split} img_dir ann_dir",
        "{kind}/{split} image annotations",
        "{split}/{kind} images masks",
        "{split}/{kind} img gt",
        "{split}_{kind} images labels",
        "{kind}_{split} images masks",
    ],
)
def test_trees(form, tmp_path):
    write_tree(tmp_path, form)
    assert detect_format(tmp_path) == "folder" and splits_of(tmp_path, "folder") == ["train", "val"]
    notes = opened(tmp_path).notes
    assert (notes == ()) == (form == "{kind}/{split} images labels"), "other trees are told"
    with pytest.raises(UsageError, match="no split 'test'; there are: train, val"):
        FolderData(tmp_path, "test", classes=CLASSES)


def test_split_beside_its_labels(tmp_path):
    write_tree(tmp_path, "{split}{kind} _ _labels")
    for split in ("train", "val"):
        (tmp_path / f"{split}_").rename(tmp_path / split)
    assert "found as SPLIT and SPLIT_labels" in opened(tmp_path).notes[0]


def test_splits_in_other_letters(tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels")
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").rename(tmp_path / kind / "Training")
    assert splits_of(tmp_path, "folder") == ["Training", "val"] and len(opened(tmp_path).pairs) == 2


def test_labels_of_all_splits_in_one_folder(tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels")
    shutil.move(tmp_path / "labels/train", tmp_path / "all")
    shutil.rmtree(tmp_path / "labels")
    shutil.move(tmp_path / "all", tmp_path / "labels")
    save(in_colours(labels_of(0)), tmp_path / "labels/of_another_split.png")
    assert opened(tmp_path).unpaired == []


def test_a_folder_of_data_sets_is_none(tmp_path):
    write_tree(tmp_path / "streets", "{kind}/{split} images labels")
    with pytest.raises(UsageError, match=r"no known data set.* A data set lies deeper: use .*streets\."):
        detect_format(tmp_path)


def test_a_folder_inside_a_data_set_names_the_one_above(tmp_path):
    write_tree(tmp_path / "streets", "{kind}/{split} images labels")
    with pytest.raises(UsageError, match=r"The folder above it has the folder layout: did you mean .*streets\?"):
        detect_format(tmp_path / "streets" / "images")


def test_a_split_of_pictures_only_is_named(tmp_path):
    write_tree(tmp_path, "{split}/{kind} images masks")
    shutil.rmtree(tmp_path / "val/masks")
    assert splits_of(tmp_path, "folder") == ["train", "val"]
    assert "the val split has pictures in val/images/, but there is no folder val/masks/" in refusal(tmp_path, "val")


def test_which_of_several_folders(tmp_path):
    write_tree(tmp_path, "{kind}/{split} images masks")
    shutil.copytree(tmp_path / "masks", tmp_path / "gt")
    assert "which folder is meant, gt/, masks/? Set label_folder" in refusal(tmp_path)
    opened(tmp_path, label_folder="gt")
    shutil.copytree(tmp_path / "masks", tmp_path / "labels")
    opened(tmp_path)


def test_annotations_of_tools_are_no_label_pictures(tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels")
    shutil.rmtree(tmp_path / "labels")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text("{}")
    assert detect_format(tmp_path) == "coco_instances"


@pytest.mark.parametrize("end", ["_mask", "-labelIds", "_gtFine_labelIds", ".jpg", "_L"])
def test_an_ending_that_all_labels_have(end, tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels", end=end)
    assert f"names: NAME and NAME{end}" in opened(tmp_path).notes[0]
    opened(tmp_path, label_suffix=end)


def test_other_files_are_passed_over_where_the_ending_is_given(tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels", end="_mask")
    save(in_colours(labels_of(0)), tmp_path / "labels/train/im0_color.png")
    message = refusal(tmp_path)
    assert "no sample with all its files. First: im0: no labels/train/im0.png" in message
    assert "labels/train holds im0_color.png, im0_mask.png, im1_mask.png. " in message and "set label_suffix" in message
    assert "1 files of other names" in opened(tmp_path, label_suffix="_mask").notes[0]


@pytest.mark.parametrize(
    ("images", "partners", "told"),
    [
        (["im0", "im1"], ["im0_mask", "im1_mask"], "NAME and NAME_mask"),
        (["a/1_leftImg8bit"], ["a/1_gtFine_labelIds"], "NAME_leftImg8bit and NAME_gtFine_labelIds"),
        (["s/rgb_1", "t/rgb_2"], ["s/depth_1", "t/depth_2"], "rgb_NAME and depth_NAME"),
        (["1", "10"], ["1_m", "10_m"], "NAME and NAME_m"),
        (["im1"], ["im10"], "None"),
        (["im1"], ["im1_0"], "None"),
        (["a", "b"], ["a_x", "b_y"], "None"),
        (["a"], ["b_mask"], "None"),
        ([], ["b"], "None"),
    ],
)
def test_what_names_differ_in(images, partners, told):
    assert str(common_affixes(images, partners)) == told


@pytest.mark.parametrize(
    ("suffix", "told"),
    [
        (".jpg", "JPEG, which does not keep"),
        (".txt", "text files (YOLO's"),
        (".webp", "WebP, which"),
        (".x", "no labels that can be read"),
    ],
)
def test_what_lies_there_instead(suffix, told, tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels")
    (tmp_path / "labels/train/im1.png").rename(tmp_path / f"labels/train/im1{suffix}")
    message = refusal(tmp_path)
    assert (
        f"1 train samples lack a file. First: im1: no labels/train/im1.png (or .tif, .tiff, .bmp), but im1{suffix}"
        in message
    )
    (tmp_path / "labels/train/im0.png").rename(tmp_path / f"labels/train/im0{suffix}")
    assert f"holds im0{suffix}, im1{suffix}: {told}" in refusal(tmp_path)
    (problem,) = check_data("folder", tmp_path).splits[0].problems
    assert f"im1{suffix}: {told}" in problem


def test_hidden_and_foreign_files_are_no_samples(tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels")
    for kind in ("images", "labels"):
        for place in (kind, f"{kind}/train"):
            for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
                shutil.copytree(tmp_path / kind / "val", tmp_path / place / name)
    (tmp_path / "requirements.txt").write_text("numpy\n")
    (tmp_path / "how it was made.txt").write_text("With a camera.\nim0 is dark\n")
    assert splits_of(tmp_path, "folder") == ["train", "val"]
    assert len(opened(tmp_path)) == 2


@pytest.mark.parametrize(
    "lines",
    [
        "im1\r\nim0\r\n",
        "\ufeffimages/im1.jpg\nimages/im0.jpg",
        "./images\\im1.jpg\nimages\\im0.jpg\n",
        "/home/somebody/data/images/im1.jpg\nimages/im0\n",
        "images/im1.jpg labels/im1.png\nimages\\im0.jpg\tlabels\\im0.png\n",
        "im1.jpg, im1.png\nim0.jpg, im0.png",
    ],
)
def test_lists_of_names_and_paths(lines, tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels")
    for kind in ("images", "labels"):
        for path in (tmp_path / kind / "train").iterdir():
            path.rename(tmp_path / kind / path.name)
        for split in ("train", "val"):
            shutil.rmtree(tmp_path / kind / split)
    (tmp_path / "mine.txt").write_bytes(lines.encode())
    assert splits_of(tmp_path, "folder") == ["mine"]
    samples = FolderData(tmp_path, "mine", classes=CLASSES)
    assert [np.array_equal(samples[place].labels, labels_of(1 - place)) for place in range(2)] == [True, True]


def test_lists_with_two_paths_stay_inside(tmp_path):
    write_tree(tmp_path, "{kind} images labels")
    (tmp_path / "train.txt").write_text("images/im0.jpg ../labels/im0.png\n")
    assert "train.txt, line 1: '../labels/im0.png' leads out of the data folder" in refusal(tmp_path)
    (tmp_path / "train.txt").write_text("images/gone.jpg labels/im0.png\n")
    with pytest.raises(UsageError, match=r"train\.txt, line 1: .*gone\.jpg: no such file"):
        FolderData(tmp_path, "train", classes=CLASSES)[0]


@pytest.mark.parametrize(
    ("head", "separator"),
    [("image,label", ","), ("Filename;mask", ";"), ("id\timage_path\tmask_path", "\t"), ("image,labels,group", ",")],
)
def test_tables_of_labels(head, separator, tmp_path):
    write_tree(tmp_path, "{kind}/{split} photos_ numbers")
    rows = [[f"photos_\\train\\im{index}.jpg", f"numbers\\train\\im{index}.png"] for index in range(2)]
    rows = [["7", *row] if "id" in head else row + ["r"] * ("group" in head) for row in rows]
    (tmp_path / "train.csv").write_text("\n".join([head, *(separator.join(row) for row in rows)]), encoding="utf-8-sig")
    assert detect_format(tmp_path) == "folder" and splits_of(tmp_path, "folder") == ["train"]
    samples = opened(tmp_path)
    assert samples[0].group == ("r" if "group" in head else None)
    assert ("columns not used: id" in " ".join(samples.notes)) == ("id" in head)


def test_columns_by_name_and_tables_of_other_things(tmp_path):
    write_tree(tmp_path, "{kind}/{split} photos_ numbers")
    (tmp_path / "train.csv").write_text("a,b\nphotos_/train/im0.jpg,numbers/train/im0.png\n")
    (tmp_path / "classes.csv").write_text("filename,label\nphotos_/train/im0.jpg,mug\n")
    with pytest.raises(UsageError, match="no known data set"):
        detect_format(tmp_path)
    assert len(FolderData(tmp_path, "train", classes=CLASSES, image_column="a", label_column="b")) == 1
    assert "image_column and label_column" in refusal(tmp_path, image_column="a")


def test_depth_trees_and_tables(tmp_path):
    write_depth_tree(tmp_path / "a")
    assert detect_format(tmp_path / "a") == "depth_folder"
    samples = DepthFolder(tmp_path / "a", "train")
    assert samples[0].depth_m.max() == 1.5 and "found as SPLIT/images and SPLIT/depth" in samples.notes
    write_depth_tree(tmp_path / "b", "{kind}/{split}", "Depths")
    assert len(DepthFolder(tmp_path / "b", "val")) == 2
    (tmp_path / "b/mine.csv").write_text("rgb;depth_path\nimages\\train\\im1.jpg;Depths\\train\\im1.png\n")
    assert splits_of(tmp_path / "b", "depth_folder") == ["mine", "train", "val"]
    assert DepthFolder(tmp_path / "b", "mine")[0].depth_m.max() == 2


@pytest.mark.parametrize(("where", "end"), [("{split}", "_mask"), ("", "_gt"), ("{split}", "-labels")])
def test_masks_among_the_pictures(where, end, tmp_path):
    write_tree(tmp_path, f"data/{where}{{kind}} / /", end=end)
    root = tmp_path / "data"
    (root / "train").mkdir(exist_ok=True)
    (root / "train/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, mug\n2, plate\n")
    assert detect_format(root, "segment") == "folder"
    samples = FolderData(root, "train")
    assert samples.classes == CLASSES and len(samples) == 2
    assert all(np.array_equal(samples[place].labels, labels_of(place)) for place in range(2))
    assert f"NAME{end}" in samples.notes[0]


def test_depth_among_the_pictures(tmp_path):
    write_depth_tree(tmp_path / "a", "{split}/{kind}")
    for path in (tmp_path / "a/train/images").iterdir():
        (tmp_path / "b").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / f"b/{path.stem}_rgb.jpg")
        shutil.copy(tmp_path / f"a/train/depth/{path.stem}.png", tmp_path / f"b/{path.stem}_depth.png")
    assert detect_format(tmp_path / "b") == "depth_folder"
    assert [pair.name for pair in DepthFolder(tmp_path / "b", "train").pairs] == ["im0", "im1"]


def test_tables_of_names_without_their_folders(tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels")
    (tmp_path / "train.csv").write_text("image,label\nim1.jpg,im1.png\nimages/train/im0.jpg,im0.png\n")
    samples = FolderData(tmp_path, "train", classes=CLASSES)
    assert [np.array_equal(samples[place].labels, labels_of(1 - place)) for place in range(2)] == [True, True]


def test_pictures_of_an_unknown_kind_are_named(tmp_path):
    write_tree(tmp_path, "{kind}/{split} images labels")
    for path in [*(tmp_path / "images/train").iterdir(), *(tmp_path / "labels/train").iterdir()]:
        path.rename(path.with_suffix(".raw"))
    assert "images/train holds im0.raw, im1.raw: no pictures of a kind that is known (.png, " in refusal(tmp_path)
    for path in (tmp_path / "images/train").iterdir():
        path.unlink()
    assert "images/train is empty." in refusal(tmp_path)
