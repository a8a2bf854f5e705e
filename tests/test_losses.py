"""The losses against plain Python loops, with unknown labels and invalid faces."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.training import losses

GROUPS = AttributeSet.create(["a", "b", "c", "d"], {"hair": ["d", "a"], "eyes": ["b", "c"]})


def _cross_entropy(logit, target):
    return math.log1p(math.exp(-abs(logit))) + max(logit, 0.0) - logit * target


def _mean_cross_entropy(logits, labels):
    terms = [
        _cross_entropy(float(logit), int(label))
        for logit, label in zip(logits.flat, labels.flat, strict=True)
        if label >= 0
    ]
    return sum(terms) / len(terms) if terms else 0.0


def _mask_term(logits, masks):
    """Cross-entropy over all cells and regions plus the mean Dice loss of the regions."""
    cells = [
        _cross_entropy(float(logit), bool(mask))
        for logit, mask in zip(logits.flat, masks.flat, strict=True)
    ]
    dice = []
    for region in range(logits.shape[-1]):
        overlap = probability_sum = mask_sum = 0.0
        for logit, mask in zip(logits[..., region].flat, masks[..., region].flat, strict=True):
            probability = 1.0 / (1.0 + math.exp(-float(logit)))
            overlap += probability * bool(mask)
            probability_sum += probability
            mask_sum += bool(mask)
        dice.append(1.0 - (2.0 * overlap + 1.0) / (probability_sum + mask_sum + 1.0))
    return sum(cells) / len(cells) + sum(dice) / len(dice)


@given(seed=st.integers(0, 2**31), unknown=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=20, deadline=None)
def test_attribute_and_group_losses_equal_plain_loops(seed, unknown):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=4, size=(3, 4)).astype(np.float32)
    labels = rng.integers(0, 2, (3, 4)).astype(np.int8)
    labels[rng.random((3, 4)) < unknown] = -1
    num_known = (labels >= 0).sum(0)
    loss = losses.attribute_loss(logits, labels, num_known)
    np.testing.assert_allclose(loss, _mean_cross_entropy(logits, labels), rtol=1e-5, atol=1e-7)
    by_group = losses.group_losses(logits, labels, num_known, GROUPS)
    assert list(by_group) == ["loss/eyes", "loss/hair"]
    for group, members in (("eyes", [1, 2]), ("hair", [3, 0])):
        expected = _mean_cross_entropy(logits[:, members], labels[:, members])
        np.testing.assert_allclose(by_group[f"loss/{group}"], expected, rtol=1e-5, atol=1e-7)


@given(seed=st.integers(0, 2**31), valid=st.lists(st.booleans(), min_size=3, max_size=3))
@settings(max_examples=20, deadline=None)
def test_mask_loss_equals_a_plain_loop_over_the_valid_faces(seed, valid):
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=3, size=(3, 4, 4, 2)).astype(np.float32)
    masks = rng.random((3, 4, 4, 2)) < rng.random()
    terms = [_mask_term(logits[i], masks[i]) for i in range(3) if valid[i]]
    expected = sum(terms) / len(terms) if terms else 0.0
    loss = losses.mask_loss(logits, masks, np.array(valid), sum(valid))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_an_empty_mask_that_is_predicted_empty_has_no_dice_loss():
    """The smoothing constant is 1 in numerator and denominator: 0 / 0 would be the alternative."""
    logits = np.full((1, 2, 2, 1), -40.0, np.float32)
    empty = np.zeros((1, 2, 2, 1), bool)
    assert losses.mask_loss(logits, empty, np.array([True]), 1) == pytest.approx(0.0, abs=1e-6)
    one_cell = empty.copy()
    one_cell[0, 0, 0] = True
    # Cross-entropy of one wrong cell in four, and Dice 1 - 1 / (1 + 1).
    loss = losses.mask_loss(logits, one_cell, np.array([True]), 1)
    assert loss == pytest.approx(40.0 / 4 + 0.5)


def test_a_single_known_label_is_the_whole_loss():
    labels = np.array([[-1, -1, 0, -1]], np.int8)
    loss = losses.attribute_loss(np.zeros((1, 4), np.float32), labels, (labels >= 0).sum(0))
    assert loss == pytest.approx(math.log(2))


def test_a_part_of_a_batch_is_divided_by_the_count_of_the_whole():
    logits = np.array([[2.0, -1.0, 5.0, 0.0], [0.5, 9.0, -9.0, 1.0]], np.float32)
    labels = np.array([[1, 0, -1, -1], [0, -1, -1, -1]], np.int8)
    num_known = (labels >= 0).sum(0)
    parts = [losses.attribute_loss(logits[i : i + 1], labels[i : i + 1], num_known) for i in (0, 1)]
    np.testing.assert_allclose(sum(parts), _mean_cross_entropy(logits, labels), rtol=1e-6)
