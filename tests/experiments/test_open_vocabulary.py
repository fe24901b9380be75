"""Lists of prompts and what fits them, and a model that learns from them and is measured, in miniature."""

import json

import numpy as np
import pytest
import torch

from experiments.open_measures import lists_of
from experiments.open_vocabulary import fitting, main
from experiments.open_words import (
    FINE,
    MOST_PROMPTS,
    NEVER_TOGETHER,
    ROOM,
    SEPARATOR,
    WordedScenes,
    descriptions,
    draw_list,
    fine_labels,
    fits,
    is_held_out,
    truth_of_prompts,
    wordings,
)
from vpd.world.render import render
from vpd.world.scenes import CLASSES, Scene, Thing

THINGS = (Thing("cube", "red", "metal", "large", -0.8, 3.5), Thing("cone", "purple", "matte", "large", 0.9, 3.5))


def test_fine_labels_hold_the_truth_of_every_prompt():
    rendering = render(Scene(THINGS), 48)
    labels = torch.from_numpy(fine_labels(rendering))
    cube, cone = (torch.from_numpy(rendering.instances == number) for number in (1, 2))
    prompts = ["red things", "cubes", "metal cubes", "things", "floor", "blue objects", "a cone"]
    found = fitting(prompts, labels)
    assert cube.any() and cone.any()
    for mask, expected in zip(found, (cube, cube, cube, cube | cone, None, cube & cone, cone), strict=True):
        assert expected is None or torch.equal(mask, expected)
    assert torch.equal(found[4], torch.from_numpy(rendering.labels == CLASSES.index("floor")))


def test_every_prompt_means_something_and_no_two_descriptions_share_one():
    said = [text for words in descriptions() for text in wordings(words)]
    assert len(said) == len(set(said))
    assert all(0 < fits(words).sum() < len(FINE) for words in descriptions())
    assert fits({}).sum() == len(FINE) - len(ROOM)


def test_some_pairs_are_never_named_together():
    rng, known = np.random.default_rng(0), truth_of_prompts()
    held_out = {text for words in descriptions() if is_held_out(words) for text in wordings(words)}
    assert len(held_out) > 4 * len(NEVER_TOGETHER) and not held_out & set(known)
    drawn = [draw_list(THINGS, rng) for _ in range(200)]
    assert all(len(prompts) == len(set(prompts)) == MOST_PROMPTS for prompts in drawn)
    texts = {text for prompts in drawn for text in prompts}
    assert texts <= set(known) and {"purple things", "cones", "red cubes"} <= texts


def test_scenes_are_the_same_each_time_and_have_one_list():
    scenes = WordedScenes("train", 4, 32, seed=3)
    first, again = scenes[2], scenes[2]
    assert first.texts == again.texts and len(first.texts) == 1 and SEPARATOR in first.texts[0]
    np.testing.assert_array_equal(first.labels, again.labels)
    asked = lists_of(scenes.rendering(2))
    assert {"colours", "shapes", "pairs", "overlapping"} == set(asked) and all(map(len, asked.values()))


@pytest.mark.extras
def test_train_go_on_and_measure(tiny_diffusion, tmp_path, capsys):
    run, report = tmp_path / "run", tmp_path / "words.json"
    small = [f'model="{tiny_diffusion}"', "batch_size=2", "crop_px=64", "checkpoint_every=1", 'precision="no"']
    main(["train", "--out", str(run), "--set", *small, "steps=1"])
    main(["train", "--out", str(run), "--resume", "--set", "steps=2"])
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if entry["kind"] == "train"][-1] == 2
    main(["measure", str(run / "model"), "--scenes", "2", "--out", str(report)])
    found = json.loads(report.read_text())
    assert 0 <= found["colours"]["mIoU"] <= 1 and found["pairs, exchanged"]["descriptions"] > 1
