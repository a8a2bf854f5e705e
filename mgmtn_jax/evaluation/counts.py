"""Building blocks of the metrics: outcome counts, ratios, average precision, calibration bins."""

from __future__ import annotations

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from mgmtn_jax.attributes import THRESHOLD

INTERVAL = (2.5, 97.5)
"""Percentiles that bound a 95 % interval."""

CALIBRATION_BINS = 15
"""Number of equal-width bins of the calibration error and the reliability diagram."""


def outcomes(
    probabilities: Float[np.ndarray, "N A"],
    labels: Int[np.ndarray, "N A"],
    threshold: float | Float[np.ndarray, "A"] = THRESHOLD,
) -> tuple[Bool[np.ndarray, "N A"], ...]:
    """Masks of the true positives, false positives, false negatives and true negatives."""
    positive, negative, predicted = labels == 1, labels == 0, probabilities >= threshold
    return positive & predicted, negative & predicted, positive & ~predicted, negative & ~predicted


def ratio(
    numerator: Float[np.ndarray, "..."], denominator: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Element-wise ratio, `nan` where the denominator is zero."""
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator > 0)


def mean_defined(values: Float[np.ndarray, "A ..."]) -> Float[np.ndarray, "..."]:
    """Mean over the first axis of the values that are not `nan`; `nan` where there are none."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0).sum(0), defined.sum(0))


def calibration_bins(probabilities: Float[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
    """Bin index of each probability; probability 1 belongs to the last bin."""
    bins = (probabilities.astype(np.float64) * CALIBRATION_BINS).astype(int)
    return np.minimum(bins, CALIBRATION_BINS - 1)


class AveragePrecision:
    """Average precision of one attribute under any image counts.

    AP = sum over distinct scores s of (recall gained at s) x (precision of all images scored >= s),
    which is scikit-learn's definition: equal scores enter together, without interpolation. Recall
    increases only at the scores of positive images, so counts are summed between those scores (a
    sparse product), and only the sums are accumulated.
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

    def __call__(self, counts: Float[np.ndarray, "N R"]) -> Float[np.ndarray, "R"]:
        """Average precision as a fraction, for each of R columns of image counts.

        It is `nan` where no positive image is drawn.
        """
        if not self._drawn.shape[0]:
            return np.full(counts.shape[1], np.nan)
        gained = self._drawn_positive @ counts
        true_positives = np.cumsum(gained, axis=0)
        # Where no image is drawn yet, the numerator is 0 as well: any denominator does.
        precision = true_positives / np.maximum(np.cumsum(self._drawn @ counts, axis=0), 1)
        return ratio(np.einsum("ij,ij->j", gained, precision), true_positives[-1])


def _step_sums(
    images: Int[np.ndarray, "M"], step: Int[np.ndarray, "M"], shape: tuple[int, int]
) -> scipy.sparse.csr_array:
    """0/1 matrix that sums the counts of the images of each step; `step` is non-decreasing."""
    bounds = np.searchsorted(step, np.arange(shape[0] + 1))
    ones = np.ones(bounds[-1], np.float32)
    return scipy.sparse.csr_array((ones, images[: bounds[-1]], bounds), shape=shape)
