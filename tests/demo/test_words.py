"""Classes in words: the truth of a list, and scenes that have what it asks for."""

import torch
from PIL import Image

import vpd
from vpd.demo.words import LISTS, first_with, true_labels
from vpd.metrics.segmentation import SegmentationMetrics
from vpd.world.dataset import split_seed
from vpd.world.render import render
from vpd.world.sample_scene import sample_scene
from vpd.world.scenes import CLASSES, Scene, Thing


def test_truth_is_the_first_that_fits():
    things = (Thing("cube", "red", "metal", "large", -0.8, 3.5), Thing("cube", "blue", "matte", "large", 0.9, 3.5))
    scene = render(Scene(things), 48)
    red, blue, floor = scene.instances == 1, scene.instances == 2, scene.labels == CLASSES.index("floor")
    labels = true_labels(scene, ("red things", "cubes", "floor"))
    assert (labels[red] == 0).all() and (labels[blue] == 1).all() and (labels[floor] == 2).all()
    assert (labels[~(red | blue | floor)] == 255).all()
    other = true_labels(scene, ("cubes", "red things", "walls"))
    assert (other[red | blue] == 0).all() and not (other == 1).any()
    assert (other[scene.labels == CLASSES.index("wall")] == 2).all()


def test_scenes_have_two_of_the_things():
    for words in LISTS:
        scene = first_with(words, split_seed(7, "test"), size_px=32)
        assert len(set(true_labels(scene, words).ravel().tolist()) - {255}) > 1


def test_the_shipped_model_heeds_the_words():
    model, words = vpd.load("world-open", device="cpu"), ("red things", "cubes", "floor")
    right, exchanged = SegmentationMetrics(len(words)), SegmentationMetrics(len(words))
    for index in range(16):
        scene = render(sample_scene(split_seed(9, "test"), index), 128)
        truth = torch.from_numpy(true_labels(scene, words))
        image = Image.fromarray(scene.image)
        right.update(model.predict(image, classes=words).labels, truth)
        others = model.predict(image, classes=(*words[1:], words[0])).labels  # as if each word were the one before it
        exchanged.update(others, truth)
    assert right.compute()["mIoU"] > 0.3 and right.compute()["mIoU"] > 3 * exchanged.compute()["mIoU"]
