import json

import numpy as np
import pytest

from data_layouts import write_nyu
from vpd.data.sample import CountedDepth
from vpd.datasets.nyu import NyuDepth, nyu_scenes, scene_of
from vpd.datasets.pair_lists import read_pair_list
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
    assert "no split 'dev'; there are: train, test, official_train (val means test)" in refusal(nyu_root, "dev")
    assert "no folder sync/" in refusal(tmp_path)
    assert "no such list file" in refusal(nyu_root, list_file=tmp_path / "gone.txt")
    (nyu_root / "train_list.txt").write_text("\n")
    assert "has no pair" in refusal(nyu_root)


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
    with pytest.raises(UsageError, match=r"sync_depth_00045\.png: no such file; .*train_list\.txt, line 1 names it"):
        samples[0]


def test_groups_are_rooms(nyu_root, tmp_path):
    train = NyuDepth(nyu_root, "train")
    assert [train[n].group for n in (0, 1)] == ["study_room_0004", "kitchen_0028"]  # 28a and 28b are one room
    assert NyuDepth(nyu_root, "test")[0].group == "bathroom"
    rooms = nyu_root / "official_splits/rooms.json"
    rooms.write_text(json.dumps({"00045": "bathroom_0002b"}))
    assert NyuDepth(nyu_root, "test")[0].group == "bathroom_0002"
    assert NyuDepth(nyu_root, "train")[0].group == "study_room_0004"  # other pictures of the same number
    rooms.write_text("{")
    assert "rooms.json: not JSON" in refusal(nyu_root, "test")
    rooms.write_text('{"00045": 3}')
    assert "rooms.json: must map picture numbers to rooms" in refusal(nyu_root, "test")


def test_an_unfinished_extraction_is_not_used(nyu_root):
    (nyu_root / "official_splits/UNFINISHED").touch()
    assert "was not extracted to the end; run `vpd data prepare nyu" in refusal(nyu_root, "test")
    assert len(NyuDepth(nyu_root, "train")) == 2


def test_true_layout(tmp_path):
    root = write_nyu(tmp_path)
    train, test = NyuDepth(root, "train"), NyuDepth(root, "test")
    assert (len(train), len(test)) == (6, 4)
    assert [train[n].scene for n in (0, 2, 4)] == ["kitchen", "study", "kitchen"]
    assert [test[n].scene for n in (0, 2)] == ["bathroom", "office"]
    assert test.counted == CountedDepth(1e-3, 10.0, "nyu")
    depth_m = test[0].depth_m
    assert depth_m is not None and depth_m.shape == (480, 640) and depth_m[479, 0] == np.float32(0.7)
    for split in ("train", "test"):
        (root / f"{split}_list.txt").rename(root / f"nyudepthv2_{split}_files_with_gt.txt")
        assert "nyudepthv2_" in NyuDepth(root, split).notes[0]


def test_real_frames(test_data):
    root = test_data / "nyu_depth_v2"
    train, test = NyuDepth(root, "train"), NyuDepth(root, "test")
    assert (len(train), len(test)) == (150, 56)
    assert {test[n].scene for n in (0, 55)} <= set(nyu_scenes())


def test_real_test_list(test_data):
    pairs, _ = read_pair_list(test_data / "formats/nyu_test_list.txt")
    assert len(pairs) == 654
    assert all(scene_of(pair.image, nyu_scenes()) for pair in pairs)
