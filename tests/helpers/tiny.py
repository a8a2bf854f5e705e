"""A config whose network compiles and runs in seconds."""

from __future__ import annotations

import ml_collections
import numpy as np

from experiments.configs import common
from tests.helpers.dotted_faces import face_points


def tiny_config(**model) -> ml_collections.ConfigDict:
    config = common.get_config()
    config.data.image_size = 32
    config.data.batch_size = 8
    config.model.trunk = "resnet18"
    config.model.width = 8
    config.model.mask_width = 8
    config.model.group_width = 8
    config.model.update(model)
    return config


def tiny_batch(batch_size: int = 8, size: int = 32, num_attributes: int = 40, seed: int = 0):
    """An evaluation batch, which training takes too: noise as pixels, one face's landmarks."""
    rng = np.random.default_rng(seed)
    points = face_points(size)
    return {
        "image": rng.integers(0, 256, (batch_size, size, size, 3), np.uint8),
        "landmarks": np.tile(points, (batch_size, 1, 1)).astype(np.float32),
        "landmarks_valid": np.ones(batch_size, np.bool_),
        "labels": rng.integers(-1, 2, (batch_size, num_attributes)).astype(np.int8),
        "index": np.arange(batch_size),
        "valid": np.ones(batch_size, np.bool_),
    }
