import json
import os
import pickle
import struct

import numpy as np
import pytest

from data_layouts import as_python_2, write_refcoco
from vpd.datasets.refer import ReferData, find_splits
from vpd.datasets.refer_files import read_plain_pickle, read_references
from vpd.errors import UsageError

PICTURES = "images/mscoco/images/train2014"


def test_training_has_one_sample_a_reference(refer_root):
    samples = ReferData(refer_root, "train")
    assert [samples[n].name for n in range(len(samples))] == ["ref_1", "ref_2"]
    assert samples[0].texts == ("the lady with the blue shirt", "lady on the left", "she")
    assert len(ReferData(refer_root, "train", per_sentence=True)) == 4


def test_evaluation_has_one_sample_a_sentence(refer_root):
    samples = ReferData(refer_root, "val")
    assert [(samples[n].name, samples[n].texts) for n in range(len(samples))] == [
        ("ref_3_0", ("dog",)),
        ("ref_3_1", ("the dog",)),
    ]
    assert len(ReferData(refer_root, "val", per_sentence=False)) == 1


@pytest.mark.parametrize(("split", "references"), [("testA", [4]), ("testB", [5]), ("test", [4, 5])])
def test_splits_are_refer_s(refer_root, split, references):
    samples = ReferData(refer_root, split)
    assert [reference.ref_id for _, reference, _ in samples.items] == references


def test_masks(refer_root):
    disjoint, overlapping = (ReferData(refer_root, "train")[n].mask for n in (0, 1))
    runs = ReferData(refer_root, "val")[0].mask
    assert disjoint is not None and overlapping is not None and runs is not None
    assert disjoint.dtype == np.bool_ and disjoint.shape == (6, 9)
    assert disjoint[1, 1] and disjoint[3, 6] and not disjoint[0, 8]
    assert runs.sum() == 14 and runs[2, 1] and not runs[2, 0]
    hollow = ReferData(refer_root, "train", overlap="background")[1].mask
    assert hollow is not None
    assert overlapping[1, 1] and overlapping[2, 2] and not hollow[2, 2] and hollow[0, 0]


def test_json_is_read_like_the_pickle_and_preferred(refer_root):
    pickled = refer_root / "refcoco/refs(unc).p"
    before = read_references(pickled)
    plain = read_plain_pickle(pickled)
    pickled.with_suffix(".json").write_text(json.dumps(plain))
    pickled.write_bytes(b"")
    assert read_references(pickled.with_suffix(".json")) == before
    assert len(ReferData(refer_root, "train")) == 2


def test_python_2_pickles_with_bytes_that_are_no_utf_8(tmp_path):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(b"(lp0\n(dp1\nS'sent'\np2\nS'caf\\xe9'\np3\nsa.")
    assert read_plain_pickle(path) == [{"sent": "caf\udce9"}]
    record = {"ref_id": 1, "ann_id": 1, "image_id": 1, "split": "val", "sentences": [{"sent": "caf\udce9"}]}
    path.write_bytes(pickle.dumps([record], protocol=2))
    assert read_references(path)[0].sentences == ("caf�",)
    path = path.with_suffix(".json")
    path.write_text(json.dumps([{**record, "sentences": [{"sent": "half \ud83d"}]}]))
    assert read_references(path)[0].sentences == ("half �",)


class Attack:
    def __reduce__(self):
        return os.system, ("echo attacked",)


def persistent_pickle() -> bytes:
    return b"Psomewhere\n."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_is_refused(tmp_path, protocol):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([Attack()], protocol=protocol))
    with pytest.raises(UsageError, match=r"refs\(unc\)\.p: refused, the pickle holds code \((posix|nt)\.system\)"):
        read_plain_pickle(path)


