import multiprocessing
import os
import shutil
import signal
import sys
import time

import h5py
import numpy as np
import pytest
from PIL import Image

from data_layouts import picture, write_nyu_mat
from vpd.datasets.nyu import NyuDepth
from vpd.datasets.pair_lists import read_pair_list
from vpd.datasets.prepare import MAT_FILE, extract_nyu, nyu_test_pictures
from vpd.errors import UsageError

SPLITS = "official_splits"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_nyu_mat(tmp_path_factory.mktemp("mat") / MAT_FILE)


@pytest.fixture
def root(written, tmp_path):
    shutil.copy(written, tmp_path)
    return tmp_path


def files(root):
    """Every file below, with its content."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted((root / SPLITS).rglob("*"))
        if path.is_file()
    }


def test_the_official_split(test_data):
    test = nyu_test_pictures()
    assert len(test) == 654 and max(test) == 1448 and min(test) == 0
    pairs, _ = read_pair_list(test_data / "formats/nyu_test_list.txt")
    assert {int(pair.image[-9:-4]) for pair in pairs} == test


def test_pictures_have_published_names_and_a_black_border(root):
    assert extract_nyu(root) == (4, 4)
    # of the first four pictures the official split tests two
    assert [name for name in files(root) if name.endswith(".jpg")] == [
        f"{SPLITS}/test/home_office/rgb_00001.jpg",
        f"{SPLITS}/test/kitchen/rgb_00000.jpg",
        f"{SPLITS}/train/bathroom/rgb_00002.jpg",
        f"{SPLITS}/train/study_room/rgb_00003.jpg",
    ]
    pixels = np.asarray(Image.open(root / SPLITS / "test/home_office/rgb_00001.jpg")).astype(int)
    expected = np.zeros((480, 640, 3), int)
    expected[7:474, 7:632] = np.asarray(picture(640, 480, 1))[7:474, 7:632]
    assert np.abs(pixels - expected).mean() < 3  # JPEG
    assert pixels[:6].max() < 40 and pixels[476:].max() < 40 and pixels[:, :6].max() < 40
    assert pixels[:, 634:].max() < 40 and pixels[9:470, 9:630].mean() > 80


def test_depth_is_raw_millimetres_cut_off(root, written):
    extract_nyu(root)
    with h5py.File(written) as file:
        raw = file["rawDepths"][0].T
    stored = np.asarray(Image.open(root / SPLITS / "test/kitchen/sync_depth_00000.png"))
    assert stored.dtype == np.uint16 and stored.shape == (480, 640)
    assert (stored == np.floor(raw * np.float32(1000))).all()
    assert stored[0, 0] == 0 and stored[479, 0] == 700 and stored[479, 639] == 9999  # 0.7006 and 9.9999 m


def test_what_was_extracted_is_read(root):
    extract_nyu(root)
    test, train = NyuDepth(root, "test"), NyuDepth(root, "official_train")
    assert [test[n].scene for n in range(2)] == ["home_office", "kitchen"]
    assert [test[n].group for n in range(2)] == ["home_office_0001", "kitchen_0001"]
    assert [train[n].scene for n in range(2)] == ["bathroom", "study"]


def test_a_stopped_run_goes_on(root):
    def stop_after_two(indices):
        for index in indices:
            if index == 2:
                raise KeyboardInterrupt
            yield index

    with pytest.raises(KeyboardInterrupt):
        extract_nyu(root, progress=stop_after_two)
    before = files(root)
    assert f"{SPLITS}/UNFINISHED" in before and len(before) == 2 + 2 * 2
    with pytest.raises(UsageError, match="was not extracted to the end"):
        NyuDepth(root, "test")
    (root / SPLITS / "test/kitchen/rgb_00000.jpg").unlink()  # as if it had stopped between the two
    assert extract_nyu(root) == (4, 3)
    after = files(root)
    assert f"{SPLITS}/UNFINISHED" not in after and len(after) == 1 + 2 * 4
    assert before.items() - after.items() == {(f"{SPLITS}/UNFINISHED", b"")}
    assert extract_nyu(root) == (4, 0)
    assert files(root) == after


@pytest.mark.skipif(sys.platform == "win32", reason="forks and kills")
def test_a_killed_run_goes_on_to_the_same_files(root, written, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    shutil.copy(written, whole)
    extract_nyu(whole)

    def slowly(indices):
        for index in indices:
            yield index
            time.sleep(0.02)

    fork = multiprocessing.get_context("fork")
    for number in range(1, 4):  # killed after one picture, after two, after three
        process = fork.Process(target=extract_nyu, args=(root,), kwargs={"progress": slowly})
        process.start()
        while process.is_alive() and len(list(root.glob(f"{SPLITS}/*/*/rgb_*.jpg"))) < number:
            time.sleep(0.001)
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
    extract_nyu(root)
    left = {name for name in files(root) if ".tmp-" in name}  # what a kill left is no picture and no depth
    assert {name: content for name, content in files(root).items() if name not in left} == files(whole)
    assert len(NyuDepth(root, "test")) == 2


def refusal(root):
    with pytest.raises(UsageError) as error:
        extract_nyu(root)
    return str(error.value)


def change(root, edit):
    with h5py.File(root / MAT_FILE, "r+") as file:
        edit(file)


def test_missing_and_damaged_files(root, monkeypatch):
    path = root / MAT_FILE
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "not a whole MATLAB 7.3 file" in refusal(root)
    path.unlink()
    assert f"{MAT_FILE}: no such file; it is the labelled data set of NYU Depth v2" in refusal(root)
    path.write_bytes(content)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert 'need h5py: pip install "vpd-perception[nyu]"' in refusal(root)


def replace(name, data):
    def edit(file):
        del file[name]
        file[name] = data

    return edit


def elsewhere(name):
    def edit(file):
        del file[name]
        file.create_dataset(name, (4, 1), np.uint16, external=[(__file__, 0, 8)])

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda file: file.pop("rawDepths"), "has no array 'rawDepths' of 3 axes"),
        (replace("images", np.zeros((4, 3), np.uint8)), "has no array 'images' of 4 axes"),
        (replace("images", h5py.ExternalLink("/etc/hosts", "/images")), "has no array 'images' of 4 axes"),
        (replace("images", np.zeros((4, 1, 64, 48), np.uint8)), "images is uint8 (4, 1, 64, 48) and rawDepths float32"),
        (replace("images", np.zeros((4, 3, 640, 480), np.float32)), "images is float32 (4, 3, 640, 480)"),
        (replace("rawDepths", np.zeros((3, 640, 480), np.float32)), "rawDepths float32 (3, 640, 480); expected uint8"),
        (replace("sceneTypes", np.zeros((1, 4))), "'sceneTypes' has shape (1, 4); expected (1, 4) references"),
        (replace("#refs#/scenes2", np.array([[46], [46], [47]], np.uint16)), "'scenes' of picture 2 is '../', which"),
        (elsewhere("#refs#/scenes2"), "'scenes' of picture 2 is '', which is no scene name"),
        (replace("#refs#/sceneTypes1", np.array([[65.0]])), "'sceneTypes' of picture 1 is '', which is no scene name"),
        (replace("rawDepths", np.full((4, 640, 480), 70, np.float32)), "picture 0: raw depth is 70.0..70.0 m; 0..65.5"),
        (replace("rawDepths", np.full((4, 640, 480), -1, np.float32)), "picture 0: raw depth is -1.0..-1.0 m"),
    ],
)
def test_files_that_are_something_else(root, edit, message):
    change(root, edit)
    if "#refs#" in message or "which" in message:
        rebind(root)
    assert message in refusal(root)


def rebind(root):
    """References to arrays that were replaced."""

    def edit(file):
        for key in ("sceneTypes", "scenes"):
            references = file[key][()]
            for index in range(4):
                references[0, index] = file[f"#refs#/{key}{index}"].ref
            file[key][...] = references

    change(root, edit)


def test_depth_that_is_not_finite_is_missing(root):
    depth_m = np.full((4, 640, 480), 2, np.float32)
    depth_m[:, :10] = np.nan
    change(root, replace("rawDepths", depth_m))
    extract_nyu(root)
    stored = np.asarray(Image.open(root / SPLITS / "test/kitchen/sync_depth_00000.png"))
    assert set(np.unique(stored[:, :10])) == {0} and set(np.unique(stored[:, 10:])) == {2000}


def test_a_damaged_picture_is_named(root):
    def compress(file):
        images = file["images"][()]
        del file["images"]
        file.create_dataset("images", data=images, chunks=(1, 3, 640, 480), compression="gzip")

    change(root, compress)
    with h5py.File(root / MAT_FILE) as file:
        chunk = file["images"].id.get_chunk_info(1)
    with (root / MAT_FILE).open("r+b") as raw:
        raw.seek(chunk.byte_offset + 512)  # after MATLAB's header
        raw.write(b"\xff" * 64)
    assert "picture 1 is damaged" in refusal(root)
    assert (root / SPLITS / "UNFINISHED").exists()
