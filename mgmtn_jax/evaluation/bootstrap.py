"""How sure the means are: percentile bootstraps over images.

The images are the sample, and all attributes of one image are drawn together, because they are not
independent.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from mgmtn_jax.evaluation import counts

_RESAMPLES_AT_A_TIME = 100  # 20,000 images x 100 counts x 4 bytes: 8 MB, about a CPU cache


def bootstrap_means(
    probabilities: Float[np.ndarray, "N A"],
    labels: Int[np.ndarray, "N A"],
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
        for outcome in counts.outcomes(probabilities, labels)
    ]
    precisions = [
        counts.PrecisionAtPositives(probabilities[:, a], labels[:, a])
        for a in range(labels.shape[1])
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
        precision = np.stack([attribute.average(drawn) for attribute in precisions])
        means["accuracy"].append(counts.mean_defined(counts.ratio(tp + tn, tp + fp + fn + tn)))
        means["balanced_accuracy"].append(counts.mean_defined(balanced))
        means["average_precision"].append(counts.mean_defined(precision))
    return {name: 100 * np.concatenate(parts) for name, parts in means.items()}


def interval(resampled: Float[np.ndarray, "R"]) -> list[float] | None:
    """The bounds of a 95 % interval; None where nothing is defined."""
    defined = resampled[~np.isnan(resampled)]
    return (
        [float(bound) for bound in np.percentile(defined, counts.INTERVAL)]
        if len(defined)
        else None
    )


def resample_counts(
    num_images: int, num_resamples: int, seed: int
) -> Iterator[Float[np.ndarray, "N R"]]:
    """Chunks of resamples: how often each of N images is drawn in N draws with replacement."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, _RESAMPLES_AT_A_TIME):
        size = min(_RESAMPLES_AT_A_TIME, num_resamples - start)
        drawn = rng.integers(num_images, size=(size, num_images))
        drawn += num_images * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * num_images)
        yield np.ascontiguousarray(counts.reshape(size, num_images).T, np.float32)
