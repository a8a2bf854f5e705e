"""Metrics against scikit-learn, against plain bootstrap loops, and at the edges."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from mgmtn_jax.attributes import CELEBA, AttributeSet
from mgmtn_jax.evaluation import bootstrap, counts, curves, metrics

THREE = AttributeSet.create(("Hat", "Scarf", "Glove"), {"hair": ("Hat",), "ear": ("Glove",)})


def random_predictions(seed, num_images=200, num_attributes=3, ties=False, unknown=0.1):
    """Probabilities correlated with labels, and the labels, some of them unknown."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_images, num_attributes)) < 0.3).astype(np.int8)
    probabilities = (rng.random(labels.shape) * 0.7 + labels * 0.3).astype(np.float32)
    if ties:
        probabilities = np.round(probabilities, 1)
    labels[rng.random(labels.shape) < unknown] = -1
    return probabilities, labels


def scikit_learn_metrics(probability, label):
    """Our metrics, computed by scikit-learn, for labels of both classes."""
    known = label >= 0
    label, probability = label[known], probability[known]
    predicted = probability >= 0.5
    rate = label.mean()
    return {
        "positive_rate": rate,
        "majority_accuracy": max(rate, 1 - rate),
        "accuracy": sk.accuracy_score(label, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(label, predicted),
        "precision": sk.precision_score(label, predicted, zero_division=np.nan),
        "recall": sk.recall_score(label, predicted),
        "f1": sk.f1_score(label, predicted),
        "average_precision": sk.average_precision_score(label, probability),
        "auroc": sk.roc_auc_score(label, probability),
        "calibration_error": _calibration_error(label, probability),
    }


def _calibration_error(label, probability):
    """From scikit-learn's reliability diagram. Its bins exclude their lower edge and ours include
    it, so labels and probabilities are mirrored."""
    probability = probability.astype(np.float64)
    share, mean = calibration_curve(1 - label, 1 - probability, n_bins=counts.CALIBRATION_BINS)
    edges = np.linspace(0, 1, counts.CALIBRATION_BINS + 1)
    size = np.histogram(np.searchsorted(edges[1:-1], 1 - probability), range(16))[0]
    return np.abs(share - mean) @ size[size > 0] / len(label)


@settings(deadline=None)  # a busy machine is no failure
@given(
    data=st.data(),
    probabilities=hnp.arrays(
        np.float64,
        st.tuples(st.integers(2, 40), st.just(2)),
        # A coarse grid makes ties common, the threshold included.
        elements=st.integers(0, 10).map(lambda tenth: tenth / 10),
    ),
)
def test_metrics_equal_scikit_learn(data, probabilities):
    labels = data.draw(
        hnp.arrays(np.int8, probabilities.shape, elements=st.sampled_from((1, 0, -1)))
    )
    labels[:2] = [[1, 1], [0, 0]]
    ours = metrics.attribute_metrics(probabilities, labels)
    for a in range(2):
        theirs = scikit_learn_metrics(probabilities[:, a], labels[:, a])
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name][a], 100 * value, rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_equal_scikit_learn_on_many_images(ties):
    probabilities, labels = random_predictions(1, num_images=5000, ties=ties)
    ours = metrics.attribute_metrics(probabilities, labels)
    for a in range(3):
        for name, value in scikit_learn_metrics(probabilities[:, a], labels[:, a]).items():
            np.testing.assert_allclose(ours[name][a], 100 * value, rtol=0, atol=1e-9, err_msg=name)


def test_calibration_error_averages_the_gap_of_each_bin():
    probabilities = np.array([[0.1], [0.1], [0.95], [1.0], [0.5]])
    labels = np.array([[0], [1], [1], [0], [-1]])
    # The two images at 0.1 share a bin, and so do 0.95 and 1.0; half of each are positive.
    expected = 100 * (2 * 0.4 + 2 * 0.475) / 4
    found = metrics.attribute_metrics(probabilities, labels)
    assert found["calibration_error"][0] == pytest.approx(expected)


