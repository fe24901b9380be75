import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vpd.datasets.check import check_data
from vpd.datasets.coco import CocoInstances
from vpd.datasets.layouts import detect_format, open_data
from vpd.errors import UsageError


def box(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def mark(number: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 4, "category_id": category, "segmentation": segmentation, **more}


CROWD = {"size": [6, 8], "counts": [36, 12]}
"""The two columns at the right."""
LARGE, SMALL = mark(1, 18, box(0, 0, 7, 4)), mark(2, 1, box(1, 1, 3, 3))


@pytest.fixture
def root(tmp_path, picture) -> Path:
    """A picture with a large object, a small one before it that is listed first, and a crowd; one without object."""
    folder = tmp_path / "coco"
    for name in ("a", "empty"):
        picture(folder / f"train2017/{name}.jpg")
    images = [{"id": 4, "file_name": "a.jpg", "height": 6, "width": 8}]
    images.append({"id": 5, "file_name": "empty.jpg", "height": 6, "width": 8})
    content = {
        "images": images,
        "annotations": [SMALL, LARGE, mark(3, 1, CROWD, iscrowd=1)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations/instances_train2017.json").write_text(json.dumps(content))
    return folder


FILE = "annotations/instances_train2017.json"


def painted(background: int, crowd: int, first: int) -> np.ndarray:
    labels = np.full((6, 8), background)
    labels[:, 6:] = crowd
    labels[:4, :7] = first
    labels[1:3, 1:3] = first + 1
    return labels


@pytest.mark.parametrize(
    ("options", "expected", "classes"),
    [
        ({}, painted(0, 255, 1), ("background", "dog", "person")),
        ({"crowd": "class"}, painted(0, 2, 1), ("background", "dog", "person")),
        ({"background": "ignore"}, painted(255, 255, 0), ("dog", "person")),
        ({"background": "ignore", "crowd": "class"}, painted(255, 1, 0), ("dog", "person")),
    ],
)
def test_small_objects_stay_visible_and_crowds_lie_under_all(root, edit_json, options, expected, classes):
    for _ in range(2):
        samples = CocoInstances(root, "train", **options)
        assert samples.classes == classes
        sample = samples[0]
        assert sample.name == "a" and np.array_equal(sample.labels, expected), "in whatever order objects are listed"
        edit_json(root / FILE, lambda data: data["annotations"].reverse())


def test_pictures_without_object(root):
    samples = CocoInstances(root, "train")
    assert len(samples) == 2 and not samples[1].labels.any()
    without = CocoInstances(root, "train", background="ignore")
    assert len(without) == 1 and "1 of 2 pictures of instances_train2017.json have no object" in without.notes[-1]


def test_detection_and_check(root):
    assert detect_format(root, "segment") == "coco_instances"
    assert len(open_data(root, "segment", background="ignore")) == 1
    assert check_data("coco_instances", root).problems == []
    (root / "annotations/panoptic_train2017.json").write_text("{}")
    with pytest.raises(UsageError, match=r"several layouts fit: coco_panoptic, coco_instances\. Choose one with"):
        detect_format(root)


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        CocoInstances(root, split, **options)
    return str(error.value)


def remaining(root, edit_json, change) -> tuple[CocoInstances, list[str]]:
    """The set after a change, and what its check tells, which must be all that the set itself does."""
    edit_json(root / FILE, change)
    samples = CocoInstances(root, "train")
    problems = check_data("coco_instances", root).problems
    assert problems == samples.unpaired
    return samples, problems


@pytest.mark.parametrize(
    ("change", "told", "reason"),
    [
        ({"id": 2}, "annotation 1 with id 2 on a.jpg: the id stands twice", "id stands twice"),
        ({"image_id": 6}, "annotation 1 with id 1: image 6 is not among the images", "image not in the file"),
        ({"image_id": [4]}, "annotation 1 with id 1: image [4] is not among the images", "image not in the file"),
        ({"category_id": 2}, "on a.jpg: category 2 is not among the categories", "category not in the file"),
        ({"category_id": None}, "on a.jpg: category None is not among the categories", "category not in the file"),
        ({"segmentation": None}, "'segmentation' is empty or missing", "no outline"),
        ({"segmentation": []}, "'segmentation' is empty or missing", "no outline"),
        ({"segmentation": [], "bbox": [0, 0, 7, 4]}, "a rectangle (bbox) is no outline", "rectangle without outline"),
        ({"segmentation": [[]], "bbox": [0, 0, 7, 4]}, "a rectangle (bbox) is no outline", "rectangle without outline"),
        ({"segmentation": None, "bbox": None}, "'segmentation' is empty or missing", "no outline"),
        ({"segmentation": "x"}, "neither polygons nor run lengths", "impossible outline"),
        ({"segmentation": [0, 0, 1, 1, 2, 2]}, "must be all polygons or all run lengths", "impossible outline"),
        ({"segmentation": [[0, 0, 1, 1]]}, "a polygon of 4 numbers; needs 6 or more", "impossible outline"),
        ({"segmentation": [[0, 0, 4, 0, 4, 4, 0]]}, "a polygon of 7 numbers", "impossible outline"),
        ({"segmentation": [[0, 0, 4, 0, 4, None]]}, "polygon point None is no place", "impossible outline"),
        ({"segmentation": [[0, 0, 4, 0, 4, float("nan")]]}, "polygon point nan is no place", "impossible outline"),
        ({"segmentation": [[0, 0, 4, 0, 4, "4"]]}, "polygon point '4' is no place", "impossible outline"),
        ({"segmentation": box(9, 0, 12, 4)}, "a polygon lies outside the 8x6 picture (x from 9", "impossible outline"),
        ({"segmentation": box(0, 0, 10**6, 4)}, "polygon point 1000000 is no place", "impossible outline"),
        ({"segmentation": box(0, 0, 10**400, 4)}, "is no place in or near a 8x6 picture", "impossible outline"),
        ({"segmentation": [[0, 0, 8, 6] * 200_000]}, "a polygon's outline is", "impossible outline"),
        ({"segmentation": {"size": [8, 6], "counts": [48]}}, "are for size [8, 6], the picture", "impossible outline"),
        ({"segmentation": {"size": [6, 8], "counts": [47]}}, "do not add up to 6x8 pixels", "impossible outline"),
        ({"segmentation": {"size": [6, 8], "counts": [50, -2]}}, "do not add up to 6x8 pixels", "impossible outline"),
        ({"segmentation": {"size": [6, 8]}}, "must be all polygons or all run lengths", "impossible outline"),
    ],
)
def test_an_odd_annotation_costs_only_itself(root, edit_json, change, told, reason):
    samples, problems = remaining(root, edit_json, lambda data: data["annotations"][1].update(change))
    (line,) = problems
    assert line.startswith(str(root / FILE)) and told in line and line.endswith(": left out")
    note = f"1 of 3 annotations of instances_train2017.json are left out: {reason} (1)"
    assert note in samples.notes
    expected = np.zeros((6, 8))
    expected[:, 6:], expected[1:3, 1:3] = 255, 2
    assert np.array_equal(samples[0].labels, expected), "the other objects of the picture stay"


@pytest.mark.parametrize("odd", [None, 3, "x", []])
def test_records_that_are_no_annotations_are_counted(root, edit_json, odd):
    samples, problems = remaining(root, edit_json, lambda data: data["annotations"].append(odd))
    assert len(problems) == 1 and "is no annotation" in problems[0]
    assert np.array_equal(samples[0].labels, painted(0, 255, 1))


def test_an_annotation_needs_no_id(root, edit_json):
    samples, problems = remaining(root, edit_json, lambda data: [one.pop("id") for one in data["annotations"]])
    assert not problems and np.array_equal(samples[0].labels, painted(0, 255, 1))


@pytest.mark.parametrize("counts", ["0", "\ud83d", "P2é", "o" * 1000])
def test_packed_run_lengths_are_looked_at_when_they_are_read(root, edit_json, counts):
    odd = {"size": [6, 8], "counts": counts}
    edit_json(root / FILE, lambda data: data["annotations"][1].update(segmentation=odd))
    samples = CocoInstances(root, "train")
    assert not samples.unpaired and not samples[1].left_out
    assert samples[0].labels.max() == 255 and (samples[0].labels == 2).sum() == 4
    (problem,) = check_data("coco_instances", root).problems
    told = "annotation 1 with id 1 on a.jpg: run lengths do not add up to 6x8 pixels"
    assert problem == f"train/a: left out: {root / FILE}, {told}"


def test_nothing_that_can_be_used_is_refused(root, edit_json):
    def only_rectangles(data):
        for record in data["annotations"]:
            record.update(segmentation=[], bbox=[0, 0, 3, 3])

    edit_json(root / FILE, only_rectangles)
    for options in ({}, {"background": "ignore"}):
        told = refusal(root, **options)
        assert "no annotation that can be used. 3 of 3 annotations" in told and "rectangle without outline (3)" in told
        assert told.endswith("Segmentation needs outlines: draw polygons or masks")


def test_nothing_but_crowds_is_told(root, edit_json):
    assert CocoInstances(root, "train").notes[0].startswith("1 of 3 annotations of")
    edit_json(root / FILE, lambda data: [record.update(iscrowd=1) for record in data["annotations"]])
    told = "3 of 3 annotations of instances_train2017.json are crowds: ignored, unless crowd=class"
    assert CocoInstances(root, "train").notes == [told]
    assert not CocoInstances(root, "train", crowd="class").notes


@pytest.mark.parametrize("name", ["background", "Background ", "_background_", "__background__"])
@pytest.mark.parametrize("has_objects", [False, True])
def test_a_background_of_the_file_s_own_is_class_0(root, edit_json, name, has_objects):
    def change(data):
        if has_objects:
            data["categories"][1].update(name=name)
        else:
            data["categories"].append({"id": 0, "name": name})

    edit_json(root / FILE, change)
    samples = CocoInstances(root, "train")
    if has_objects:  # the small object is outlined background
        assert samples.classes == ("background", "dog")
        assert samples[0].labels[1, 1] == 0 and samples[0].labels[0, 0] == 1
    else:
        assert samples.classes == ("background", "dog", "person")
        assert np.array_equal(samples[0].labels, painted(0, 255, 1))
    own = CocoInstances(root, "train", background="ignore").classes
    assert own == (("dog", name.strip()) if has_objects else ("dog", "person", name.strip()))


@pytest.mark.parametrize("name", ["__ignore__", "ignore", "Ignore", "_ignore_"])
def test_a_category_called_ignore_is_ignored(root, edit_json, name):
    edit_json(root / FILE, lambda data: data["categories"][1].update(name=name))
    for background in ("class", "ignore"):
        samples = CocoInstances(root, "train", background=background)
        assert "dog" in samples.classes and name not in samples.classes
        assert (samples[0].labels[1:3, 1:3] == 255).all() and "is no class: its pixels are ignored" in samples.notes[0]


def test_a_category_that_others_belong_to_is_no_class(root, edit_json):
    def roboflow(data):
        data["categories"] = [
            {"id": 0, "name": "animals", "supercategory": "none"},
            {"id": 18, "name": "dog", "supercategory": "animals"},
            {"id": 1, "name": "animals", "supercategory": "animals"},
        ]

    samples, problems = remaining(root, edit_json, roboflow)
    assert samples.classes == ("background", "dog", "animals") and not problems
    assert "category 'animals' (id 0) is no class: only others belong to it" in samples.notes
    assert np.array_equal(samples[0].labels, painted(0, 255, 1))
    edit_json(root / FILE, lambda data: data["annotations"].append(mark(9, 0, box(0, 0, 2, 2))))
    assert "class names stand twice: animals" in refusal(root), "with an annotation it is one"
    edit_json(root / FILE, lambda data: data["categories"][0].update(name="creature"))
    assert CocoInstances(root, "train").classes == ("background", "creature", "dog", "animals")


@pytest.mark.parametrize(("number", "background"), [(254, "class"), (255, "ignore"), (300, "class")])
def test_more_classes_than_labels_hold_are_refused(root, edit_json, number, background):
    names = [{"id": place, "name": f"c{place}"} for place in range(number)]
    edit_json(root / FILE, lambda data: data.update(categories=names))
    told = refusal(root, background=background)
    assert f"{number + (background == 'class')} classes; 8-bit labels hold 1 to 254" in told


def test_wrong_requests(root, edit_json):
    assert "background='sky'; choose class or ignore" in refusal(root, background="sky")
    assert "crowd='keep'; choose class or ignore" in refusal(root, crowd="keep")
    assert "Splits there: train" in refusal(root, "val")
    whole = (root / FILE).read_text()
    edit_json(root / FILE, lambda data: data["annotations"].clear())
    assert "has no picture with an object; the train split is empty" in refusal(root, background="ignore")
    (root / FILE).write_text(whole)
    (root / "train2017").rename(root / "elsewhere")
    assert "no folder of pictures of train; looked for train2017, images/train2017, images/train" in refusal(root)


def test_a_file_without_images(root, edit_json):
    edit_json(root / FILE, lambda data: data["images"].clear())
    assert "has no image; the train split is empty" in refusal(root)


def test_polygons_may_reach_out_of_the_picture(root, edit_json):
    edit_json(root / FILE, lambda data: data["annotations"][1].update(segmentation=box(-3, -2, 7, 4)))
    assert np.array_equal(CocoInstances(root, "train")[0].labels, painted(0, 255, 1))


def test_wrong_pictures(root, picture):
    picture(root / "train2017/a.jpg", 7, 8)
    with pytest.raises(
        UsageError, match=r"a\.jpg: picture size 8x7 differs from the annotated 8x6 \(.*instances_train"
    ):
        CocoInstances(root, "train")[0]
    (root / "train2017/a.jpg").unlink()
    assert f"1 train samples lack a file. First: {root / FILE}, image 4: no {root}/train2017/a.jpg" in refusal(root)
    assert "set unpaired=skip" in refusal(root)
    samples = CocoInstances(root, "train", unpaired="skip")
    assert [sample.name for sample in samples] == ["empty"] and len(samples.unpaired) == 1
    assert samples.notes[0] == "1 of 2 pictures of instances_train2017.json are not there: left out"
    assert set(samples.unpaired) <= set(check_data("coco_instances", root).problems)
    assert "unpaired='drop'; choose error or skip" in refusal(root, unpaired="drop")


def test_real_outlines(test_data, tmp_path):
    """The smallest object of a picture is seen in its class, in the first and the last of 145 pictures of COCO."""
    refer = test_data / "refer"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2014.json").symlink_to(refer / "refcoco/instances.json")
    (tmp_path / "train2014").symlink_to(refer / "images/mscoco/images/train2014")
    samples = CocoInstances(tmp_path, "train")
    content = json.loads((refer / "refcoco/instances.json").read_text())
    assert len(samples) == len(content["images"]) and len(samples.classes) == len(content["categories"]) + 1
    seen = {name: set(np.unique(samples[place].labels)) for place, name in ((0, "first"), (len(samples) - 1, "last"))}
    for place, name in ((0, "first"), (len(samples) - 1, "last")):
        image_id = content["images"][place]["id"]
        of_image = [mark for mark in content["annotations"] if mark["image_id"] == image_id]
        smallest = min(of_image, key=lambda mark: mark["area"])["category_id"]
        names = [category["id"] for category in content["categories"]]
        assert names.index(smallest) + 1 in seen[name]


@pytest.mark.parametrize("odd", [None, {}, {"file_name": None}, {"id": "x"}, {"height": None}, {"file_name": "/"}])
def test_an_odd_entry_of_a_picture_costs_itself(root, edit_json, odd):
    def add(data):
        data["images"] += [odd and {**data["images"][0], "id": 9, **odd}, data["images"][0]]

    edit_json(root / FILE, add)
    samples = CocoInstances(root, "train")
    assert len(samples) == 2 and np.array_equal(samples[0].labels, painted(0, 255, 1)), "the same again counts once"
    if odd != {}:
        (told,) = [line for line in samples.unpaired if "image 2" in line and line.endswith("left out")]
        assert any("1 of the images" in note for note in samples.notes), told


def test_an_id_of_two_pictures_means_neither(root, edit_json):
    edit_json(root / FILE, lambda data: data["images"].append({**data["images"][0], "id": 5}))
    samples = CocoInstances(root, "train")
    assert [samples[place].name for place in range(len(samples))] == ["a"]
    assert "id 5 stands twice" in samples.unpaired[0]
    edit_json(root / FILE, lambda data: data["images"].append({**data["images"][1], "id": 4}))
    assert "stands twice" in refusal(root), "and nothing is left"


@pytest.mark.parametrize("number", [float, str])
def test_numbers_as_other_programs_write_them(root, edit_json, number):
    def change(data):
        for record in (*data["images"], *data["annotations"], *data["categories"]):
            record.update(
                {key: number(value) for key, value in record.items() if type(value) is int and key != "iscrowd"}
            )

    edit_json(root / FILE, change)
    assert np.array_equal(CocoInstances(root, "train")[0].labels, painted(0, 255, 1))


def test_names_as_addresses_spell_them(root, edit_json):
    (root / "train2017/a.jpg").rename(root / "train2017/a cup.jpg")
    edit_json(root / FILE, lambda data: data["images"][0].update(file_name="a%20cup.jpg"))
    assert CocoInstances(root, "train")[0].name == "a cup"


def test_pixels_without_object_are_not_blamed_on_crowds(root, edit_json):
    def one_category(data):
        data["annotations"] = [LARGE]
        data["categories"] = data["categories"][:1]

    edit_json(root / FILE, one_category)
    problems = " ".join(check_data("coco_instances", root, options={"background": "ignore"}).problems)
    assert "one class only" in problems and "background=class counts them" in problems
    assert "crowd" not in problems and "classes.json" not in problems
