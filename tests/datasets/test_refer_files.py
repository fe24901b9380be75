import json
import pickle

import pytest

from data_layouts import as_python_2, write_refcoco
from vpd.datasets.plain_pickle import read_plain_pickle
from vpd.datasets.refer import ReferData
from vpd.datasets.refer_files import convert_references, read_references
from vpd.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    write_refcoco(tmp_path, dataset="refcoco")
    return tmp_path / "refcoco"


def test_the_fixture_is_what_python_2_wrote(folder):
    content = (folder / "refs(unc).p").read_bytes()
    assert content.startswith(b"(lp") and b"S'caf\\xc3\\xa9 sign'" in content and b"\nV" not in content


def test_pickles_become_json_that_says_the_same(folder):
    pickled, written = folder / "refs(unc).p", folder / "refs(unc).json"
    assert convert_references(folder) == [(written, True)]
    assert json.loads(written.read_text()) == read_plain_pickle(pickled)
    assert read_references(written) == read_references(pickled)
    assert any("café sign" in reference.sentences for reference in read_references(written))
    before = written.stat().st_mtime_ns
    assert convert_references(folder) == [(written, False)]
    assert written.stat().st_mtime_ns == before
    pickled.unlink()
    assert len(ReferData(folder.parent, "train")) == 4


def test_torn_json_is_written_again(folder):
    convert_references(folder)
    (folder / "refs(unc).json").write_text('[{"ref')
    assert convert_references(folder) == [(folder / "refs(unc).json", True)]
    assert read_references(folder / "refs(unc).json")


def test_other_json_is_kept_with_a_byte_order_mark_too(folder):
    convert_references(folder)
    target = folder / "refs(unc).json"
    edited = b"\xef\xbb\xbf" + json.dumps(json.loads(target.read_text())[:1]).encode()
    target.write_bytes(edited)
    with pytest.raises(UsageError, match="says something else than"):
        convert_references(folder)
    assert target.read_bytes() == edited


def test_bytes_that_are_no_text_are_kept(folder):
    records = read_plain_pickle(folder / "refs(unc).p")
    content = as_python_2(records).replace(b"caf\\xc3\\xa9 sign", b"caf\\xe9 sign")
    (folder / "refs(unc).p").write_bytes(content)
    convert_references(folder)
    for name in ("refs(unc).p", "refs(unc).json"):
        assert any("caf� sign" in reference.sentences for reference in read_references(folder / name))


def test_what_cannot_be_converted(folder):
    path = folder / "refs(unc).p"
    records = read_plain_pickle(path)
    records[0]["sentences"].clear()
    path.write_bytes(pickle.dumps(records))
    with pytest.raises(UsageError, match=r"refs\(unc\)\.p, reference 0: has no sentence"):
        convert_references(folder)
    records[0]["sentences"].append({"sent": "cup", b"raw": 1})
    path.write_bytes(pickle.dumps(records))
    with pytest.raises(UsageError, match="holds something that JSON has no word for"):
        convert_references(folder)
    assert not (folder / "refs(unc).json").exists()
    path.unlink()
    with pytest.raises(UsageError, match=r"refcoco: no refs\(\.\.\.\)\.p to convert"):
        convert_references(folder)
