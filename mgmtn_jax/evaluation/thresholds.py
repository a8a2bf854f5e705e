"""Per-attribute thresholds, tuned on another split than the one that is evaluated."""

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
    """Finds the threshold of highest balanced accuracy for each attribute.

    Candidates lie halfway between neighbouring probabilities; ties go to the one nearest to 0.5. An
    attribute without both classes, or whose candidates are no better than chance, keeps 0.5.

    Args:
      probabilities: Predicted probabilities, in 0..1.
      labels: 1 positive, 0 negative, -1 unknown.

    Examples:
        >>> tune(np.array([[0.1], [0.2], [0.4]]), np.array([[0], [1], [1]])).round(2).tolist()
        [0.15]
    """
    columns = range(labels.shape[1])
    return np.array([_tune(probabilities[:, a], labels[:, a]) for a in columns])


def tuned_metrics(
    probabilities: Float[np.ndarray, "N A"],
    labels: Int[np.ndarray, "N A"],
    thresholds: Float[np.ndarray, "A"],
    attribute_set: AttributeSet,
) -> dict[str, Any]:
    """Computes accuracy and balanced accuracy at given thresholds, in percent, for `metrics.json`.

    Args:
      probabilities: Predicted probabilities, in 0..1.
      labels: 1 positive, 0 negative, -1 unknown.
      thresholds: Threshold of each attribute.
      attribute_set: Names of the attributes.
    """
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
    positives = np.bincount(rank[positive], minlength=len(scores))
    negatives = np.bincount(rank[~positive], minlength=len(scores))
    if not positives.sum() or not negatives.sum():
        return THRESHOLD
    # Candidate i lies above scores 0 to i.
    false_negative_rate = np.cumsum(positives)[:-1] / positives.sum()
    true_negative_rate = np.cumsum(negatives)[:-1] / negatives.sum()
    between = (scores[1:] + scores[:-1]) / 2
    # Balanced accuracy is (1 + gain) / 2.
    gain = true_negative_rate - false_negative_rate
    if not len(gain) or gain.max() <= 0:
        return THRESHOLD
    best = between[np.isclose(gain, gain.max(), rtol=0, atol=1e-12)]
    return float(best[np.argmin(np.abs(best - THRESHOLD))])
