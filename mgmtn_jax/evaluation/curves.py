"""Precision-recall curves and reliability diagrams."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from mgmtn_jax.evaluation.counts import CALIBRATION_BINS, calibration_bins

Curve = tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]
"""x and y coordinates."""


def precision_recall(probabilities: Float[np.ndarray, "N"], labels: Int[np.ndarray, "N"]) -> Curve:
    """Recall and precision at each distinct score as threshold, in descending order of the score.

    Args:
      probabilities: Predicted probabilities.
      labels: 1 positive, 0 negative, -1 unknown and left out.

    Returns:
      Recall as x and precision as y; no points if there is no positive label.
    """
    known = np.flatnonzero(labels >= 0)
    order = known[np.argsort(-probabilities[known], kind="stable")]
    positives = np.cumsum(labels[order] == 1)
    if not len(order) or not positives[-1]:
        return np.empty(0), np.empty(0)
    # Equal scores reach a threshold together.
    last = np.flatnonzero(np.append(np.diff(probabilities[order]) != 0, True))
    return positives[last] / positives[-1], positives[last] / (last + 1)


def reliability(probabilities: Float[np.ndarray, "*N"], labels: Int[np.ndarray, "*N"]) -> Curve:
    """Mean probability and positive rate of each non-empty bin of the calibration error.

    Args:
      probabilities: Predicted probabilities, of any number of attributes together.
      labels: 1 positive, 0 negative, -1 unknown and left out.

    Returns:
      Mean probabilities as x and positive rates as y.
    """
    known = labels >= 0
    probability, positive = probabilities[known].astype(np.float64), labels[known] == 1
    bins = calibration_bins(probability)
    size = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = size > 0
    sums = (np.bincount(bins, weights, CALIBRATION_BINS) for weights in (probability, positive))
    mean_probability, positive_rate = (total[filled] / size[filled] for total in sums)
    return mean_probability, positive_rate