def test_other_bad_pickles(tmp_path):
    path = tmp_path / "refs(unc).p"
    with pytest.raises(UsageError, match="cannot be read"):
        read_plain_pickle(path)
    path.write_bytes(persistent_pickle())
    with pytest.raises(UsageError, match="refused, the pickle points outside itself"):
        read_plain_pickle(path)
    path.write_bytes(b"\x80\x02U" + struct.pack("B", 200) + b"short")
    with pytest.raises(UsageError, match="not a whole pickle"):
        read_plain_pickle(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UsageError, match="must hold a list of references, not dict"):
        read_references(path)


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        ReferData(root, split, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_wrong_requests(refer_root, tmp_path):
    assert "no split 'dev'; there are: testA, testB, train, val" in refusal(refer_root, "dev")
    assert "unknown data set 'coco'" in refusal(refer_root, dataset="coco")
    assert "choose union or background" in refusal(refer_root, overlap="sum")
    assert (
        "no refs(google).p or refs(google).json; reference files there: refs(unc); split_by=unc takes another"
        in refusal(refer_root, split_by="google")
    )
    assert "reference files there: none" in refusal(refer_root, dataset="refcocog")
    (refer_root / "images").rename(refer_root / "elsewhere")
    assert "no COCO pictures; looked for *.jpg in images/mscoco/images/train2014" in refusal(refer_root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda refs: refs[0].pop("ann_id"), "reference 0: 'ann_id' is missing or of the wrong type"),
        (lambda refs: refs[1].update(split=3), "reference 1: 'split' is missing or of the wrong type"),
        (lambda refs: refs[0].update(sentences=[]), "reference 0: has no sentence"),
        (lambda refs: refs[0]["sentences"][0].pop("sent"), "'sent' is missing"),
        (lambda refs: refs[1].update(ref_id=1), "ref_id stands twice: 1"),
        (lambda refs: refs[1].update(ann_id=99), "lacks image 7 or annotation 99 of reference 2"),
        (lambda refs: refs.clear(), "must hold a list of references"),
    ],
)
def test_damaged_references(refer_root, edit_json, change, message):
    path = refer_root / "refcoco/refs(unc).json"
    path.write_text(json.dumps(read_plain_pickle(path.with_suffix(".p"))))
    edit_json(path, change)
    assert message in refusal(refer_root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("annotations"), "'annotations' is missing"),
        (lambda content: content["images"][1].pop("height"), "image 1: 'height' is missing"),
        (lambda content: content["images"][0].update(file_name="../../a.jpg"), "image 0: '../../a.jpg' leads out"),
        (lambda content: content["annotations"][0].update(segmentation="x"), "annotation 0: 'segmentation'"),
        (lambda content: content["annotations"][0].update(image_id=8), "annotation 11 is on image 8, not on image 7"),
        (lambda content: content["annotations"][1].update(id=11), "annotation 1: id 11 stands twice, with different"),
        (lambda content: content["images"][1].update(id=7), "image 1: id 7 stands twice, with different content"),
    ],
)
def test_damaged_instances(refer_root, edit_json, change, message):
    edit_json(refer_root / "refcoco/instances.json", change)
    assert message in refusal(refer_root)


def test_instances_that_are_no_json(refer_root):
    path = refer_root / "refcoco/instances.json"
    path.write_text("[1]")
    assert "instances.json: 'images' is missing or of the wrong type" in refusal(refer_root)
    path.write_text("{")
    assert "instances.json: not JSON" in refusal(refer_root)
    path.unlink()
    assert "instances.json: cannot be read" in refusal(refer_root)


def test_picture_of_another_size(refer_root, picture):
    samples = ReferData(refer_root, "train")
    picture(refer_root / PICTURES / "COCO_train2014_000000000007.jpg", 6, 8)
    with pytest.raises(UsageError, match=r"COCO_train2014_000000000007\.jpg: picture size 8x6 differs .* 9x6"):
        samples[0]


def test_damaged_mask_is_named(refer_root, edit_json):
    edit_json(
        refer_root / "refcoco/instances.json",
        lambda content: content["annotations"][2]["segmentation"].update(size=[9, 6]),
    )
    with pytest.raises(UsageError, match=r"annotation 13 on COCO_train2014_000000000008\.jpg: run lengths are for"):
        ReferData(refer_root, "val")[0]


