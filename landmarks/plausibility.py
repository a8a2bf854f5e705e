"""Plausibility check for predicted landmarks."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

Box = tuple[float, float, float, float]
"""Left, top, right, bottom: in pixels, or in fractions of the image where so documented."""

# Lengths in units of the longer side of the face's box. On 11,166 HOG detections in CelebA and LFW
# the measures below have these percentiles 0, 0.1, 1, 50, 99, 99.9 and 100:
#   reach     0.37  0.43  0.46  0.59  0.74  0.80  0.86
#   features  0.35  0.38  0.40  0.52  0.62  0.67  0.72
#   spread    0.17  0.18  0.19  0.24  0.29  0.30  0.32
# The limits leave room for profiles, of which the detector finds few. In a profile both eyes
# coincide, as do the mouth's corners, but the distance from eyes to mouth stays, and a spread of
# 0.24 is still 0.04 at a yaw of 80 degrees even in a face without depth.
_MAX_REACH = 1.0
_MIN_FEATURES = 0.15
_MIN_SPREAD = 0.03


def _means() -> Float[np.ndarray, "4 68"]:
    weights = np.zeros((4, 68))
    weights[0, 36:42] = weights[1, 42:48] = 1 / 6
    weights[2, 48:68] = 1 / 20
    weights[3] = 1 / 68
    return weights


_MEANS = _means()
"""Multiplied by the landmarks: the centers of the right eye, left eye, mouth and all points."""


def longer_side(box: Box) -> float:
    """The longer side of a box, at least one pixel."""
    left, top, right, bottom = box
    return max(right - left, bottom - top, 1.0)


def plausible(box: Box, landmarks: Float[np.ndarray, "68 2"]) -> bool:
    """True if the points are finite, near their box, and neither in one place nor on one line."""
    # Few array operations, otherwise plain numbers: between two calls of dlib the caches are cold
    # and each NumPy call takes five microseconds.
    left, top, right, bottom = box
    points = (landmarks - ((left + right) / 2, (top + bottom) / 2)) / longer_side(box)
    reach = abs(points).max()
    if not reach <= _MAX_REACH:  # Also rejects NaN.
        return False
    right_eye, left_eye, mouth, middle = (complex(*mean) for mean in (_MEANS @ points).tolist())
    features = max(abs(right_eye - left_eye), abs(right_eye - mouth), abs(left_eye - mouth))
    (xx, xy), (_, yy) = (points.T @ points / 68).tolist()
    xx, xy, yy = xx - middle.real**2, xy - middle.real * middle.imag, yy - middle.imag**2
    # The smaller eigenvalue of the covariance is the variance along the narrowest direction.
    spread = max((xx + yy) / 2 - math.hypot((xx - yy) / 2, xy), 0.0) ** 0.5
    return bool(features >= _MIN_FEATURES and spread >= _MIN_SPREAD)
