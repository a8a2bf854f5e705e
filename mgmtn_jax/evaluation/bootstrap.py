"""Percentile bootstrap intervals of the mean metrics, over images or over persons.

All attributes of an image are drawn together, and so are all images of a person where persons are
given, because they are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from mgmtn_jax.evaluation import counts

_CHUNK_SIZE = 100  # 20,000 images x 100 counts x 4 bytes are 8 MB, about a CPU cache


def bootstrap_means(
    probabilities: Float[np.ndarray, "N A"],
    labels: Int[np.ndarray, "N A"],
    *,
    num_resamples: int,
    seed: int,
) -> dict[str, Float[np.ndarray, "R"]]:
    """Mean metrics over attributes, in percent, of R resamples of the N images.

    The resamples depend on N, R and the seed alone, so the difference between the arrays of two
    networks on the same images is a paired bootstrap.

    A resample is a vector of image counts. Accuracies are then ratios of matrix products, and
    average precision is a cumulative sum of counts in the order of the scores.

    Args:
      probabilities: Predicted probabilities, in 0..1.
      labels: 1 positive, 0 negative, -1 unknown.
      num_resamples: R, the number of resamples.
      seed: Seed of the resamples.

    Returns:
      Values of `accuracy`, `balanced_accuracy` and `average_precision` by name.
    """
    # Sparse, because a label has one of four outcomes, and because a threaded dense product stalls
    # when the cores are busy.
    outcomes = [
        scipy.sparse.csr_array(outcome.T, dtype=np.float32)
        for outcome in counts.outcomes(probabilities, labels)
    ]
    precisions = [
        counts.AveragePrecision(probabilities[:, a], labels[:, a]) for a in range(labels.shape[1])
    ]
    means: dict[str, list[np.ndarray]] = {
        "accuracy": [],
        "balanced_accuracy": [],
        "average_precision": [],
    }
    for drawn in resample_counts(len(labels), num_resamples, seed):
        # Counts below 2**24 are exact in float32, at half the memory traffic of float64.
        tp, fp, fn, tn = (outcome @ drawn for outcome in outcomes)
        balanced = (counts.ratio(tp, tp + fn) + counts.ratio(tn, tn + fp)) / 2
        precision = np.stack([average_precision(drawn) for average_precision in precisions])
        means["accuracy"].append(counts.mean_defined(counts.ratio(tp + tn, tp + fp + fn + tn)))
        means["balanced_accuracy"].append(counts.mean_defined(balanced))
        means["average_precision"].append(counts.mean_defined(precision))
    return {name: 100 * np.concatenate(parts) for name, parts in means.items()}


def interval(resampled: Float[np.ndarray, "R"]) -> list[float] | None:
    """Bounds of the 95 % interval; None if no resample has a defined value."""
    defined = resampled[~np.isnan(resampled)]
    return (
        [float(bound) for bound in np.percentile(defined, counts.INTERVAL)]
        if len(defined)
        else None
    )


def resample_persons(
    persons: Int[np.ndarray, "N"], num_resamples: int, seed: int
) -> Iterator[Float[np.ndarray, "N R"]]:
    """Like `resample_counts`, for images whose persons are drawn with replacement.

    Args:
      persons: The person on each image, any numbers.
      num_resamples: R, the number of resamples.
      seed: Seed of the resamples.
    """
    distinct, person = np.unique(persons, return_inverse=True)
    for times in resample_counts(len(distinct), num_resamples, seed):
        yield times[person]


def resample_counts(
    num_images: int, num_resamples: int, seed: int
) -> Iterator[Float[np.ndarray, "N R"]]:
    """Yields chunks of resamples: the number of times each image occurs in N draws with
    replacement."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, _CHUNK_SIZE):
        size = min(_CHUNK_SIZE, num_resamples - start)
        drawn = rng.integers(num_images, size=(size, num_images))
        drawn += num_images * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * num_images)
        yield np.ascontiguousarray(times.reshape(size, num_images).T, np.float32)
