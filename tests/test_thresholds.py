"""Tuned thresholds against an exhaustive search with scikit-learn's balanced accuracy."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.evaluation import thresholds


@pytest.mark.parametrize("seed", range(5))
def test_tuned_threshold_is_the_best_and_nearest_to_a_half_among_equals(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 2, (60, 1))
    probabilities = (rng.integers(0, 8, (60, 1)) + labels).clip(0, 8) / 8  # with ties
    known = labels >= 0

    def score(threshold):
        return balanced_accuracy_score(labels[known], probabilities[known] >= threshold)

    (best,) = thresholds.tune(probabilities, labels)
    scores = np.unique(probabilities[known])
    others = (scores[1:] + scores[:-1]) / 2
    assert best in others
    assert score(best) == pytest.approx(max(map(score, others)))
    equal = [other for other in others if score(other) == pytest.approx(score(best))]
    assert abs(best - 0.5) == min(abs(other - 0.5) for other in equal)


def test_attributes_that_cannot_be_tuned_keep_a_half():
    same = np.full((4, 1), 0.9)
    assert thresholds.tune(same, np.array([[1], [1], [-1], [1]])) == 0.5  # one class
    assert thresholds.tune(same, np.array([[1], [0], [1], [0]])) == 0.5  # one score
    assert thresholds.tune(same, np.full((4, 1), -1)) == 0.5


def test_tuned_metrics_use_the_given_thresholds():
    attribute_set = AttributeSet.create(["Smiling", "Bald"])
    probabilities = np.array([[0.2, 0.9], [0.4, 0.9], [0.6, 0.9], [0.3, 0.9]])
    labels = np.array([[0, -1], [1, -1], [1, -1], [0, -1]])
    found = thresholds.tuned_metrics(probabilities, labels, np.array([0.35, 0.5]), attribute_set)
    assert found["mean_accuracy"] == found["mean_balanced_accuracy"] == 100
    assert found["per_attribute"]["Smiling"] == {
        "threshold": 0.35,
        "accuracy": 100,
        "balanced_accuracy": 100,
    }
    assert found["per_attribute"]["Bald"]["accuracy"] is None
