"""Accuracy on faces with and without an attribute: differences between groups of people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mgmtn_jax.attributes import AttributeSet, did_you_mean
from mgmtn_jax.evaluation import bootstrap, metrics
from mgmtn_jax.evaluation.counts import mean_defined
from mgmtn_jax.evaluation.formatting import json_number


def check(slice_by: Sequence[str], attribute_set: AttributeSet) -> None:
    """Raises a ValueError, with the nearest name, if one of the names is not an attribute."""
    for name in slice_by:
        if name not in attribute_set.names:
            hint = did_you_mean(name, attribute_set.names)
            raise ValueError(f"cannot slice by {name!r}: the network has no such attribute{hint}")


def accuracy_gaps(
    probabilities: Float[np.ndarray, "N A"],
    labels: Int[np.ndarray, "N A"],
    attribute_set: AttributeSet,
    slice_by: Sequence[str],
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Compares the accuracy on faces labelled positive and negative for each slicing attribute.

    Args:
      probabilities: Predicted probabilities, in 0..1.
      labels: 1 positive, 0 negative, -1 unknown.
      attribute_set: Names and groups of the attributes.
      slice_by: Names of the slicing attributes.
      num_resamples: Number of resamples behind each interval.
      seed: Seed of the resamples.

    Returns:
      For each slicing attribute, a dict with `yes` (faces labelled positive), `no` (faces labelled
      negative) and `gaps`. The first two have `num_examples`, and over all other attributes
      `mean_accuracy` and `mean_accuracy_interval`, in percent. `gaps` has for each other attribute
      the accuracies `yes` and `no` and their difference `gap` in points, in descending order of its
      size. Attributes without a known label on one side are left out of it.

    Raises:
      ValueError: see `check`.
    """
    check(slice_by, attribute_set)
    slices = {}
    for name in slice_by:
        index = attribute_set.names.index(name)
        others = [a for a in range(len(attribute_set.names)) if a != index]
        sides: dict[str, dict[str, Any]] = {}
        accuracies = {}
        for side, label in (("yes", 1), ("no", 0)):
            rows = np.flatnonzero(labels[:, index] == label)
            chosen = probabilities[rows][:, others], labels[rows][:, others]
            sides[side] = {
                "num_examples": len(rows),
                "mean_accuracy": None,
                "mean_accuracy_interval": None,
            }
            accuracies[side] = np.full(len(others), np.nan)
            if len(rows) and others:
                accuracies[side] = metrics.attribute_metrics(*chosen)["accuracy"]
                resampled = bootstrap.bootstrap_means(
                    *chosen, num_resamples=num_resamples, seed=seed
                )
                sides[side] |= {
                    "mean_accuracy": json_number(mean_defined(accuracies[side])),
                    "mean_accuracy_interval": bootstrap.interval(resampled["accuracy"]),
                }
        gaps = accuracies["yes"] - accuracies["no"]
        order = [a for a in np.argsort(-np.abs(gaps), kind="stable") if not np.isnan(gaps[a])]
        slices[name] = {
            **sides,
            "gaps": {
                attribute_set.names[others[a]]: {
                    "yes": float(accuracies["yes"][a]),
                    "no": float(accuracies["no"][a]),
                    "gap": float(gaps[a]),
                }
                for a in order
            },
        }
    return slices
