"""What an evaluation found, in words and columns."""

from __future__ import annotations

import math
from typing import Any

from vpd.config import Resize
from vpd.evaluation.report import class_rows, count_words, interval_words, metric_rows
from vpd.metrics.words import write_value


def report(**changes: Any) -> dict[str, Any]:
    """What an evaluation of three classes might say."""
    return {
        "task": "segment",
        "samples": 3,
        "available": 3,
        "groups": 3,
        "metrics": {"mIoU": 0.5, "aAcc": 0.75},
        "intervals": {"mIoU": [0.4, 0.6], "aAcc": [0.7, 0.8]},
        "per_class": {
            "nowhere": {"IoU": math.nan, "Acc": math.nan, "share": 0.0},
            "bad": {"IoU": 0.1, "Acc": 0.2, "share": 0.3},
            "good": {"IoU": 0.9, "Acc": 0.95, "share": 0.7},
        },
        "protocol": {"": "labels at the size of the images"},
        "fit": Resize().model_dump(mode="json"),
        **changes,
    }


def test_values_have_their_unit():
    assert write_value("mIoU", 0.41239) == "41.24 %"
    assert write_value("oIoU_squashed", 1.0) == "100.00 %"
    assert write_value("d1", 0.9641) == "0.9641"
    assert write_value("rmse", 0.25404) == "0.2540 m"
    assert write_value("abs_rel", 0.069) == "0.0690"
    assert write_value("sentences_squashed", 168.0) == "168"
    assert write_value("IoU", math.nan) == "–"


def test_metrics_stand_under_what_was_measured():
    both = report(
        metrics={"oIoU": 0.5, "oIoU_squashed": 0.25}, intervals={}, protocol={"": "original", "_squashed": "squashed"}
    )
    assert list(metric_rows(both)) == [
        ("Original", [("oIoU", "50.00 %", "")]),
        ("Squashed", [("oIoU_squashed", "25.00 %", "")]),
    ]
    ((_, rows),) = metric_rows(report())
    assert ("mIoU", "50.00 %", "40.00 % to 60.00 %") in rows


def test_classes_stand_from_best_to_worst():
    assert [name for name, _ in class_rows(report())] == ["good", "bad", "nowhere"]
    assert dict(class_rows(report()))["nowhere"] == {"IoU": "–", "Acc": "–", "share": "0.00 %"}


def test_words_about_samples_and_groups():
    assert interval_words(report(samples=12, groups=12)) == "Intervals: 95 %, bootstrap over 12 samples."
    assert "over 3 samples. With only 3 of these to draw from they are weak" in interval_words(report())
    frames = interval_words(report(samples=101, groups=2, grouped_by="recording"))
    assert frames.startswith("101 frames of 2 recordings. Intervals: 95 %, bootstrap over recordings. With only 2")
    one_film = interval_words(report(samples=101, groups=1, grouped_by="recording"))
    assert one_film.startswith("No intervals: all 101 samples are frames of one recording") and "--group-by" in one_film
    assert "2 groups of 3 samples (by (.*)_)" in interval_words(report(groups=2, grouped_by="(.*)_"))
    assert "2 groups of 3 samples" in interval_words(report(groups=2))
    assert "all samples belong to one group" in interval_words(report(groups=1))
    assert "there is one sample" in interval_words({**report(groups=1), "samples": 1})
    assert count_words(report()) == "3 samples"
    assert count_words(report(available=654)) == "The first 3 of 654 samples"