@pytest.mark.parametrize("ties", [False, True])
def test_curves_equal_scikit_learn(ties):
    (probability,), (label,) = (
        array.T for array in random_predictions(11, num_attributes=1, ties=ties, unknown=0.3)
    )
    known = label >= 0
    recall, precision = curves.precision_recall(probability, label)
    theirs = sk.precision_recall_curve(label[known], probability[known])
    # Theirs is in reverse order and ends with a point that corresponds to no threshold.
    np.testing.assert_allclose(precision, theirs[0][-2::-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(recall, theirs[1][-2::-1], rtol=0, atol=1e-12)
    predicted, share = curves.reliability(probability, label)
    sizes = np.histogram(probability[known], np.linspace(0, 1, counts.CALIBRATION_BINS + 1))[0]
    error = 100 * np.abs(predicted - share) @ sizes[sizes > 0] / known.sum()
    ours = metrics.attribute_metrics(probability[:, None], label[:, None])
    assert error == pytest.approx(ours["calibration_error"][0])
    nothing = np.full(len(label), -1)
    assert [len(axis) for axis in curves.precision_recall(probability, nothing)] == [0, 0]


def test_metrics_are_undefined_without_both_classes():
    probabilities = np.array([[0.9, 0.1, 0.2, 0.4]] * 4)
    labels = np.array([[1, 1, 0, -1]] * 4)
    found = metrics.attribute_metrics(probabilities, labels)
    undefined = {name: np.flatnonzero(np.isnan(values)) for name, values in found.items()}
    for name in ("accuracy", "positive_rate", "majority_accuracy", "calibration_error"):
        assert undefined[name].tolist() == [3], name
    assert undefined["precision"].tolist() == [1, 2, 3]
    for name in ("recall", "f1", "average_precision"):
        assert undefined[name].tolist() == [2, 3], name
    for name in ("balanced_accuracy", "auroc"):
        assert undefined[name].tolist() == [0, 1, 2, 3], name
    np.testing.assert_array_equal(found["accuracy"][:3], [100, 0, 100])


def test_f1_needs_a_positive_label_and_one_is_enough():
    probabilities = np.array([[0.9, 0.9], [0.1, 0.1]])
    labels = np.array([[0, 1], [0, 0]])  # a false positive, and a true positive
    np.testing.assert_array_equal(
        metrics.attribute_metrics(probabilities, labels)["f1"], [np.nan, 100]
    )


@pytest.mark.parametrize("ties", [False, True])
def test_bootstrap_equals_a_loop_over_resamples(ties):
    probabilities, labels = random_predictions(2, num_images=60, ties=ties, unknown=0.3)
    resampled = bootstrap.bootstrap_means(probabilities, labels, num_resamples=130, seed=5)
    drawn = np.random.default_rng(5).integers(60, size=(130, 60))
    for r in range(130):
        found = metrics.attribute_metrics(probabilities[drawn[r]], labels[drawn[r]])
        for name, values in resampled.items():
            assert values[r] == pytest.approx(np.nanmean(found[name]), abs=1e-4), name


def test_bootstrap_is_seeded_and_paired():
    probabilities, labels = random_predictions(3)
    once, again, other = (
        bootstrap.bootstrap_means(probabilities, labels, num_resamples=20, seed=seed)
        for seed in (1, 1, 2)
    )
    for name in once:
        np.testing.assert_array_equal(once[name], again[name])
        assert not np.array_equal(once[name], other[name])
    # The same images are drawn for each network: one that has one more error is never better.
    worse = probabilities.copy()
    image = np.flatnonzero(labels[:, 0] == 1)[0]
    worse[image, 0], probabilities[image, 0] = 0.0, 1.0
    paired = [
        bootstrap.bootstrap_means(p, labels, num_resamples=50, seed=1)["accuracy"]
        for p in (probabilities, worse)
    ]
    assert (paired[0] >= paired[1]).all()
    assert (paired[0] > paired[1]).any()


def test_intervals_have_the_binomial_width():
    rng = np.random.default_rng(4)
    labels = np.ones((2000, 1), np.int8)
    probabilities = (rng.random((2000, 1)) < 0.9).astype(np.float32)
    accuracy = bootstrap.bootstrap_means(probabilities, labels, num_resamples=1000, seed=0)
    assert accuracy["accuracy"].std() == pytest.approx(100 * np.sqrt(0.9 * 0.1 / 2000), rel=0.1)


def test_summary_has_the_contract_keys_and_is_valid_json():
    probabilities, labels = random_predictions(6)
    labels[:, 1] = -1
    iou = {"hair": 0.5, "ear": 1.0, "eyes": float("nan")}
    found = metrics.summarize(probabilities, labels, THREE, iou, num_resamples=50)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["num_examples"] == 200
    assert list(found["per_attribute"]) == ["Hat", "Scarf", "Glove"]
    scarf = found["per_attribute"]["Scarf"]
    assert scarf["group"] == "object"
    assert scarf["num_known"] == 0
    assert found["per_attribute"]["Hat"]["num_known"] == (labels[:, 0] >= 0).sum() < 200
    assert all(
        scarf[name] is None
        for name in ("accuracy", "balanced_accuracy", "f1", "average_precision", "positive_rate")
    )
    hat, glove = found["per_attribute"]["Hat"], found["per_attribute"]["Glove"]
    for name in ("accuracy", "balanced_accuracy", "average_precision"):
        assert found[f"mean_{name}"] == pytest.approx((hat[name] + glove[name]) / 2)
        low, high = found[f"mean_{name}_interval"]
        assert low < found[f"mean_{name}"] < high
    expected = (hat["majority_accuracy"] + glove["majority_accuracy"]) / 2
    assert found["majority_accuracy"] == pytest.approx(expected)
    assert list(found["per_group"]) == list(THREE.group_names)
    assert found["per_group"]["hair"]["accuracy"] == hat["accuracy"]
    assert found["per_group"]["object"]["accuracy"] is None
    assert found["mask_miou"] == {"hair": 0.5, "ear": 1.0, "eyes": None}
    assert found["mean_mask_miou"] == 0.75


def test_intervals_are_the_percentiles_of_a_thousand_resamples():
    probabilities, labels = random_predictions(10, num_images=40)
    found = metrics.summarize(probabilities, labels, THREE)
    resampled = bootstrap.bootstrap_means(probabilities, labels, num_resamples=1000, seed=0)
    for name, values in resampled.items():
        expected = np.percentile(values, [2.5, 97.5]).tolist()
        assert found[f"mean_{name}_interval"] == expected, name


def test_a_network_without_masks_has_no_mask_iou():
    probabilities, labels = random_predictions(7)
    found = metrics.summarize(probabilities, labels, THREE, num_resamples=10)
    assert found["mask_miou"] == {}
    assert found["mean_mask_miou"] is None


def test_all_labels_unknown_gives_undefined_metrics_without_warnings():
    probabilities, _ = random_predictions(8)
    found = metrics.summarize(
        probabilities, np.full(probabilities.shape, -1), THREE, num_resamples=10
    )
    assert found["mean_accuracy"] is None
    assert found["mean_average_precision_interval"] is None


def test_probabilities_of_zero_and_one_are_evaluated():
    certain = np.array([[0.0, 1.0, 1.0]])
    found = metrics.summarize(certain, np.array([[0, 1, 0]]), THREE, num_resamples=10)
    assert found["mean_accuracy"] == pytest.approx(200 / 3)


def test_one_image_is_evaluated():
    found = metrics.summarize(
        np.full((1, 40), 0.75, np.float32), np.ones((1, 40), np.int64), CELEBA, num_resamples=10
    )
    assert found["mean_accuracy_interval"] == [100, 100]
    assert found["mean_balanced_accuracy"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, y: (p[:0], y[:0]), "no image"),
        (lambda p, y: (p[:, :2], y), "3 attributes"),
        (lambda p, y: (p + 1, y), "outside 0..1"),
        (lambda p, y: (np.where(p > 0.9, np.nan, p), y), "not a number"),
        (lambda p, y: (p, np.where(y == 0, 2, y)), "not 1 .positive."),
    ],
)
def test_invalid_predictions_are_refused(change, message):
    probabilities, labels = change(*random_predictions(9))
    with pytest.raises(ValueError, match=message):
        metrics.summarize(probabilities, labels, THREE)
