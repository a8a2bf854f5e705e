"""What the predictions are worth: figures per attribute, their means, and how sure the means are.

Every figure is in percent except mask IoU, a fraction. A label of -1 is unknown and left out. A
ratio whose denominator is empty is undefined: `nan` in arrays, `null` in `metrics.json`, and left
out of every mean. That happens to

- everything, where an attribute has no known label in the split;
- recall, F1, balanced accuracy, average precision and AUROC, where it has no positive label;
- balanced accuracy and AUROC, where it has no negative label;
- precision, where no face is predicted positive.

Accuracies are unweighted means over attributes at threshold 0.5, the protocol of CelebA and LFWA.
Intervals are percentile bootstraps over images: the images are the sample, and all attributes of
one image are drawn together, because they are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int, Shaped

from mgmtn_jax.attributes import AttributeSet

THRESHOLD = 0.5
"""A probability from here on is a yes."""

CALIBRATION_BINS = 15
"""Equal-width bins of the expected calibration error."""

INTERVAL = (2.5, 97.5)
"""The percentiles that bound a 95 % interval."""

_RESAMPLES_AT_A_TIME = 100  # 20,000 images x 100 counts x 4 bytes: 8 MB, about a CPU cache


def attribute_metrics(
    probabilities: Float[np.ndarray, "N A"], attributes: Int[np.ndarray, "N A"]
) -> dict[str, Float[np.ndarray, "A"]]:
    """The figures of each attribute, by name: a float64 array over attributes, in percent.

    `positive_rate` and `majority_accuracy` describe the known labels alone: the share of yes, and
    the accuracy of always giving the commoner answer of this same split. `calibration_error` is the
    gap between mean probability and share of yes, averaged over the bins by their size.

    Args:
      probabilities: probability of yes, in 0..1.
      attributes: 1 yes, 0 no, -1 unknown.
    """
    once = np.ones((len(attributes), 1))
    tp, fp, fn, tn = (outcome.sum(0) for outcome in _outcomes(probabilities, attributes))
    positives, known = tp + fn, tp + fp + fn + tn
    positive_rate = _ratio(positives, known)
    columns = range(attributes.shape[1])
    figures = {
        "positive_rate": positive_rate,
        "majority_accuracy": np.maximum(positive_rate, 1 - positive_rate),
        "accuracy": _ratio(tp + tn, known),
        "balanced_accuracy": (_ratio(tp, positives) + _ratio(tn, tn + fp)) / 2,
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, positives),
        "f1": np.where(positives > 0, _ratio(2 * tp, 2 * tp + fp + fn), np.nan),
        "average_precision": np.array(
            [
                _PrecisionAtPositives(probabilities[:, a], attributes[:, a]).average(once)[0]
                for a in columns
            ]
        ),
        "auroc": np.array([_auroc(probabilities[:, a], attributes[:, a]) for a in columns]),
        "calibration_error": np.array(
            [_calibration_error(probabilities[:, a], attributes[:, a]) for a in columns]
        ),
    }
    return {name: 100 * values for name, values in figures.items()}


def bootstrap_means(
    probabilities: Float[np.ndarray, "N A"],
    attributes: Int[np.ndarray, "N A"],
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, Float[np.ndarray, "R"]]:
    """Means over attributes of `accuracy`, `balanced_accuracy` and `average_precision`, in percent,
    for each of R resamples of the N images.

    The resamples depend on N, R and the seed alone, so that the difference of two networks on the
    same images is a paired bootstrap: subtract their arrays.

    A resample is a vector of how often each image was drawn. Accuracies are then ratios of matrix
    products, and average precision is a cumulative sum of counts in the order of the scores.
    """
    # Sparse, because one label is one outcome in four, and because a threaded dense product stalls
    # when the cores are busy with something else.
    outcomes = [
        scipy.sparse.csr_array(outcome.T, dtype=np.float32)
        for outcome in _outcomes(probabilities, attributes)
    ]
    precisions = [
        _PrecisionAtPositives(probabilities[:, a], attributes[:, a])
        for a in range(attributes.shape[1])
    ]
    means: dict[str, list[np.ndarray]] = {
        "accuracy": [],
        "balanced_accuracy": [],
        "average_precision": [],
    }
    for counts in _resample_counts(len(attributes), num_resamples, seed):
        # Counts below 2**24 are exact in float32, at half the memory traffic of float64.
        tp, fp, fn, tn = (outcome @ counts for outcome in outcomes)
        balanced = (_ratio(tp, tp + fn) + _ratio(tn, tn + fp)) / 2
        precision = np.stack([attribute.average(counts) for attribute in precisions])
        means["accuracy"].append(_mean(_ratio(tp + tn, tp + fp + fn + tn)))
        means["balanced_accuracy"].append(_mean(balanced))
        means["average_precision"].append(_mean(precision))
    return {name: 100 * np.concatenate(parts) for name, parts in means.items()}


def summarize(
    probabilities: Float[np.ndarray, "N A"],
    attributes: Int[np.ndarray, "N A"],
    attribute_set: AttributeSet,
    mask_iou: Mapping[str, float] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything `metrics.json` holds, free of `nan`.

    Args:
      probabilities: probability of yes, in 0..1, columns in the order of the attribute set.
      attributes: 1 yes, 0 no, -1 unknown.
      mask_iou: region -> intersection over union of predicted and drawn mask, for a network that
        has masks.
      num_resamples: resamples behind each interval.
      seed: of the resamples.

    Raises:
      ValueError: if there is no image, shapes disagree, a probability is outside 0..1, or a label
        is none of 1, 0, -1.
    """
    _check(probabilities, attributes, attribute_set)
    figures = attribute_metrics(probabilities, attributes)
    resampled = bootstrap_means(probabilities, attributes, num_resamples=num_resamples, seed=seed)
    summary: dict[str, Any] = {"num_examples": len(attributes), "threshold": THRESHOLD}
    for name in ("accuracy", "balanced_accuracy", "average_precision"):
        summary[f"mean_{name}"] = _number(_mean(figures[name]))
        summary[f"mean_{name}_interval"] = _interval(resampled[name])
    summary["mean_f1"] = _number(_mean(figures["f1"]))
    summary["mean_auroc"] = _number(_mean(figures["auroc"]))
    summary["mean_calibration_error"] = _number(_mean(figures["calibration_error"]))
    summary["majority_accuracy"] = _number(_mean(figures["majority_accuracy"]))
    summary["per_attribute"] = {
        attribute: {
            "group": attribute_set.group_of(attribute),
            "num_known": int(np.sum(attributes[:, a] >= 0)),
            **{name: _number(values[a]) for name, values in figures.items()},
        }
        for a, attribute in enumerate(attribute_set.names)
    }
    summary["per_group"] = {
        group: {
            "num_attributes": len(members),
            **{name: _number(_mean(values[list(members)])) for name, values in figures.items()},
        }
        for group, members in zip(
            attribute_set.group_names, attribute_set.group_indices, strict=True
        )
    }
    ious = {region: _number(iou) for region, iou in (mask_iou or {}).items()}
    known_ious = [iou for iou in ious.values() if iou is not None]
    summary["mask_miou"] = ious
    summary["mean_mask_miou"] = sum(known_ious) / len(known_ious) if known_ious else None
    return summary


