"""Scores that shall tell two kinds of samples apart: how well they do, and as a probability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_STEPS = 100


def roc_auc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Share of the pairs of a right and a wrong score in which the right one is larger; equal ones count half."""
    difference = np.subtract.outer(np.asarray(right), np.asarray(wrong))
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def fit_platt(right: Sequence[float], wrong: Sequence[float]) -> tuple[float, float]:
    """Slope and offset with which the logistic function of a score is the probability that it is of a right sample.

    As many right as wrong ones are taken for likely. A score that is larger for wrong samples gets the slope 0: it
    tells nothing.

    Args:
        right: Scores of right samples, any range.
        wrong: Of wrong ones.

    Source: Platt 1999, Probabilistic outputs for support vector machines, with his targets, which keep the slope
    finite where a score separates the samples.
    """
    scores = np.concatenate([right, wrong])
    targets = np.repeat([(len(right) + 1) / (len(right) + 2), 1 / (len(wrong) + 2)], [len(right), len(wrong)])
    weights = np.repeat([0.5 / len(right), 0.5 / len(wrong)], [len(right), len(wrong)])
    centre, spread = scores.mean(), max(float(scores.std()), 1e-9)
    design = np.stack([(scores - centre) / spread, np.ones(len(scores))], axis=1)
    fitted = np.zeros(2)
    for _ in range(_STEPS):  # Newton's, damped; the loss is convex
        probability = 1 / (1 + np.exp(-design @ fitted))
        gradient = design.T @ (weights * (probability - targets))
        curvature = design.T @ (design * (weights * probability * (1 - probability))[:, None]) + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        fitted -= step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    if fitted[0] <= 0:
        return 0.0, 0.0
    return float(fitted[0] / spread), float(fitted[1] - fitted[0] * centre / spread)
