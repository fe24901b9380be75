"""Labels numbered as a model numbers its classes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from vpd.data.batches import SampleStream
from vpd.data.matching import match_classes
from vpd.data.sample import Sample, SampleSet
from vpd.errors import UsageError


class Rows(SampleSet):
    """One picture with a row for each label."""

    def __init__(
        self, classes: tuple[str, ...], labels: list[int], label_values: tuple[int, ...] | None = None
    ) -> None:
        self.classes, self.label_values = classes, label_values
        self._labels = np.repeat(np.array(labels, np.uint8)[:, None], 4, axis=1)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample("street/7", np.zeros((*self._labels.shape, 3), np.uint8), labels=self._labels)

    def sample_keys(self) -> tuple[str, ...]:
        return ("street/7",)


def first_column(sample_set: SampleSet) -> list[int]:
    return np.asarray(sample_set[0].labels)[:, 0].tolist()


def test_the_same_list_needs_nothing():
    samples = Rows(("sky", "road"), [0, 1])
    assert match_classes(samples, ("sky", "road")) is samples
    assert match_classes(samples, ()) is samples


def test_another_order_and_fewer_classes_are_matched_by_name():
    samples = match_classes(Rows(("road", "sky"), [0, 1, 255], (7, 23)), ("sky", "tree", "road"))
    assert first_column(samples) == [2, 0, 255] and samples[0].labels.dtype == np.uint8
    assert samples.classes == ("sky", "tree", "road") and samples.label_values is None
    assert list(samples.sample_keys()) == ["street/7"] and samples.reading() == {} and len(samples) == 1
    assert first_column(pickle.loads(pickle.dumps(samples))) == [2, 0, 255]
    whole = match_classes(Rows(("road", "sky"), [0, 1], (7, 23)), ("sky", "road"))
    assert whole.label_values == (23, 7)


def test_a_class_that_the_model_lacks_may_have_no_pixel():
    assert first_column(match_classes(Rows(("dog", "cat"), [1, 1]), ("cat", "bird"))) == [0, 0]
    samples = match_classes(Rows(("dog", "cat"), [1, 0]), ("cat", "bird"))
    with pytest.raises(UsageError, match=r"street/7: has pixels of the class 'dog', .* data: dog, cat\. The mo"):
        samples[0]


def test_nothing_in_common_is_refused_and_renamed_classes_go_by_their_number():
    with pytest.raises(
        UsageError, match=r"None of the data's .* data: way, air\. The model: road, sky\. .*classes=\[...\]"
    ):
        match_classes(Rows(("way", "air"), [0]), ("road", "sky"))
    samples = match_classes(Rows(("air", "way"), [0, 1]), ("road", "sky"), known_as=("way", "air"))
    assert first_column(samples) == [1, 0] and samples.classes == ("road", "sky")


@pytest.mark.parametrize("classes", [("sky", "road"), ()])
def test_a_label_outside_the_list_is_named(classes: tuple[str, ...]):
    samples = match_classes(Rows(classes, [0, 7]), ("sky", "road"))
    stream = SampleStream(samples, lambda sample, rng: sample, seed=0, batch_size=1)
    with pytest.raises(UsageError, match=r"street/7: label 7 at row 1, column 0 is outside the class list \(0\.\.1"):
        next(iter(stream))


def test_labels_of_own_sets_may_be_signed():
    samples = Rows(("sky", "road"), [0])
    samples._labels = np.array([[0, -1]])
    with pytest.raises(UsageError, match="label -1 at row 0, column 1"):
        match_classes(samples, ("road", "sky"))[0]
