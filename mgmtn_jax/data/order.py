"""The order of training examples: pure functions of the seed and the place in the stream."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import grain
import numpy as np


def shuffled(count: int, seed: int) -> grain.MapDataset[int]:
    """The record index at each place of the endless stream of epochs."""
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()


def mixed(counts: Sequence[int], seed: int, weights: Sequence[float]) -> grain.MapDataset[int]:
    """Like `shuffled`, with the records of several data sets at given relative frequencies.

    Each data set has epochs of its own, and Grain spreads its examples evenly.
    """
    if len(weights) != len(counts) or min(weights, default=0) <= 0:
        raise ValueError(
            f"data.weights={','.join(map(str, weights))} must be {len(counts)} positive numbers, "
            "one for each data set"
        )
    starts = np.cumsum([0, *counts]).tolist()
    parts = [
        grain.MapDataset.range(start, stop).seed(seed + part).shuffle().repeat()
        for part, (start, stop) in enumerate(itertools.pairwise(starts))
    ]
    return grain.MapDataset.mix(parts, np.array(weights) / sum(weights))
