"""Questions about places have one answer each, and the count tells who hears them from who does not."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import vpd
from experiments.listening import NAMES, OPPOSITES, ask, counts, draw, main, marks, questions, wilson
from vpd.world.expressions import expressions
from vpd.world.wordings import EXTREMES

COUNT = 10


@pytest.fixture(scope="module")
def asked():
    return questions(COUNT, size_px=64)


class Oracle:
    """Marks what the words mean; or, deaf, the object that the first call asked for, whatever is said after."""

    def __init__(self, asked, *, is_deaf):
        self.meant = {question.text: question for question in asked}
        self.exchanged = {} if not is_deaf else {question.exchanged: question for question in asked}

    def predict(self, images, *, text, batch_size):
        known = self.meant if all(each in self.meant for each in text) else self.exchanged
        return [SimpleNamespace(mask=torch.from_numpy(self.mask(known.get(each)))) for each in text]

    def mask(self, question):
        if question is None:
            return np.zeros((64, 64), bool)
        return question.rendering.instances == question.index + 1


def test_the_shipped_model_hears_where():
    """49 of the 50 questions at its own size, and none exchanged: of eight others, most."""
    asked = questions(8, size_px=128, seed=1)
    found = counts(asked, ask(vpd.load("world-refer", device="cpu"), asked))["all"]
    assert found["right"] >= 7 and found["exchanged"] <= 1


def test_words_come_in_equal_parts_and_are_true(asked):
    assert Counter(question.word for question in asked) == {
        word: COUNT // 4 + (place < COUNT % 4) for place, word in enumerate(OPPOSITES)
    }
    assert len({question.text for question in asked}) > 1
    for question in asked:
        forms = (f"the {question.word} {{}}", *EXTREMES[question.word])
        said = [one for one in expressions(question.rendering) if one.index == question.index]
        phrases = [
            one.text.removeprefix(f"the {question.word} ")
            for one in said
            if one.text.startswith(f"the {question.word} ")
        ]
        assert any(form.format(phrase) == question.text for form in forms for phrase in phrases)
        assert question.exchanged != question.text


def test_the_same_seed_asks_the_same(asked):
    again = questions(2, size_px=64)
    assert [(one.text, one.index) for one in again] == [(one.text, one.index) for one in asked[:2]]
    assert [one.text for one in questions(4, size_px=64, seed=5)] != [one.text for one in asked[:4]]


def test_who_hears_is_told_from_who_does_not(asked):
    for is_deaf in (False, True):
        found = counts(asked, ask(Oracle(asked, is_deaf=is_deaf), asked))
        assert found["all"]["right"] == COUNT and found["all"]["exchanged"] == COUNT * is_deaf
        assert set(found) == {*NAMES.values(), "all"}


def test_more_than_one_object_is_not_right(asked):
    question = asked[0]
    everything = question.rendering.instances > 0
    assert not marks(everything, question) and not marks(np.zeros_like(everything), question)
    assert marks(question.rendering.instances == question.index + 1, question)


def test_wilson_by_hand():
    low, high = wilson(35, 50)
    assert low == pytest.approx(0.5625, abs=1e-3) and high == pytest.approx(0.8090, abs=1e-3)
    assert wilson(0, 0) == (0.0, 1.0) and wilson(10, 10)[1] == pytest.approx(1.0)


def test_sheet_shows_those_that_were_asked_first(asked):
    heard = ask(Oracle(asked, is_deaf=False), asked)
    assert draw(asked, heard, count=4).height < draw(asked, heard).height


@pytest.mark.extras
def test_the_command_writes_counts_and_a_sheet(tmp_path, capsys):
    main([str(tmp_path), "--scenes", "4"])
    assert {path.name for path in tmp_path.iterdir()} == {"listening.json", "listening.png"}
    assert "of 4" in capsys.readouterr().out
