import json
import os
import pickle
import struct

import numpy as np
import pytest

from data_layouts import as_python_2, write_refcoco
from vpd.datasets.check import check_data
from vpd.datasets.layouts import detect_format
from vpd.datasets.plain_pickle import read_plain_pickle
from vpd.datasets.refer import ReferData, find_splits
from vpd.datasets.refer_files import convert_references, read_references
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


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_s_single_numbers_are_numbers(tmp_path, protocol):
    path = tmp_path / "refs(unc).p"
    numbers = [np.int64(-7), np.int32(2**30), np.uint8(200), np.uint64(2**63), np.float32(0.5), np.float64(-1.25)]
    numbers += [np.bool_(True), np.float16(2), np.dtype(">i4").type(-9), np.dtype(">f8").type(3)]
    path.write_bytes(pickle.dumps(numbers, protocol=protocol))
    read = read_plain_pickle(path)
    assert read == numbers and {type(value) for value in read} == {int, float, bool}
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):  # before NumPy 2, and since
        content = b"c%s\nscalar\n(cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'>'\nNNNI-1\nI-1\nI0\ntbS'" % module
        path.write_bytes(content + b"\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\xff'\ntR.")  # as Python 2 writes bytes
        assert read_plain_pickle(path) == 511


def test_references_with_numpy_s_numbers(refer_root):
    path = refer_root / "refcoco/refs(unc).p"
    records = read_plain_pickle(path)
    plain = read_references(path)
    for record in records:
        record.update({key: np.int64(record[key]) for key in ("ref_id", "ann_id", "image_id", "category_id")})
        record["sent_ids"] = [np.int32(number) for number in record["sent_ids"]]
    path.write_bytes(pickle.dumps(records))
    assert read_references(path) == plain
    assert convert_references(path.parent) and read_references(path.with_suffix(".json")) == plain


NUMBER = b"cnumpy._core.multiarray\nscalar\n"
TYPE = b"cnumpy\ndtype\n"


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(np.arange(3)),
        pickle.dumps(np.str_("cup")),
        pickle.dumps(np.datetime64("2020-01-01")),
        pickle.dumps(np.void(b"abc")),
        pickle.dumps([np.dtype("O")]),
        TYPE + b"(S'O'\nI0\nI1\ntR.",
        TYPE + b"(S'i8'\nI0\nI1\ntR(I3\nS'<'\nN(S'a'\ntNI-1\nI-1\nI0\ntb.",  # fields
        TYPE + b"(S'i8'\nI0\nI1\ntR(dS'code'\nS'O'\nstb.",
        NUMBER + b"(" + TYPE + b"(S'i8'\nI0\nI1\ntRS'\\x00'\ntR.",  # one byte of eight
        NUMBER + b"(I1\nS'12345678'\ntR.",
        NUMBER + b"(dS'__class__'\nI1\nsb.",
        b"\x80\x02" + NUMBER + b"N}X\x08\x00\x00\x00__call__I1\ns\x86b.",  # attributes of what stands for a function
        b"\x80\x02" + TYPE + b"N}X\x08\x00\x00\x00__call__I1\ns\x86b.",
        b"\x80\x02" + TYPE + b")\x81.",  # a new object of it
        b"cnumpy\nload\n(S'/etc/passwd'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'/etc/passwd'\ntR.",
        b"cnumpy.core.multiarray\nscalar.__call__.__globals__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.",
        b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
        b"c_codecs\ndecode\n(S'a'\nS'rot13'\ntR.",
        b"c__builtin__\ngetattr\n.",
    ],
)
def test_nothing_else_of_numpy_is_read(tmp_path, content):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"refs\(unc\)\.p: (refused, the pickle holds code|not a whole pickle)"):
        read_plain_pickle(path)
    path.write_bytes(pickle.dumps([np.int64(511)]))
    assert read_plain_pickle(path) == [511], "nothing that a pickle did is left behind"


