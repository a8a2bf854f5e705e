"""A face found in an image, and where faces are expected. Imports no dlib."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, UInt8

from landmarks.plausibility import Box

CELEBA_BOX: Box = (0.253, 0.427, 0.736, 0.821)
"""The median HOG box in CelebA's aligned images, in fractions of the image."""
LFW_BOX: Box = (0.308, 0.356, 0.724, 0.756)
"""The median HOG box in LFW's deep-funneled images, in fractions of the image."""

WEAKEST_SCORE = -0.3
"""The lowest score of a box that the detectors return."""

DETECTORS: tuple[str, ...] = ("hog", "cnn", "none")


class Detection(NamedTuple):
    """A face, in pixels of its image; pixel centers have integer coordinates.

    Attributes:
      box: Left, top, right, bottom.
      landmarks: The 68 points, always finite and plausible.
      landmark_source: Where `box` comes from, a constant of `schema`.
      implausible: True if the first prediction was implausible and has been replaced.
      score: The detector's score, which `Detector.find_all` returns; None without one.
    """

    box: Float32[np.ndarray, "4"]
    landmarks: Float32[np.ndarray, "68 2"]
    landmark_source: int
    implausible: bool
    score: float | None = None


class FindFace(Protocol):
    """Finds the main face of an image, or the one that a given box is about."""

    def __call__(
        self, image: UInt8[np.ndarray, "height width 3"], box: Box | None = None
    ) -> Detection: ...
