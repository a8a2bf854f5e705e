"""Augmentation of training examples, as functions of random numbers that the caller draws.

Movements are matrices that are composed with that of `alignment.align` before the one warp.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from mgmtn_jax.data import alignment

NUM_MOVEMENT, NUM_COLOR = 5, 11
"""Number of random numbers that `movements` and `alter_colors` consume per example."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the augmentation. Zero (and `flip=False`) turns a part off."""

    rotation: float = 8.0  # +- degrees; about the error of alignment by noisy landmarks
    scale: float = 0.10  # size times 1 / (1 + scale) .. 1 + scale, log-uniform
    shift: float = 0.05  # +- fraction of the side, in x and in y
    flip: bool = True  # mirrors half of the examples; no CelebA attribute depends on the side
    # Off by default: they blur labels such as hair color, pale skin and rosy cheeks, and cost host
    # time. They help on small data sets and with images of unfamiliar cameras.
    brightness: float = 0.0  # intensity times 1 - brightness .. 1 + brightness
    contrast: float = 0.0  # distance from mid-gray times 1 - contrast .. 1 + contrast
    saturation: float = 0.0  # distance from the pixel's gray times 1 - .. 1 + saturation
    erase: float = 0.0  # probability that a rectangle of 2 to 20 % of the crop is painted over

    @property
    def alters_colors(self) -> bool:
        """True if `alter_colors` has an effect."""
        return any((self.brightness, self.contrast, self.saturation, self.erase))


NO_AUGMENTATION = Augmentation(rotation=0.0, scale=0.0, shift=0.0, flip=False)


def random_numbers(seed: int, first: int, count: int) -> Float[np.ndarray, "count numbers"]:
    """The random numbers of `count` consecutive examples of a stream, starting at number `first`.

    One Philox sequence holds 16 numbers for each example, and its counter jumps to any of them.

    Returns:
      Numbers in [0, 1): the first `NUM_MOVEMENT` of a row for `movements`, the rest for
      `alter_colors`.
    """
    width = NUM_MOVEMENT + NUM_COLOR
    # Each increment of the counter yields four numbers, which divide the 16 of an example.
    philox = np.random.Philox(key=seed, counter=first * width // 4)
    return np.random.Generator(philox).random((count, width))


def movements(
    numbers: Float[np.ndarray, "n 5"], augmentation: Augmentation, size: int
) -> tuple[Float[np.ndarray, "n 2 3"], Bool[np.ndarray, " n"]]:
    """The movements of the crops of n examples.

    Each number has one use, so that turning one part off does not change the others.

    Args:
      numbers: Uniform in [0, 1): rotation, scale, shift in x and y, flip.
      augmentation: The ranges.
      size: Side of the crop in pixels.

    Returns:
      Matrices from crop pixels to crop pixels (rotation and scaling about the center, shift, flip),
      and a flag for each that flips, whose landmarks must be reordered by `FLIP_INDEX`.
    """
    rotation, scale, shift_x, shift_y = 2.0 * numbers[:, :4].T - 1.0
    angle = math.radians(augmentation.rotation) * rotation
    factor = (1.0 + augmentation.scale) ** scale
    cos, sin = factor * np.cos(angle), factor * np.sin(angle)
    center, shift = (size - 1) / 2, augmentation.shift * size
    matrices = np.empty((len(numbers), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = cos
    matrices[:, 0, 1], matrices[:, 1, 0] = -sin, sin
    matrices[:, 0, 2] = center - cos * center + sin * center + shift * shift_x
    matrices[:, 1, 2] = center - sin * center - cos * center + shift * shift_y
    flips = (numbers[:, 4] < 0.5) & augmentation.flip
    matrices[flips] = alignment.compose(alignment.mirror(size), matrices[flips])
    return matrices, flips


def reach(augmentation: Augmentation) -> float:
    """Largest distance in x or y from a crop's center to a pixel of the moved crop, in sides."""
    turned = math.radians(min(augmentation.rotation, 45.0))
    half_side = (0.5 + augmentation.shift) * (1.0 + augmentation.scale)
    return half_side * (math.cos(turned) + math.sin(turned))


def alter_colors(
    image: UInt8[np.ndarray, "size size 3"],
    numbers: Float[np.ndarray, "11"],
    augmentation: Augmentation,
) -> None:
    """Changes brightness, contrast and saturation by one color matrix, then erases a rectangle.

    Args:
      image: An RGB crop, changed in place.
      numbers: Uniform in [0, 1): brightness, contrast, saturation, the draw against `erase`, and
        the rectangle's area, aspect ratio, position in y and x, and three color channels.
      augmentation: The ranges.
    """
    ranges = augmentation.brightness, augmentation.contrast, augmentation.saturation
    if any(ranges):
        light, contrast, saturation = 1.0 + (2.0 * numbers[:3] - 1.0) * ranges
        gray = np.array([0.299, 0.587, 0.114])
        matrix = np.empty((3, 4))
        matrix[:, :3] = light * contrast * (saturation * np.eye(3) + (1.0 - saturation) * gray)
        matrix[:, 3] = 127.5 * (1.0 - contrast)
        cv2.transform(image, matrix, dst=image)
    if numbers[3] < augmentation.erase:
        # Random erasing (Zhong et al. 2020), with smaller rectangles (theirs: up to 40 %) of one
        # random color.
        area, shape, v, u = numbers[4:8]
        height, width = image.shape[:2]
        area, aspect = (0.02 + 0.18 * area) * height * width, 3.0 ** (2.0 * shape - 1.0)
        tall = min(height, round(math.sqrt(area * aspect)))
        wide = min(width, round(math.sqrt(area / aspect)))
        top, left = round(v * (height - tall)), round(u * (width - wide))
        image[top : top + tall, left : left + wide] = (256 * numbers[8:]).astype(np.uint8)
