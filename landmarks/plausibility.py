"""Whether 68 points can be a face."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# Lengths in longer sides of the face's box. On 11,166 HOG detections in CelebA and LFW the measures
# below were, at percentiles 0, 0.1, 1, 50, 99, 99.9 and 100:
#   reach     0.37  0.43  0.46  0.59  0.74  0.80  0.86
#   features  0.35  0.38  0.40  0.52  0.62  0.67  0.72
#   spread    0.17  0.18  0.19  0.24  0.29  0.30  0.32
# The limits leave room for profiles, of which the detector finds few: the eyes come together there,
# as do the mouth's corners, but eyes and mouth stay as far apart as they were, and a spread of 0.24
# is still 0.04 at a turn of 80 degrees even in a face without depth.
_MAX_REACH = 1.0
_MIN_FEATURES = 0.15
_MIN_SPREAD = 0.03


def longer_side(box: Float[np.ndarray, "4"]) -> float:
    """The longer side of a box, one pixel at least."""
    return max(box[2] - box[0], box[3] - box[1], 1)


def plausible(box: Float[np.ndarray, "4"], landmarks: Float[np.ndarray, "68 2"]) -> bool:
    """Whether the points are finite, near their box, and neither in one place nor on one line."""
    if not np.isfinite(landmarks).all():
        return False
    points = (landmarks - (box[:2] + box[2:]) / 2) / longer_side(box)
    reach = np.abs(points).max()
    right_eye, left_eye, mouth = (points[a:b].mean(0) for a, b in ((36, 42), (42, 48), (48, 68)))
    features = max(
        np.linalg.norm(a - b)
        for a, b in ((right_eye, left_eye), (right_eye, mouth), (left_eye, mouth))
    )
    spread = np.linalg.eigvalsh(np.cov(points.T))[0] ** 0.5  # Along the narrowest direction.
    return bool(reach <= _MAX_REACH and features >= _MIN_FEATURES and spread >= _MIN_SPREAD)
