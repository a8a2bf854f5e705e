"""Curves behind single figures: precision against recall, share of yes against probability."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from mgmtn_jax.evaluation.metrics import CALIBRATION_BINS

Curve = tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]
"""Abscissas and ordinates."""


def precision_recall(probabilities: Float[np.ndarray, "N"], labels: Int[np.ndarray, "N"]) -> Curve:
    """Recall and precision at every distinct score as threshold, the highest first.

    Args:
      probabilities: of yes.
      labels: 1 yes, 0 no, -1 unknown and left out. Without a yes the curve has no point.
    """
    known = np.flatnonzero(labels >= 0)
    order = known[np.argsort(-probabilities[known], kind="stable")]
    positives = np.cumsum(labels[order] == 1)
    if not len(order) or not positives[-1]:
        return np.empty(0), np.empty(0)
    # Equal scores pass a threshold together.
    last = np.flatnonzero(np.append(np.diff(probabilities[order]) != 0, True))
    return positives[last] / positives[-1], positives[last] / (last + 1)


def reliability(probabilities: Float[np.ndarray, "*N"], labels: Int[np.ndarray, "*N"]) -> Curve:
    """Mean probability and share of yes in every bin of the calibration error that is not empty.

    Args:
      probabilities: of yes, of any number of attributes together.
      labels: 1 yes, 0 no, -1 unknown and left out.
    """
    known = labels >= 0
    probability, yes = probabilities[known].astype(np.float64), labels[known] == 1
    bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    size = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = size > 0
    means = (np.bincount(bins, weights, CALIBRATION_BINS) for weights in (probability, yes))
    predicted, share = (mean[filled] / size[filled] for mean in means)
    return predicted, share
