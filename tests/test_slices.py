"""Accuracy on faces with and without an attribute."""

from __future__ import annotations

import numpy as np
import pytest

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation import slices

THREE = AttributeSet.create(("Hat", "Scarf", "Glove"), {"hair": ("Hat",), "ear": ("Glove",)})


def test_slices_list_the_largest_gap_first_without_the_slicing_attribute():
    labels = np.array([[1, 1, 0]] * 30 + [[0, 1, 0]] * 10 + [[-1, 0, 1]] * 5)
    probabilities = np.full(labels.shape, 0.9)
    probabilities[:30, 2] = 0.1
    probabilities[:3, 1] = 0.1
    gaps = slices.accuracy_gaps(probabilities, labels, THREE, ["Hat"], num_resamples=20)["Hat"]
    assert list(gaps["gaps"]) == ["Glove", "Scarf"]
    assert gaps["gaps"]["Glove"] == {"yes": 100.0, "no": 0.0, "gap": 100.0}
    assert gaps["gaps"]["Scarf"]["gap"] == pytest.approx(-10)
    assert (gaps["yes"]["num_examples"], gaps["no"]["num_examples"]) == (30, 10)
    assert (gaps["yes"]["mean_accuracy"], gaps["no"]["mean_accuracy"]) == (95, 50)
    low, high = gaps["yes"]["mean_accuracy_interval"]
    assert low < 95 < high
    labels[labels[:, 0] == 0, 0] = -1
    empty = slices.accuracy_gaps(probabilities, labels, THREE, ["Hat"], num_resamples=20)["Hat"]
    assert empty["no"] == {
        "num_examples": 0,
        "mean_accuracy": None,
        "mean_accuracy_interval": None,
    }
    assert empty["gaps"] == {}
    with pytest.raises(
        ValueError, match="'Glvoe': the network has no such attribute: did you mean"
    ):
        slices.accuracy_gaps(probabilities, labels, THREE, ["Glvoe"])
