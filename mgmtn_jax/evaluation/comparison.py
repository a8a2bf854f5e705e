"""Whether one network is better than another on the same images, and how sure that is."""

from __future__ import annotations

import csv
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from mgmtn_jax.evaluation.bootstrap import resample_counts
from mgmtn_jax.evaluation.metrics import INTERVAL, THRESHOLD


class Difference(NamedTuple):
    """By how many points of mean accuracy one network is above another.

    Attributes:
      mean: on the images as they are.
      low: lower end of the 95 % interval.
      high: upper end.
    """

    mean: float
    low: float
    high: float


def correctness(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"]
) -> Float[np.ndarray, "N A"]:
    """1 where the answer is right, 0 where it is wrong, `nan` where the label is unknown.

    Networks of several seeds enter a comparison as the mean of theirs: how often each answer is
    right.

    Args:
      probabilities: of yes, in 0..1.
      labels: 1 yes, 0 no, -1 unknown.
    """
    right = (probabilities >= THRESHOLD) == (labels == 1)
    return np.where(labels >= 0, right, np.nan)


def paired_bootstrap(
    baseline: Float[np.ndarray, "N A"],
    other: Float[np.ndarray, "N A"],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """The difference in mean accuracy, with a 95 % percentile interval over images.

    With right answers r and r' of two networks, label (i, a) known where k is 1, and image i drawn
    c_i times, the statistic is that of `metrics`, the unweighted mean over attributes:

        100 * mean_a [ sum_i c_i k_ia (r'_ia - r_ia) / sum_i c_i k_ia ]

    Both networks are judged by the same draws: most faces are as hard for one as for the other, and
    what they share cancels. All attributes of an image are drawn together, because they are not
    independent. The interval covers the choice of images. It does not cover the luck of a training,
    which the spread over seeds shows.

    Args:
      baseline: what `correctness` returns, or its mean over seeds.
      other: the same of the other network, on the same images in the same order.
      num_resamples: resamples behind the interval.
      seed: of the resamples.

    Raises:
      ValueError: if the two do not have the same known labels, or there is none.

    Examples:
        Three images of one attribute, all of them yes; the second network corrects one answer.

        >>> labels = np.array([[1], [1], [1]])
        >>> before = correctness(np.array([[0.2], [0.7], [0.9]]), labels)
        >>> after = correctness(np.array([[0.6], [0.7], [0.9]]), labels)
        >>> paired_bootstrap(before, after)
        Difference(mean=33.33333333333333, low=0.0, high=100.0)
    """
    known = ~np.isnan(baseline)
    if not np.array_equal(known, ~np.isnan(other)):
        raise ValueError("two networks can be compared on the same images and labels alone")
    if not known.any():
        raise ValueError("there is no known label to compare two networks by")
    gain_and_known = np.hstack([np.where(known, other - baseline, 0.0), known])

    def statistic(counts: Float[np.ndarray, "N R"]) -> Float[np.ndarray, "R"]:
        gain, drawn = np.hsplit(counts.T @ gain_and_known, 2)
        # An attribute of which no known label is drawn is left out of the mean.
        defined = (drawn > 0).sum(1)
        total = (gain / np.maximum(drawn, 1)).sum(1)
        return 100 * total[defined > 0] / defined[defined > 0]

    num_images = len(known)
    resampled = np.concatenate(
        [statistic(counts) for counts in resample_counts(num_images, num_resamples, seed)]
    )
    low, high = np.percentile(resampled, INTERVAL)
    return Difference(float(statistic(np.ones((num_images, 1)))[0]), float(low), float(high))


def read_predictions(
    path: epath.PathLike,
) -> tuple[list[str], list[str], Float[np.ndarray, "N A"]]:
    """The keys, attribute names and probabilities of a `predictions.csv`."""
    with epath.Path(path).open() as file:
        (_, *names), *rows = csv.reader(file)
    probabilities = np.array([row[1:] for row in rows], np.float64).reshape(len(rows), len(names))
    return [row[0] for row in rows], names, probabilities