def test_the_same_record_twice_is_no_contradiction(refer_root, edit_json):
    edit_json(
        refer_root / "refcoco/instances.json", lambda content: content["images"].append(dict(content["images"][0]))
    )
    assert len(ReferData(refer_root, "train")) == 2


@pytest.mark.parametrize(
    ("dataset", "split_by", "splits"),
    [
        ("refcoco", None, ["train", "val", "testA", "testB"]),
        ("refcoco+", None, ["train", "val", "testA", "testB"]),
        ("refcocog", None, ["train", "val", "test"]),
        ("refcocog", "google", ["train", "val"]),
        ("refcoco", "google", ["train", "val", "test"]),
    ],
)
def test_all_data_sets_and_splits(tmp_path, dataset, split_by, splits):
    root = write_refcoco(tmp_path, dataset=dataset, split_by=split_by)
    assert find_splits(root / dataset, split_by) == splits
    assert find_splits(root / dataset) == splits  # what is there, where the usual split is not
    for split in splits:
        samples = ReferData(root, split, dataset=dataset, split_by=split_by, per_sentence=False)
        masks = [mask.sum() for mask in (samples[n].mask for n in range(4)) if mask is not None]
        assert sorted(masks) == [800, 1000, 1000, 1400]
        assert [mask.sum() for mask in (samples[n].mask for n in range(4)) if mask is not None] == masks
        assert ("café sign", "the sign") in [samples[n].texts for n in range(4)]
        assert len({samples[n].group for n in range(4)}) == 3  # two objects are on one picture
        each = ReferData(root, split, dataset=dataset, split_by=split_by, per_sentence=True)
        assert len(each) == 7 and {len(each[n].texts) for n in range(7)} == {1}


def test_pictures_that_google_s_splits_share_are_said(tmp_path):
    write_refcoco(tmp_path, dataset="refcocog", split_by="google")
    assert ReferData(tmp_path, "val", dataset="refcocog", split_by="google").notes == [
        "references: refs(google).p",
        "3 of its 3 pictures are in train too: refs(google).p divides objects",
    ]
    train = ReferData(tmp_path, "train", dataset="refcocog", split_by="google")
    assert train.notes == ["references: refs(google).p"]
    (tmp_path / "refcocog/refs(umd).p").touch()
    assert train.notes != ReferData(tmp_path, "train", dataset="refcocog", split_by="google").notes
    assert find_splits(tmp_path / "refcocog", "google") == ["train", "val"]


def test_groups_are_pictures(refer_root):
    assert ReferData(refer_root, "train")[0].group == "COCO_train2014_000000000007.jpg"


def test_expressions_without_a_word_are_left_out(refer_root):
    path = refer_root / "refcoco/refs(unc).p"
    records = read_plain_pickle(path)
    records[0]["sentences"][1]["sent"] = "  "
    records[1]["sentences"][0]["sent"] = ""
    path.write_bytes(as_python_2(records))
    train = ReferData(refer_root, "train")
    assert [texts for _, _, texts in train.items] == [("the lady with the blue shirt", "she")]
    assert "2 expressions without a word are left out" in train.notes
    sentences = ReferData(refer_root, "train", per_sentence=True)
    assert [name for name, _, _ in sentences.items] == ["ref_1_0", "ref_1_2"]
    records[4]["sentences"][0]["sent"] = ""
    path.write_bytes(as_python_2(records))
    assert "no expression of the testB split has a word" in refusal(refer_root, "testB")


def test_real_references(test_data):
    root = test_data / "refer"
    counts = {split: len(ReferData(root, split, per_sentence=False)) for split in ("train", "val", "testA", "testB")}
    assert counts == {"train": 177, "val": 82, "testA": 11, "testB": 48}
    files = [root / "refcoco" / f"refs(unc).{kind}" for kind in ("p", "json")]
    assert read_references(files[0]) == read_references(files[1])
    mask = ReferData(root, "val")[0].mask
    assert mask is not None and 0.001 < mask.mean() < 0.9
