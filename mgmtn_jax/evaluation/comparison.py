"""Paired comparison of two networks on the same images."""

from __future__ import annotations

import csv
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Float, Int

from mgmtn_jax.evaluation.bootstrap import resample_persons
from mgmtn_jax.evaluation.counts import INTERVAL, THRESHOLD


class Difference(NamedTuple):
    """Difference in mean accuracy between two networks, in percentage points.

    Attributes:
      mean: Difference on the images themselves.
      low: Lower bound of the 95 % interval.
      high: Upper bound of the 95 % interval.
    """

    mean: float
    low: float
    high: float


def correctness(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"]
) -> Float[np.ndarray, "N A"]:
    """1 where the prediction is correct, 0 where it is wrong, `nan` where the label is unknown.

    For networks of several seeds, compare the means of their arrays over the seeds.

    Args:
      probabilities: Predicted probabilities, in 0..1.
      labels: 1 positive, 0 negative, -1 unknown.
    """
    correct = (probabilities >= THRESHOLD) == (labels == 1)
    return np.where(labels >= 0, correct, np.nan)


def paired_bootstrap(
    baseline: Float[np.ndarray, "N A"],
    other: Float[np.ndarray, "N A"],
    *,
    persons: Int[np.ndarray, "N"] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Difference in mean accuracy, `other` minus `baseline`, with a 95 % interval over persons.

    With correctness r and r' of the two networks, label (i, a) known where k_ia is 1, and image i
    drawn c_i times, the statistic is that of `metrics`, the unweighted mean over attributes:

        100 * mean_a [ sum_i c_i k_ia (r'_ia - r_ia) / sum_i c_i k_ia ]

    Both networks are evaluated on the same draws, so the variance that they share, because most
    faces are as hard for one as for the other, cancels. Persons are drawn with all their images and
    all attributes of these, because they are not independent. The interval covers the sampling of
    persons. It does not cover the variance between trainings, which the spread over seeds shows.

    Args:
      baseline: Result of `correctness` for the baseline, or its mean over seeds.
      other: The same for the other network, on the same images in the same order.
      persons: The person on each image; None if each shows another.
      num_resamples: Number of resamples behind the interval.
      seed: Seed of the resamples.

    Raises:
      ValueError: if the two arrays differ in which labels are known, or no label is known.

    Examples:
        One attribute, positive on all three images; the second network corrects one prediction.

        >>> labels = np.array([[1], [1], [1]])
        >>> before = correctness(np.array([[0.2], [0.7], [0.9]]), labels)
        >>> after = correctness(np.array([[0.6], [0.7], [0.9]]), labels)
        >>> paired_bootstrap(before, after)
        Difference(mean=33.33333333333333, low=0.0, high=100.0)
    """
    known = ~np.isnan(baseline)
    if not np.array_equal(known, ~np.isnan(other)):
        raise ValueError(
            "the known labels of the two networks differ: compare predictions for the same split"
        )
    if not known.any():
        raise ValueError("cannot compare two networks: the split has no known label")
    gain_and_known = np.hstack([np.where(known, other - baseline, 0.0), known])

    def statistic(times: Float[np.ndarray, "N R"]) -> Float[np.ndarray, "R"]:
        gain, drawn = np.hsplit(times.T @ gain_and_known, 2)
        # An attribute without a known label among the drawn images is left out of the mean.
        defined = (drawn > 0).sum(1)
        total = (gain / np.maximum(drawn, 1)).sum(1)
        return 100 * total[defined > 0] / defined[defined > 0]

    num_images = len(known)
    drawn_together = np.arange(num_images) if persons is None else persons
    resampled = np.concatenate(
        [statistic(times) for times in resample_persons(drawn_together, num_resamples, seed)]
    )
    low, high = np.percentile(resampled, INTERVAL)
    return Difference(float(statistic(np.ones((num_images, 1)))[0]), float(low), float(high))


def read_predictions(
    path: epath.PathLike,
) -> tuple[list[str], list[str], Float[np.ndarray, "N A"]]:
    """Reads keys, attribute names and probabilities from a `predictions.csv`."""
    with epath.Path(path).open() as file:
        (_, *names), *rows = csv.reader(file)
    probabilities = np.array([row[1:] for row in rows], np.float64).reshape(len(rows), len(names))
    return [row[0] for row in rows], names, probabilities
