"""Metrics per attribute, their means over attributes, and confidence intervals of the means.

All values are in percent, except mask IoU, which is a fraction. Labels of -1 are unknown and left
out. A ratio with denominator zero is undefined: `nan` in arrays, `null` in `metrics.json`, and left
out of every mean. Undefined are

- all metrics of an attribute without a known label in the split;
- recall, F1, balanced accuracy, average precision and AUROC without a positive label;
- balanced accuracy and AUROC without a negative label;
- precision if no face is predicted positive.

Means are unweighted over attributes, at threshold 0.5: the protocol of CelebA and LFWA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation import bootstrap
from mgmtn_jax.evaluation.counts import (
    CALIBRATION_BINS,
    THRESHOLD,
    AveragePrecision,
    calibration_bins,
    mean_defined,
    outcomes,
    ratio,
)
from mgmtn_jax.evaluation.formatting import json_number


def threshold_metrics(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"]
) -> dict[str, Float[np.ndarray, "A"]]:
    """Computes those metrics of `attribute_metrics` that follow from counts at the threshold."""
    tp, fp, fn, tn = (outcome.sum(0) for outcome in outcomes(probabilities, labels))
    positives, known = tp + fn, tp + fp + fn + tn
    positive_rate = ratio(positives, known)
    values = {
        "positive_rate": positive_rate,
        "majority_accuracy": np.maximum(positive_rate, 1 - positive_rate),
        "accuracy": ratio(tp + tn, known),
        "balanced_accuracy": (ratio(tp, positives) + ratio(tn, tn + fp)) / 2,
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, positives),
        "f1": np.where(positives > 0, ratio(2 * tp, 2 * tp + fp + fn), np.nan),
    }
    return {name: 100 * fractions for name, fractions in values.items()}


def attribute_metrics(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"]
) -> dict[str, Float[np.ndarray, "A"]]:
    """Computes the metrics of each attribute, in percent.

    `positive_rate` and `majority_accuracy` depend on the labels only. The latter is the accuracy of
    the majority-class baseline: for every face the more frequent class of the same split.
    `calibration_error` is the expected calibration error: the gap between mean probability and
    positive rate of each bin, averaged over the bins with their sizes as weights.

    Args:
      probabilities: Predicted probabilities, in 0..1.
      labels: 1 positive, 0 negative, -1 unknown.

    Returns:
      For each metric name, a float64 array over attributes.

    Examples:
        The second attribute is unknown on the first of three images.

        >>> probabilities = np.array([[0.9, 0.8], [0.4, 0.3], [0.6, 0.1]])
        >>> labels = np.array([[1, -1], [0, 1], [0, 0]])
        >>> attribute_metrics(probabilities, labels)["accuracy"].round(1).tolist()
        [66.7, 50.0]
    """
    once = np.ones((len(labels), 1))
    columns = range(labels.shape[1])
    values = {
        "average_precision": np.array(
            [AveragePrecision(probabilities[:, a], labels[:, a])(once)[0] for a in columns]
        ),
        "auroc": np.array([_auroc(probabilities[:, a], labels[:, a]) for a in columns]),
        "calibration_error": np.array(
            [_calibration_error(probabilities[:, a], labels[:, a]) for a in columns]
        ),
    }
    ranked = {name: 100 * fractions for name, fractions in values.items()}
    return threshold_metrics(probabilities, labels) | ranked


def summarize(
    probabilities: Float[np.ndarray, "N A"],
    labels: Int[np.ndarray, "N A"],
    attribute_set: AttributeSet,
    mask_iou: Mapping[str, float] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Content of `metrics.json`, free of `nan`.

    Args:
      probabilities: Predicted probabilities, in 0..1, columns in the order of the attribute set.
      labels: 1 positive, 0 negative, -1 unknown.
      attribute_set: Names and groups of the attributes.
      mask_iou: region -> intersection over union of predicted and ground-truth mask, for a network
        with masks.
      num_resamples: Number of resamples behind each interval.
      seed: Seed of the resamples.

    Raises:
      ValueError: if there is no image, the shapes differ, a probability is outside 0..1, or a label
        is not 1, 0 or -1.
    """
    _check(probabilities, labels, attribute_set)
    values = attribute_metrics(probabilities, labels)
    resampled = bootstrap.bootstrap_means(
        probabilities, labels, num_resamples=num_resamples, seed=seed
    )
    summary: dict[str, Any] = {"num_examples": len(labels), "threshold": THRESHOLD}
    for name in ("accuracy", "balanced_accuracy", "average_precision"):
        summary[f"mean_{name}"] = json_number(mean_defined(values[name]))
        summary[f"mean_{name}_interval"] = bootstrap.interval(resampled[name])
    summary["mean_f1"] = json_number(mean_defined(values["f1"]))
    summary["mean_auroc"] = json_number(mean_defined(values["auroc"]))
    summary["mean_calibration_error"] = json_number(mean_defined(values["calibration_error"]))
    summary["majority_accuracy"] = json_number(mean_defined(values["majority_accuracy"]))
    summary["per_attribute"] = {
        attribute: {
            "group": attribute_set.group_of(attribute),
            "num_known": int(np.sum(labels[:, a] >= 0)),
            **{name: json_number(column[a]) for name, column in values.items()},
        }
        for a, attribute in enumerate(attribute_set.names)
    }
    summary["per_group"] = {
        group: {
            "num_attributes": len(members),
            **{
                name: json_number(mean_defined(column[list(members)]))
                for name, column in values.items()
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
    """Probability that a positive image scores above a negative one; ties count half."""
    known = labels >= 0
    positive = labels[known] == 1
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return np.nan
    # Imported here: it takes a third of the start of a training, which needs no ranks.
    from scipy.stats import rankdata

    ranks = rankdata(probabilities[known])
    wins = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(wins / (num_positive * num_negative))


def _calibration_error(
    probabilities: Float[np.ndarray, "N"], labels: Int[np.ndarray, "N"]
) -> float:
    """Expected calibration error of the probability of the positive class, as a fraction."""
    known = labels >= 0
    if not known.any():
        return np.nan
    probability = probabilities[known].astype(np.float64)
    gaps = np.bincount(
        calibration_bins(probability), probability - labels[known], minlength=CALIBRATION_BINS
    )
    return float(np.abs(gaps).sum() / known.sum())


def _check(
    probabilities: Shaped[np.ndarray, "..."],
    labels: Shaped[np.ndarray, "..."],
    attribute_set: AttributeSet,
) -> None:
    expected = (len(labels), len(attribute_set.names))
    if not len(labels):
        raise ValueError("there are no images to evaluate")
    if probabilities.shape != expected or labels.shape != expected:
        raise ValueError(
            f"probabilities {probabilities.shape} and labels {labels.shape} must both have the "
            f"shape (images, attributes), with {expected[1]} attributes"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a probability is outside 0..1 or not a number")
    if not np.isin(labels, (1, 0, -1)).all():
        raise ValueError("a label is not 1 (positive), 0 (negative) or -1 (unknown)")