def test_arrays_get_a_hint(tmp_path):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([np.arange(3)]))
    with pytest.raises(UsageError, match=r"turn it into plain numbers and lists, with int\(\.\.\.\) or \.tolist\(\)"):
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
    assert "no folder of COCO pictures; looked for images/mscoco/images/train2014, images/train2014" in refusal(
        refer_root
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda refs: refs[0].pop("ann_id"), "reference 0: 'ann_id' is missing or of the wrong type"),
        (lambda refs: refs[1].update(split=3), "reference 1: 'split' is missing or of the wrong type"),
        (lambda refs: refs[0].update(sentences=[]), "reference 0: has no sentence"),
        (lambda refs: refs[0]["sentences"][0].pop("sent"), "'sent' is missing"),
        (lambda refs: refs[1].update(ref_id=1), "ref_id stands twice: 1"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[1].update(id=99), "lacks image 7 or annotation 12 of reference 2"),
        (lambda a: a[1].pop("id"), "lacks image 7 or annotation 12 of reference 2"),
        (lambda a: a.append("x") or a[1].update(image_id=8), "annotation 12 is on image 8, not on image 7"),
        (lambda a: a.append({**a[1], "segmentation": [[0] * 6]}), "annotation id 12 of reference 2 stands twice"),
        (
            lambda a: a[1].pop("segmentation"),
            "annotation 12 on COCO_train2014_000000000007.jpg of reference 2: the",
        ),
        (lambda a: a[1].update(segmentation=[]), "the segmentation is empty"),
        (lambda a: a[1].update(segmentation={"size": [9, 6], "counts": [54]}), "run lengths are for size [9, 6]"),
    ],
)
def test_an_odd_object_costs_only_its_references(refer_root, edit_json, change, message):
    edit_json(refer_root / "refcoco/instances.json", lambda content: change(content["annotations"]))
    samples = ReferData(refer_root, "train")
    assert [sample.name for sample in samples] == ["ref_1"]
    (line,) = samples.unpaired
    assert (
        message in line and line.endswith(": left out") and "1 of 2 references of refs(unc).p are" in samples.notes[1]
    )
    assert line in check_data("refcoco", refer_root).problems


def test_a_split_without_any_object_is_refused(refer_root, edit_json):
    edit_json(refer_root / "refcoco/instances.json", lambda content: content["annotations"].clear())
    assert "no train reference can be used. First: " in refusal(refer_root)


def test_damaged_packed_runs_are_named(refer_root, edit_json):
    edit_json(
        refer_root / "refcoco/instances.json",
        lambda content: content["annotations"][2]["segmentation"].update(counts="0"),
    )
    with pytest.raises(UsageError, match=r"annotation 13 on COCO_train2014_000000000008\.jpg: run lengths do not add"):
        ReferData(refer_root, "val")[0]


@pytest.mark.parametrize("suffix", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("folder", [PICTURES, "images/train2014", "train2014", "images"])
def test_pictures_of_any_kind(refer_root, edit_json, picture, suffix, folder):
    for name in ("COCO_train2014_000000000007.jpg", "COCO_train2014_000000000008.jpg"):
        (refer_root / PICTURES / name).unlink()
        picture((refer_root / folder / name).with_suffix(f".{suffix}"), 6, 9)
    edit_json(
        refer_root / "refcoco/instances.json",
        lambda content: [one.update(file_name=one["file_name"].replace("jpg", suffix)) for one in content["images"]],
    )
    assert detect_format(refer_root, "refer") == "refcoco"
    assert [sample.image.shape for sample in ReferData(refer_root, "val")] == [(6, 9, 3)] * 2


def test_missing_pictures_are_left_out_on_request(refer_root):
    (refer_root / PICTURES / "COCO_train2014_000000000008.jpg").unlink()
    assert len(ReferData(refer_root, "train")) == 2, "its pictures are there"
    assert "1 test samples lack a file" not in refusal(refer_root, "val") and "no folder of" in refusal(
        refer_root, "val"
    )
    path = refer_root / "refcoco/refs(unc).p"
    records = read_plain_pickle(path)
    records[0]["split"] = "val"
    path.write_bytes(pickle.dumps(records))
    told = refusal(refer_root, "val")
    assert "1 val samples lack a file. First: " in told and "image 8: no " in told and "set unpaired=skip" in told
    samples = ReferData(refer_root, "val", unpaired="skip", per_sentence=False)
    assert [sample.name for sample in samples] == ["ref_1"] and len(samples.unpaired) == 1


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
