"""Thresholds other than 0.5, chosen on faces that the figures are not about."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation.counts import THRESHOLD, mean_defined, outcomes, ratio
from mgmtn_jax.evaluation.formatting import json_number


def tune(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"]
) -> Float[np.ndarray, "A"]:
    """For each attribute the threshold of the highest balanced accuracy.

    It lies halfway between two neighbouring probabilities; of equally good ones it is the nearest
    to 0.5. An attribute that no threshold tells apart keeps 0.5.

    Args:
      probabilities: of yes, in 0..1.
      labels: 1 yes, 0 no, -1 unknown.

    Examples:
        >>> tune(np.array([[0.1], [0.2], [0.4]]), np.array([[0], [1], [1]])).round(2).tolist()
        [0.15]
    """
    columns = range(labels.shape[1])
    return np.array([_tune(probabilities[:, a], labels[:, a]) for a in columns])


def figures(
    probabilities: Float[np.ndarray, "N A"],
    labels: Int[np.ndarray, "N A"],
    thresholds: Float[np.ndarray, "A"],
    attribute_set: AttributeSet,
) -> dict[str, Any]:
    """Accuracy and balanced accuracy at these thresholds, in percent, for `metrics.json`."""
    tp, fp, fn, tn = (outcome.sum(0) for outcome in outcomes(probabilities, labels, thresholds))
    accuracy = 100 * ratio(tp + tn, tp + fp + fn + tn)
    balanced = 50 * (ratio(tp, tp + fn) + ratio(tn, tn + fp))
    return {
        "mean_accuracy": json_number(mean_defined(accuracy)),
        "mean_balanced_accuracy": json_number(mean_defined(balanced)),
        "per_attribute": {
            name: {
                "threshold": float(thresholds[a]),
                "accuracy": json_number(accuracy[a]),
                "balanced_accuracy": json_number(balanced[a]),
            }
            for a, name in enumerate(attribute_set.names)
        },
    }


def _tune(probabilities: Float[np.ndarray, "N"], labels: Int[np.ndarray, "N"]) -> float:
    scores, rank = np.unique(probabilities[labels >= 0].astype(np.float64), return_inverse=True)
    positive = labels[labels >= 0] == 1
    yes = np.bincount(rank[positive], minlength=len(scores))
    no = np.bincount(rank[~positive], minlength=len(scores))
    if not yes.sum() or not no.sum():
        return THRESHOLD
    # The threshold i is above the first i of the distinct scores.
    missed = np.cumsum(yes)[:-1] / yes.sum()
    rejected = np.cumsum(no)[:-1] / no.sum()
    between = (scores[1:] + scores[:-1]) / 2
    gain = rejected - missed
    if not len(gain) or gain.max() <= 0:
        return THRESHOLD
    best = between[np.isclose(gain, gain.max(), rtol=0, atol=1e-12)]
    return float(best[np.argmin(np.abs(best - THRESHOLD))])
