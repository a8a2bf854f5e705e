"""Which answers of a split are worth looking at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mgmtn_jax.evaluation.metrics import THRESHOLD


class Answer(NamedTuple):
    """One attribute of one face.

    Attributes:
      row: of the face among the predictions.
      attribute: in label order.
    """

    row: int
    attribute: int


def surest_right(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"], count: int
) -> list[Answer]:
    """Right answers of yes; a sure no to a rare attribute is no feat. See `_pick` for the rest."""
    right = (probabilities >= THRESHOLD) & (labels == 1)
    return _pick(np.where(right, probabilities, -np.inf), count)


def surest_wrong(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"], count: int
) -> list[Answer]:
    """Answers that the label contradicts. Many of these are mistakes of the label."""
    wrong = (labels >= 0) & ((probabilities >= THRESHOLD) != (labels == 1))
    return _pick(np.where(wrong, np.abs(probabilities - THRESHOLD), -np.inf), count)


def least_sure(
    probabilities: Float[np.ndarray, "N A"], labels: Int[np.ndarray, "N A"], count: int
) -> list[Answer]:
    """Answers nearest the threshold, of those that have a label."""
    distance = np.abs(probabilities - THRESHOLD)
    return _pick(np.where(labels >= 0, -distance, -np.inf), count)


def _pick(score: Float[np.ndarray, "N A"], count: int) -> list[Answer]:
    """The answers of the highest scores, no face twice, and no attribute twice while there are
    others: otherwise one easy attribute would fill the sheet. Scores of -inf are none."""
    num_attributes = score.shape[1]
    order = np.argsort(-score, axis=None, kind="stable")
    order = order[: np.count_nonzero(score > -np.inf)]
    picked: list[Answer] = []
    rows, columns = np.divmod(order, num_attributes)
    free = np.ones(len(order), bool)
    while len(picked) < count and free.any():
        fresh = free.copy()  # A round takes each attribute once.
        while len(picked) < count and fresh.any():
            first = int(np.argmax(fresh))
            picked.append(Answer(int(rows[first]), int(columns[first])))
            free &= rows != rows[first]
            fresh &= free & (columns != columns[first])
    return picked
