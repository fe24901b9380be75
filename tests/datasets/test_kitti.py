import re
import shutil

import numpy as np
import pytest
from PIL import Image

from data_layouts import write_kitti
from vpd.data.sample import CountedDepth
from vpd.datasets.kitti import KittiDepth, eigen_test_pairs
from vpd.datasets.pair_lists import read_pair_list
from vpd.errors import UsageError
from vpd.metrics.depth import crop_window

TRUTH = "data_depth_annotated/train/2011_09_26_drive_0057_sync/proj_depth/groundtruth/image_02/0000000005.png"
IMAGE = "2011_09_26/2011_09_26_drive_0057_sync/image_02/data/0000000005"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_kitti(tmp_path_factory.mktemp("kitti"))


@pytest.fixture
def root(written, tmp_path):
    return shutil.copytree(written, tmp_path / "kitti")


def stored(root, name):
    return np.asarray(Image.open(root / name))


def test_pictures_and_depth_are_cut_alike(written):
    train = KittiDepth(written, "train")
    sample = train[0]
    assert sample.depth_m is not None and sample.depth_m.dtype == np.float32
    assert sample.image.shape == (352, 1216, 3) and sample.depth_m.shape == (352, 1216)
    # 1242x375: the last 352 rows, 13 columns from the left
    assert (sample.image == stored(written, f"raw_data/{IMAGE}.png")[23:, 13:1229]).all()
    assert (sample.depth_m == (stored(written, TRUTH) / 256)[23:, 13:1229].astype(np.float32)).all()
    assert train[2].image.shape == (352, 1216, 3)  # 1224x370
    assert (sample.name, sample.scene, sample.group) == (IMAGE, "street", "2011_09_26_drive_0057")
    assert train.scenes == ("street",)
    assert {train[n].group for n in range(4)} == {"2011_09_26_drive_0057", "2011_09_30_drive_0020"}


def test_whole_pictures(written):
    whole = KittiDepth(written, "train", kb_crop=False)[0]
    assert whole.depth_m is not None
    assert whole.image.shape == (375, 1242, 3) and whole.depth_m.shape == (375, 1242)


def test_both_published_layouts_give_the_same(written, tmp_path):
    other = write_kitti(tmp_path, style="bts")
    for split in ("train", "test"):
        ours, theirs = KittiDepth(written, split), KittiDepth(other, split)
        assert len(ours) == len(theirs) == 4
        for index in range(4):
            a, b = ours[index], theirs[index]
            assert (a.name, a.group) == (b.name, b.group)
            assert (a.image == b.image).all() and (a.depth_m == b.depth_m).all()
    assert KittiDepth(other, "test").notes == [
        f"list: {other / 'eigen_test_files_with_gt.txt'}; lines without depth: 1",
    ]


@pytest.mark.parametrize("crop", ["garg", "eigen"])
def test_crops_of_the_cut_and_of_the_picture(written, crop):
    cut = KittiDepth(written, "test", crop=crop)
    assert cut.counted == CountedDepth(1e-3, 80.0, crop)
    picture = KittiDepth(written, "test", crop=crop, crop_of="picture")
    assert picture.counted == CountedDepth(1e-3, 80.0, None)
    assert KittiDepth(written, "val").pairs == cut.pairs
    for index in (0, 2):
        name = re.sub(r"^.*?/", "data_depth_annotated/", picture.pairs[index].depth)
        truth = stored(written, name) / np.float32(256)
        rows, columns = crop_window(crop, *truth.shape)
        expected = np.zeros_like(truth)
        expected[rows, columns] = truth[rows, columns]
        left = (truth.shape[1] - 1216) // 2
        assert (picture[index].depth_m == expected[-352:, left : left + 1216]).all()
        assert np.count_nonzero(expected[:-352]) == 0  # the part lies within the cut: nothing of it is lost
        assert np.count_nonzero(picture[index].depth_m) == np.count_nonzero(expected) > 0
        assert (cut[index].depth_m == truth[-352:, left : left + 1216]).all()


def test_no_crop_and_crops_in_training(written):
    assert KittiDepth(written, "test", crop="none").counted.crop is None
    assert KittiDepth(written, "test", kb_crop=False, crop_of="picture").counted.crop == "garg"
    train = KittiDepth(written, "train", crop_of="picture")[0].depth_m
    assert train is not None and train[:, :5].any()  # the truth of training stays whole


def test_the_test_split_is_known_without_a_list(root):
    (root / "test_list.txt").unlink()
    test = KittiDepth(root, "test")
    assert len(test) == 652 and test.notes == ["list: the 652 pictures of the Eigen split with annotated depth"]
    names = [pair.image for pair in test.pairs]
    assert test[names.index("2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png")].depth_m is not None
    with pytest.raises(UsageError, match=r"0000000006\.png: no such file; the Eigen test split names it"):
        test[0]


def test_the_known_split_is_the_published_one(test_data):
    published, _ = read_pair_list(test_data / "formats/kitti_eigen_benchmark_test_list.txt")
    known = eigen_test_pairs()
    assert {pair.image.removeprefix("raw_data/") for pair in published} == {pair.image for pair in known}
    depths = {re.sub("^data_depth_annotated/(train|val)/", "", pair.depth) for pair in published}
    assert depths == {pair.depth for pair in known}


def refusal(root, split="train", **options):
    with pytest.raises(UsageError) as error:
        KittiDepth(root, split, **options)
    return str(error.value)


def test_wrong_requests(root):
    assert "no split 'dev'; there are: train, test (val means test)" in refusal(root, "dev")
    assert "crop='nyu'; choose one of: garg, eigen, none" in refusal(root, crop="nyu")
    assert "crop_of='cut'; choose one of: kb, picture" in refusal(root, crop_of="cut")
    assert "no such list file" in refusal(root, list_file=root / "gone.txt")
    (root / "train_list.txt").write_text("a.png None\n")
    assert "train_list.txt: has no picture with a depth" in refusal(root)
    (root / "train_list.txt").unlink()
    assert "no list of the train split; looked for train_list.txt, eigen_benchmark/train_list.txt" in refusal(root)


def test_bad_files(root):
    train = KittiDepth(root, "train")
    Image.fromarray(np.zeros((375, 1242), np.uint8)).save(root / TRUTH)
    with pytest.raises(UsageError, match=r"0000000005\.png: depth needs one channel of 16 bits or float"):
        train[0]
    (root / TRUTH).unlink()
    with pytest.raises(UsageError, match=r"0000000005\.png: no such file; .*train_list\.txt, line 1 names it"):
        train[0]
    Image.fromarray(np.ones((300, 1242), np.uint16)).save(root / TRUTH)
    Image.new("RGB", (1242, 300)).save(root / f"raw_data/{IMAGE}.png")
    with pytest.raises(
        UsageError, match=r"picture size 1242x300; KITTI's cut needs 1216x352 or more\. Set kb_crop=fal"
    ):
        train[0]
    assert KittiDepth(root, "train", kb_crop=False)[0].image.shape == (300, 1242, 3)
