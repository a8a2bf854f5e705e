"""What the predictions are worth: figures per attribute, their means, and how sure the means are.

Every figure is in percent except mask IoU, a fraction. A label of -1 is unknown and left out. A
ratio whose denominator is empty is undefined: `nan` in arrays, `null` in `metrics.json`, and left
out of every mean. That happens to

- everything, where an attribute has no known label in the split;
- recall, F1, balanced accuracy, average precision and AUROC, where it has no positive label;
- balanced accuracy and AUROC, where it has no negative label;
- precision, where no face is predicted positive.

Means are unweighted over attributes, at threshold 0.5, the protocol of CelebA and LFWA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation import bootstrap
from mgmtn_jax.evaluation.counts import INTERVAL as INTERVAL
from mgmtn_jax.evaluation.counts import (
    THRESHOLD,
    PrecisionAtPositives,
    mean_defined,
    outcomes,
    ratio,
)
from mgmtn_jax.evaluation.formatting import json_number

CALIBRATION_BINS = 15
"""Equal-width bins of the expected calibration error."""


def attribute_metrics(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"]
) -> dict[str, Float[np.ndarray, "A"]]:
    """The figures of each attribute, by name: a float64 array over attributes, in percent.

    `positive_rate` and `majority_accuracy` describe the known labels alone: the share of yes, and
    the accuracy of always giving the commoner answer of this same split. `calibration_error` is the
    gap between mean probability and share of yes, averaged over the bins by their size.

    Args:
      probabilities: probability of yes, in 0..1.
      labels: 1 yes, 0 no, -1 unknown.

    Examples:
        The second attribute is unknown on the first of three images.

        >>> probabilities = np.array([[0.9, 0.8], [0.4, 0.3], [0.6, 0.1]])
        >>> labels = np.array([[1, -1], [0, 1], [0, 0]])
        >>> attribute_metrics(probabilities, labels)["accuracy"].round(1).tolist()
        [66.7, 50.0]
    """
    once = np.ones((len(labels), 1))
    tp, fp, fn, tn = (outcome.sum(0) for outcome in outcomes(probabilities, labels))
    positives, known = tp + fn, tp + fp + fn + tn
    positive_rate = ratio(positives, known)
    columns = range(labels.shape[1])
    figures = {
        "positive_rate": positive_rate,
        "majority_accuracy": np.maximum(positive_rate, 1 - positive_rate),
        "accuracy": ratio(tp + tn, known),
        "balanced_accuracy": (ratio(tp, positives) + ratio(tn, tn + fp)) / 2,
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, positives),
        "f1": np.where(positives > 0, ratio(2 * tp, 2 * tp + fp + fn), np.nan),
        "average_precision": np.array(
            [
                PrecisionAtPositives(probabilities[:, a], labels[:, a]).average(once)[0]
                for a in columns
            ]
        ),
        "auroc": np.array([_auroc(probabilities[:, a], labels[:, a]) for a in columns]),
        "calibration_error": np.array(
            [_calibration_error(probabilities[:, a], labels[:, a]) for a in columns]
        ),
    }
    return {name: 100 * values for name, values in figures.items()}


def summarize(
    probabilities: Float[np.ndarray, "N A"],
    labels: Int[np.ndarray, "N A"],
    attribute_set: AttributeSet,
    mask_iou: Mapping[str, float] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything `metrics.json` holds, free of `nan`.

    Args:
      probabilities: probability of yes, in 0..1, columns in the order of the attribute set.
      labels: 1 yes, 0 no, -1 unknown.
      mask_iou: region -> intersection over union of predicted and drawn mask, for a network that
        has masks.
      num_resamples: resamples behind each interval.
      seed: of the resamples.

    Raises:
      ValueError: if there is no image, shapes disagree, a probability is outside 0..1, or a label
        is none of 1, 0, -1.
    """
    _check(probabilities, labels, attribute_set)
    figures = attribute_metrics(probabilities, labels)
    resampled = bootstrap.bootstrap_means(
        probabilities, labels, num_resamples=num_resamples, seed=seed
    )
    summary: dict[str, Any] = {"num_examples": len(labels), "threshold": THRESHOLD}
    for name in ("accuracy", "balanced_accuracy", "average_precision"):
        summary[f"mean_{name}"] = json_number(mean_defined(figures[name]))
        summary[f"mean_{name}_interval"] = bootstrap.interval(resampled[name])
    summary["mean_f1"] = json_number(mean_defined(figures["f1"]))
    summary["mean_auroc"] = json_number(mean_defined(figures["auroc"]))
    summary["mean_calibration_error"] = json_number(mean_defined(figures["calibration_error"]))
    summary["majority_accuracy"] = json_number(mean_defined(figures["majority_accuracy"]))
    summary["per_attribute"] = {
        attribute: {
            "group": attribute_set.group_of(attribute),
            "num_known": int(np.sum(labels[:, a] >= 0)),
            **{name: json_number(values[a]) for name, values in figures.items()},
        }
        for a, attribute in enumerate(attribute_set.names)
    }
    summary["per_group"] = {
        group: {
            "num_attributes": len(members),
            **{
                name: json_number(mean_defined(values[list(members)]))
                for name, values in figures.items()
            },
        }
        for group, members in zip(
            attribute_set.group_names, attribute_set.group_indices, strict=True
        )
    }
    ious = {region: json_number(iou) for region, iou in (mask_iou or {}).items()}
    known_ious = [iou for iou in ious.values() if iou is not None]
    summary["mask_miou"] = ious
    summary["mean_mask_miou"] = sum(known_ious) / len(known_ious) if known_ious else None
    return summary


def _auroc(probabilities: Float[np.ndarray, "N"], labels: Int[np.ndarray, "N"]) -> float:
    """Chance that a positive image is scored above a negative one, ties counted as half."""
    known = labels >= 0
    positive = labels[known] == 1
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return np.nan
    _, score, size = np.unique(probabilities[known], return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(size) - (size - 1) / 2
    wins = middle_rank[score][positive].sum() - num_positive * (num_positive + 1) / 2
    return float(wins / (num_positive * num_negative))


def _calibration_error(
    probabilities: Float[np.ndarray, "N"], labels: Int[np.ndarray, "N"]
) -> float:
    """Expected calibration error of the probability of yes, as a fraction."""
    known = labels >= 0
    if not known.any():
        return np.nan
    probability = probabilities[known].astype(np.float64)
    bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, probability - labels[known], minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / known.sum())


def _check(
    probabilities: Shaped[np.ndarray, "..."],
    labels: Shaped[np.ndarray, "..."],
    attribute_set: AttributeSet,
) -> None:
    expected = (len(labels), len(attribute_set.names))
    if not len(labels):
        raise ValueError("there is no image to evaluate")
    if probabilities.shape != expected or labels.shape != expected:
        raise ValueError(
            f"probabilities {probabilities.shape} and labels {labels.shape} must both be "
            f"(images, attributes), with {expected[1]} attributes"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a probability is outside 0..1 or not a number")
    if not np.isin(labels, (1, 0, -1)).all():
        raise ValueError("a label is none of 1 (yes), 0 (no), -1 (unknown)")
