"""Every kind of expression is counted by itself: a model that hears all is right, one that hears nothing is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from experiments.referring_kinds import Asked, asked_of, kinds_of, measure, summary, table
from vpd.world.expressions import Expression


class Marks:
    """Marks the object that an answer sheet says, or all objects."""

    def __init__(self, sheet: dict[tuple[bytes, str], Any]) -> None:
        self.sheet = sheet

    def predict(self, image: Any, *, text: str) -> Any:
        instances, wanted = self.sheet[image.tobytes(), text]
        mask = instances == wanted if wanted else instances > 0
        return SimpleNamespace(mask=torch.from_numpy(mask))


def sheet_of(asked: list[Asked], *, hears: bool) -> Marks:
    return Marks(
        {
            (one.image.tobytes(), one.expression.text): (one.instances, one.expression.index + 1 if hears else 0)
            for one in asked
        }
    )


def test_a_model_that_hears_all_is_right_and_one_that_marks_all_is_not() -> None:
    asked = asked_of("val", 6, size_px=48)
    texts = [one.expression.text for one in asked]
    right, wrong = (summary(asked, measure(sheet_of(asked, hears=hears), asked, texts)) for hears in (True, False))
    assert right["all"]["expressions"] == 24 and right["all"]["intervals"]["oIoU"] == (1.0, 1.0)
    assert all(values["right"] == values["oIoU"] == 1 for values in right.values())
    assert wrong["all"]["right"] < 0.3 and wrong["all"]["oIoU"] < 0.6
    assert sum(right[kind]["expressions"] for kind in ("attribute", "superlative", "relation")) == 24
    assert "| all | 24 | 100.0 (100.0 to 100.0) | 100.0 (100.0 to 100.0) % |" in table(right, wrong)


def test_kinds_of_an_expression() -> None:
    assert list(kinds_of(Expression("the small green cone", 0, "attribute"))) == [
        "all",
        "attribute",
        "attribute: size and colour and shape",
        "attribute: with size",
        "attribute: with colour",
        "attribute: with shape",
    ]
    assert list(kinds_of(Expression("the leftmost cube", 0, "superlative")))[-1] == "superlative: leftmost"
    relation = Expression("the cube to the left of the red sphere", 0, "relation")
    assert list(kinds_of(relation))[-1] == "relation: to the left of"


def test_an_object_is_right_only_where_it_is_marked_more_than_others() -> None:
    instances = np.array([[1, 1, 2, 2, 2, 2, 0, 0]])
    one = Asked(0, np.zeros((1, 8, 3), np.uint8), instances, Expression("the cube", 0, "attribute"))
    for marked, is_right in (
        ([1, 1, 0, 0, 0, 0, 0, 0], 1),
        ([1, 0, 0, 0, 0, 0, 0, 0], 0),
        ([1, 1, 1, 1, 1, 0, 0, 0], 0),
    ):
        model = SimpleNamespace(predict=lambda image, text, marked=marked: SimpleNamespace(mask=torch.tensor([marked])))
        (row,) = measure(model, [one], ["the cube"])
        assert row[2] == is_right