class _PrecisionAtPositives:
    """Average precision of one attribute under any image counts.

    AP = sum over distinct scores s of (recall gained at s) x (precision of all images scored >= s),
    which is scikit-learn's definition: equal scores enter together, nothing is interpolated. Only
    scores that a positive image has gain recall, so counts are summed from each of them to the next
    (a sparse product), and only those sums are accumulated.
    """

    def __init__(self, probabilities: Float[np.ndarray, "N"], labels: Int[np.ndarray, "N"]):
        known = np.flatnonzero(labels >= 0)
        order = known[np.argsort(-probabilities[known], kind="stable")]
        positive = labels[order] == 1
        score_rank = np.cumsum(np.diff(probabilities[order], prepend=np.inf) != 0)
        gaining = np.unique(score_rank[positive])
        step = np.searchsorted(gaining, score_rank)
        shape = (len(gaining), len(labels))
        self._drawn = _step_sums(order, step, shape)
        self._drawn_positive = _step_sums(order[positive], step[positive], shape)

    def average(self, counts: Float[np.ndarray, "N R"]) -> Float[np.ndarray, "R"]:
        """(R,) fractions; `nan` where no positive image is drawn."""
        if not self._drawn.shape[0]:
            return np.full(counts.shape[1], np.nan)
        gained = self._drawn_positive @ counts
        true_positives = np.cumsum(gained, axis=0)
        # Where nothing is drawn yet, nothing is gained either: any denominator will do.
        precision = true_positives / np.maximum(np.cumsum(self._drawn @ counts, axis=0), 1)
        return _ratio(np.einsum("ij,ij->j", gained, precision), true_positives[-1])


