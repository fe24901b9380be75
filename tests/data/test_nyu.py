import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpd.data.nyu import NyuDepth, nyu_scenes, read_pair_list, scene_of
from vpd.errors import UsageError


def test_train_and_test(nyu_root):
    train = NyuDepth(nyu_root, "train")
    assert [train[n].name for n in range(len(train))] == ["study_room_0004/rgb_00045", "kitchen_0028b/rgb_00046"]
    depth_m = train[0].depth_m
    assert depth_m is not None and depth_m.dtype == np.float32
    assert depth_m[0, 0] == 0 and depth_m[1, 1] == pytest.approx(1.045)
    assert train[0].scene == "study"
    assert NyuDepth(nyu_root, "train", strict_scenes=True)[0].scene == "study_room"
    test = NyuDepth(nyu_root, "test")
    assert len(test) == 1 and test[0].scene == "bathroom"
    assert NyuDepth(nyu_root, "val").pairs == test.pairs


def test_without_list_files_every_pair_counts(nyu_root):
    (nyu_root / "train_list.txt").unlink()
    assert len(NyuDepth(nyu_root, "train")) == 4


def test_another_list(nyu_root, tmp_path):
    (tmp_path / "mine.txt").write_text("kitchen_0028b/rgb_00045.jpg kitchen_0028b/sync_depth_00045.png\n")
    samples = NyuDepth(nyu_root, "train", list_file=tmp_path / "mine.txt")
    assert [samples[0].name] == ["kitchen_0028b/rgb_00045"]


def test_scenes_are_the_reference_s(golden):
    expected = golden.json("real/nyu_scene_of_file_name.json")["class_id_of_file_name"]
    scenes = nyu_scenes()
    assert list(scenes) == golden.json("real/nyu_class_list.json")
    for name, number in expected.items():
        scene = scene_of(name, scenes)
        assert scene is not None and scenes.index(scene) == number


@pytest.mark.parametrize(
    ("folder", "loose", "strict"),
    [
        ("study_room_0004", "study", "study_room"),
        ("office_kitchen_0001a", "kitchen", "office_kitchen"),
        ("nyu_office_1", "office", None),
        ("home_office_0005", "home_office", "home_office"),
        ("bathroom", "bathroom", "bathroom"),
        ("garage_0001", None, None),
    ],
)
def test_scene_rules(folder, loose, strict):
    name = f"{folder}/rgb_00001.jpg"
    assert scene_of(name, nyu_scenes()) == loose
    assert scene_of(name, nyu_scenes(), strict=True) == strict


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        NyuDepth(root, split, **options)
    return str(error.value)


def test_wrong_folders(nyu_root, tmp_path):
    assert "no split 'dev'; there are: train, test" in refusal(nyu_root, "dev")
    assert "no folder sync/" in refusal(tmp_path)
    assert "no such list file" in refusal(nyu_root, list_file=tmp_path / "gone.txt")
    (nyu_root / "train_list.txt").write_text("\n")
    assert "has no pair" in refusal(nyu_root)


@pytest.mark.parametrize(
    ("line", "message"),
    [("a.jpg", "line 1: 1 columns"), ("a b c d", "line 1: 4 columns"), ("../a.jpg b.png", "must stay inside")],
)
def test_malformed_lists(nyu_root, line, message):
    (nyu_root / "train_list.txt").write_text(line)
    assert message in refusal(nyu_root)


NAMES = st.text("abc_01", min_size=1, max_size=8)


@given(st.lists(st.tuples(NAMES, NAMES, st.booleans(), st.booleans())), st.booleans())
def test_both_list_styles_mean_the_same(tmp_path_factory, rows, ends_with_newline):
    lines = [f"{'/' * slash}{a}.jpg {'/' * slash}{b}.png{' 518.8579' * focal}" for a, b, slash, focal in rows]
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_text("\n".join(lines) + "\n" * ends_with_newline)
    assert read_pair_list(path) == [(f"{a}.jpg", f"{b}.png") for a, b, _, _ in rows]


def test_bad_pairs(nyu_root, grey):
    samples = NyuDepth(nyu_root, "train")
    depth = nyu_root / "sync/study_room_0004/sync_depth_00045.png"
    grey(depth, np.zeros((5, 8), dtype=np.uint16))
    with pytest.raises(UsageError, match=r"sync_depth_00045\.png: depth size 8x5 differs from the image's 8x6"):
        samples[0]
    grey(depth, np.zeros((6, 8), dtype=np.uint8))
    with pytest.raises(UsageError, match=r"sync_depth_00045\.png: depth needs one channel of 16 bits"):
        samples[0]
    depth.unlink()
    with pytest.raises(UsageError, match=r"sync_depth_00045\.png: no such file"):
        samples[0]


def test_real_frames(test_data):
    root = test_data / "nyu_depth_v2"
    train, test = NyuDepth(root, "train"), NyuDepth(root, "test")
    assert (len(train), len(test)) == (150, 56)
    assert {test[n].scene for n in (0, 55)} <= set(nyu_scenes())


def test_real_test_list(test_data):
    pairs = read_pair_list(test_data / "formats/nyu_test_list.txt")
    assert len(pairs) == 654
    assert all(scene_of(image, nyu_scenes()) for image, _ in pairs)
