"""Deterministic weights and an image for golden files, from NumPy alone.

Only NumPy's bit generators guarantee the same numbers in every version, so their raw integers are
scaled here.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """float32 numbers in low..high, a function of the name."""
    bits = np.random.PCG64(zlib.crc32(name.encode())).random_raw(int(np.prod(shape)))
    return (low + (high - low) * (bits >> 40).astype(np.float32) / 2**24).reshape(shape)


def random_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights and BatchNorm statistics by PyTorch name, with the variances of a trained network."""
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            weights[name] = np.zeros(shape, np.int64)
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            weights[name] = uniform(name, shape, 0.5, 1.5)
        elif len(shape) > 1:
            limit = (3 / np.prod(shape[1:])) ** 0.5  # variance 1 / fan_in
            weights[name] = uniform(name, shape, -limit, limit)
        else:
            weights[name] = uniform(name, shape, -0.3, 0.3)
    return weights


def random_image() -> np.ndarray:
    """A (1, 72, 56, 3) image: some stages have odd sides, where padding conventions differ."""
    return uniform("image", (1, 72, 56, 3), -2, 2)