def _step_sums(
    images: Int[np.ndarray, "M"], step: Int[np.ndarray, "M"], shape: tuple[int, int]
) -> scipy.sparse.csr_array:
    """The 0/1 matrix that adds up the counts of the images of each step; `step` never falls."""
    bounds = np.searchsorted(step, np.arange(shape[0] + 1))
    ones = np.ones(bounds[-1], np.float32)
    return scipy.sparse.csr_array((ones, images[: bounds[-1]], bounds), shape=shape)


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


def _outcomes(
    probabilities: Float[np.ndarray, "N A"], attributes: Int[np.ndarray, "N A"]
) -> tuple[Bool[np.ndarray, "N A"], ...]:
    """Where a label is a true positive, false positive, false negative, true negative."""
    yes, no, predicted = attributes == 1, attributes == 0, probabilities >= THRESHOLD
    return yes & predicted, no & predicted, yes & ~predicted, no & ~predicted


def _resample_counts(
    num_images: int, num_resamples: int, seed: int
) -> Iterator[Float[np.ndarray, "N R"]]:
    """Chunks of resamples: how often each image is drawn in N draws with replacement."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, _RESAMPLES_AT_A_TIME):
        size = min(_RESAMPLES_AT_A_TIME, num_resamples - start)
        drawn = rng.integers(num_images, size=(size, num_images))
        drawn += num_images * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_images)
        yield np.ascontiguousarray(counts.reshape(size, num_images).T, np.float32)


def _ratio(
    numerator: Float[np.ndarray, "..."], denominator: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Element-wise ratio, `nan` where the denominator is zero."""
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def _mean(values: Float[np.ndarray, "A ..."]) -> Float[np.ndarray, "..."]:
    """Mean over the first axis of what is defined."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(0), defined.sum(0))


def _number(value: Float[np.ndarray, ""] | float) -> float | None:
    """What JSON can hold."""
    return None if np.isnan(value) else float(value)


def _interval(resampled: Float[np.ndarray, "R"]) -> list[float] | None:
    defined = resampled[~np.isnan(resampled)]
    return [float(bound) for bound in np.percentile(defined, INTERVAL)] if len(defined) else None


def _check(
    probabilities: Shaped[np.ndarray, "..."],
    attributes: Shaped[np.ndarray, "..."],
    attribute_set: AttributeSet,
) -> None:
    expected = (len(attributes), len(attribute_set.names))
    if not len(attributes):
        raise ValueError("there is no image to evaluate")
    if probabilities.shape != expected or attributes.shape != expected:
        raise ValueError(
            f"probabilities {probabilities.shape} and attributes {attributes.shape} must both be "
            f"(images, attributes), with {expected[1]} attributes"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a probability is outside 0..1 or not a number")
    if not np.isin(attributes, (1, 0, -1)).all():
        raise ValueError("a label is none of 1 (yes), 0 (no), -1 (unknown)")
