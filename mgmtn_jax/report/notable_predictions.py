"""Selection of predictions to show: confident and correct, confident and wrong, uncertain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mgmtn_jax.evaluation.counts import THRESHOLD


class Prediction(NamedTuple):
    """The prediction of one attribute of one face.

    Attributes:
      row: Row of the face in the predictions.
      attribute: Column of the attribute.
    """

    row: int
    attribute: int


def confident_correct(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"], count: int
) -> list[Prediction]:
    """True positives of highest probability.

    True negatives are left out: a confident negative is easy where the attribute is rare. `_pick`
    describes the order.
    """
    true_positive = (probabilities >= THRESHOLD) & (labels == 1)
    return _pick(np.where(true_positive, probabilities, -np.inf), count)


def confident_errors(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"], count: int
) -> list[Prediction]:
    """Errors whose probability is farthest from the threshold. Many of these are label errors."""
    wrong = (labels >= 0) & ((probabilities >= THRESHOLD) != (labels == 1))
    return _pick(np.where(wrong, np.abs(probabilities - THRESHOLD), -np.inf), count)


def least_confident(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"], count: int
) -> list[Prediction]:
    """Predictions nearest to the threshold, among those with a label."""
    distance = np.abs(probabilities - THRESHOLD)
    return _pick(np.where(labels >= 0, -distance, -np.inf), count)


def _pick(score: Float[np.ndarray, "N A"], count: int) -> list[Prediction]:
    """Up to `count` predictions of highest score, each of another face.

    Attributes take turns, because one easy attribute would fill the sheet otherwise: none is picked
    again before every other that is left had its turn. Predictions with score -inf are left out.
    """
    num_attributes = score.shape[1]
    order = np.argsort(-score, axis=None, kind="stable")
    order = order[: np.count_nonzero(score > -np.inf)]
    picked: list[Prediction] = []
    rows, columns = np.divmod(order, num_attributes)
    free = np.ones(len(order), bool)
    while len(picked) < count and free.any():
        fresh = free.copy()  # Each round picks an attribute once.
        while len(picked) < count and fresh.any():
            first = int(np.argmax(fresh))
            picked.append(Prediction(int(rows[first]), int(columns[first])))
            free &= rows != rows[first]
            fresh &= free & (columns != columns[first])
    return picked
