"""The landmarks of an average head in three dimensions, and random faces made from it."""

from __future__ import annotations

import numpy as np

from mgmtn_jax.data.alignment import FLIP_INDEX, align, transform_points

IMAGE, FACES = 112, 2048
MIDDLE = (IMAGE - 1) / 2

# The image's left half of an average face: x, y and depth towards the camera in inter-ocular
# distances from the point between the eyes.
_LEFT_HALF = {
    0: (-1.17, 0.05, -0.90),
    1: (-1.15, 0.37, -0.85),
    2: (-1.10, 0.68, -0.75),
    3: (-1.03, 0.98, -0.62),
    4: (-0.91, 1.27, -0.45),
    5: (-0.72, 1.52, -0.25),
    6: (-0.49, 1.73, -0.05),
    7: (-0.25, 1.88, 0.08),
    8: (0.0, 1.92, 0.12),
    17: (-0.93, -0.26, -0.25),
    18: (-0.79, -0.41, -0.08),
    19: (-0.59, -0.45, 0.06),
    20: (-0.39, -0.42, 0.14),
    21: (-0.20, -0.34, 0.18),
    27: (0.0, 0.02, 0.15),
    28: (0.0, 0.23, 0.30),
    29: (0.0, 0.44, 0.45),
    30: (0.0, 0.66, 0.60),
    31: (-0.24, 0.81, 0.20),
    32: (-0.13, 0.86, 0.28),
    33: (0.0, 0.89, 0.33),
    36: (-0.70, 0.03, -0.18),
    37: (-0.58, -0.06, -0.03),
    38: (-0.43, -0.06, 0.02),
    39: (-0.30, 0.04, -0.02),
    40: (-0.43, 0.08, 0.01),
    41: (-0.58, 0.08, -0.04),
    48: (-0.44, 1.17, 0.05),
    49: (-0.28, 1.11, 0.18),
    50: (-0.11, 1.07, 0.27),
    51: (0.0, 1.10, 0.28),
    57: (0.0, 1.40, 0.27),
    58: (-0.11, 1.38, 0.26),
    59: (-0.28, 1.31, 0.17),
    60: (-0.38, 1.17, 0.07),
    61: (-0.12, 1.16, 0.22),
    62: (0.0, 1.17, 0.24),
    66: (0.0, 1.24, 0.23),
    67: (-0.12, 1.23, 0.22),
}
HEAD = np.zeros((68, 3))
for _index, _corner in _LEFT_HALF.items():
    HEAD[FLIP_INDEX[_index]] = _corner * np.array([-1, 1, 1])
    HEAD[_index] = _corner
FRONTAL = transform_points(HEAD[:, :2], align(HEAD[:, :2], IMAGE)).astype(np.float32)
OUTLINES = {
    "mouth": (55.50, 78.71, 740.8),
    "ear": (22.75, 60.75, 592.1),
    "lower_face": (55.50, 98.38, 2346.5),
    "cheeks": (31.17, 58.10, 611.1),
    "nose": (55.50, 61.98, 514.0),
    "eyes": (55.50, 42.02, 1285.0),
    "hair": (55.50, 37.51, 4613.5),
    "object": (55.50, 63.12, 4377.6),
}
"""Mean x and y of the corners, and area, of each region's first polygon on `FRONTAL`; pixels."""


def turned_head(yaw: np.ndarray) -> np.ndarray:
    """(n, 68, 2) Landmarks of the head turned by `yaw` degrees, in inter-ocular distances."""
    angle = np.radians(yaw)[:, None]
    x = HEAD[:, 0] * np.cos(angle) + HEAD[:, 2] * np.sin(angle)
    return np.stack([x, np.broadcast_to(HEAD[:, 1], x.shape)], axis=-1)


def moved(points: np.ndarray, scale, degrees, x=0.0, y=0.0) -> np.ndarray:
    """Scales and rotates points about the center of the crop, then shifts them."""
    plane = (points - MIDDLE) @ (1, 1j)
    plane = plane * (scale * np.exp(1j * np.radians(degrees))) + (x + 1j * y)
    return np.stack([plane.real, plane.imag], axis=-1) + MIDDLE


def random_faces(seed: int) -> np.ndarray:
    """(FACES, 68, 2) faces of any rotation and of 14 to 56 pixels between the eyes, half of them
    turned by less than 10 degrees and the rest up to 75, with noise of 3 % of the inter-ocular
    distance on every point; many reach outside the crop."""
    rng = np.random.default_rng(seed)
    yaw = 75 * rng.uniform(-1, 1, FACES) ** 3
    heads = turned_head(yaw) + rng.normal(0, 0.03, (FACES, 68, 2))
    faces = (heads - [0, 0.5]) * (IMAGE / 4) + MIDDLE
    scale, degrees = 2 ** rng.uniform(-1, 1, (FACES, 1)), rng.uniform(-180, 180, (FACES, 1))
    x, y = rng.uniform(-0.3 * IMAGE, 0.3 * IMAGE, (2, FACES, 1))
    return moved(faces, scale, degrees, x, y).astype(np.float32)
