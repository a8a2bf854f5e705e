"""From landmarks to a square crop: alignment, augmentation, mirror and resize as one affine matrix.

Everything that moves a pixel is one (2, 3) matrix from source pixels to crop pixels. The image goes
through one `warp`, the landmarks through one `transform_points`, so points and pixels cannot drift
apart and no pixel is resampled twice.

Coordinates are pixel indices, x then y: (0, 0) is the *center* of the first pixel, as in OpenCV
and dlib. An image of width W spans [-0.5, W - 0.5], so a fraction f of it is at f * W - 0.5 and a
change of size by s maps x to s * (x + 0.5) - 0.5. Leaving the halves out would shift every crop by
up to half a pixel, differently at each size.
"""

from __future__ import annotations

import cmath
import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

EYE_HEIGHT = 0.42
EYE_DISTANCE = 0.25
MOUTH_HEIGHT = 0.695
"""Where eyes and mouth land, as fractions of the crop's side.

On detected faces of CelebA and LFW the mouth corners lie 1.1 eye distances under the eyes (median;
hence 0.42 + 1.1 * 0.25). The side is then 4 eye distances: 1.7 of them above the eyes hold the
hair, 1.2 beside each eye hold ears and long hair, 1.2 under the mouth hold chin and neck.
"""

CANONICAL: tuple[tuple[float, float], ...] = (
    (0.5 - EYE_DISTANCE / 2, EYE_HEIGHT),
    (0.5 + EYE_DISTANCE / 2, EYE_HEIGHT),
    (0.5, MOUTH_HEIGHT),
)
"""The eye on the image's left, the eye on its right, the middle of the mouth corners; fractions."""


def _mirrored_indices() -> Int[np.ndarray, "68"]:
    pairs = [(i, 16 - i) for i in range(8)]  # jaw, 8 is the chin
    pairs += [(i, 43 - i) for i in range(17, 22)]  # brows
    pairs += [(31, 35), (32, 34)]  # nostrils; 27..30 and 33 are on the midline
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]  # eyes
    pairs += [(48, 54), (49, 53), (50, 52), (59, 55), (58, 56)]  # outer lips
    pairs += [(60, 64), (61, 63), (67, 65)]  # inner lips
    index = np.arange(68)
    for left, right in pairs:
        index[left], index[right] = right, left
    return index


FLIP_INDEX: Int[np.ndarray, "68"] = _mirrored_indices()
"""Point i of a mirrored face is point `FLIP_INDEX[i]` of the face (iBUG 68-point order)."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How far training examples are moved and altered. Zeros (and `flip=False`) turn a part off."""

    rotation: float = 8.0  # degrees either way; what alignment by noisy landmarks leaves over
    scale: float = 0.10  # size times 1 / (1 + scale) .. 1 + scale, uniform in its logarithm
    shift: float = 0.05  # fraction of the side, either way, in x and in y
    flip: bool = True  # mirror half of the examples; no attribute of CelebA has a side
    # Off by default: hair color, pale skin and rosy cheeks are labels that these blur, and each
    # costs host time. They pay on small data sets and on foreign cameras.
    brightness: float = 0.0  # light times 1 - brightness .. 1 + brightness
    contrast: float = 0.0  # distance from mid-gray times 1 - contrast .. 1 + contrast
    saturation: float = 0.0  # distance from the pixel's own gray times 1 - .. 1 + saturation
    erase: float = 0.0  # probability that one rectangle of 2 to 20 % of the crop is painted over


NO_AUGMENTATION = Augmentation(rotation=0.0, scale=0.0, shift=0.0, flip=False)


def align(landmarks: Float[np.ndarray, "68 2"], size: int) -> Float[np.ndarray, "2 3"]:
    """The similarity (rotation, one scale, translation) that brings a face to the canonical crop.

    Least squares over eye centers and the middle of the mouth corners (Umeyama 1991; in the plane,
    with mirror images ruled out, it is one complex division). Three points and not two because the
    eyes of a profile coincide: then the distance from eyes to mouth alone sets the scale, and the
    face is drawn no larger than that distance asks for.

    Args:
      landmarks: iBUG points in source pixels.
      size: side of the crop in pixels.

    Returns:
      The matrix from source pixels to crop pixels. Points that all coincide have no scale; they are
      brought to the crop's canonical center unscaled and unrotated.

    Raises:
      ValueError: if a point that is used is not finite.
    """
    # Points as complex numbers: a similarity is z -> turn * z + offset. Plain Python is five times
    # faster than numpy on three points.
    plane = landmarks @ (1, 1j)
    source = [
        complex(plane[36:42].sum()) / 6,
        complex(plane[42:48].sum()) / 6,
        complex(plane[48] + plane[54]) / 2,
    ]
    if not all(map(cmath.isfinite, source)):
        raise ValueError("landmarks are not finite")
    target = [complex(x, y) * size - complex(0.5, 0.5) for x, y in CANONICAL]
    middle, target_middle = sum(source) / 3, sum(target) / 3
    spread = sum(abs(z - middle) ** 2 for z in source)
    turn = 1 + 0j
    if spread > 1e-4:  # A spread under a hundredth of a pixel is rounding, not a face.
        turn = (
            sum((s - middle).conjugate() * t for s, t in zip(source, target, strict=True)) / spread
        )
    offset = target_middle - turn * middle
    return np.array([[turn.real, -turn.imag, offset.real], [turn.imag, turn.real, offset.imag]])


def compose(
    after: Float[np.ndarray, "2 3"], before: Float[np.ndarray, "2 3"]
) -> Float[np.ndarray, "2 3"]:
    """One matrix that applies `before`, then `after`."""
    matrix = after[:, :2] @ before
    matrix[:, 2] += after[:, 2]
    return matrix


def mirror(size: int) -> Float[np.ndarray, "2 3"]:
    """The reflection of a crop about its vertical middle. Landmarks also need `FLIP_INDEX`."""
    return np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]])


def sample(
    rng: np.random.Generator, augmentation: Augmentation, size: int
) -> tuple[Float[np.ndarray, "2 3"], bool]:
    """Draws one movement of the crop.

    Always takes the same number of draws, so that turning one part off leaves the others as they
    were.

    Args:
      rng: the example's own generator.
      augmentation: the ranges.
      size: side of the crop in pixels.

    Returns:
      A matrix from crop pixels to crop pixels (rotation and scale about the center, shift, then the
      reflection), and whether it mirrors, in which case landmarks are reordered by `FLIP_INDEX`.
    """
    rotation, scale, shift_x, shift_y = rng.uniform(-1.0, 1.0, 4)
    flip = bool(rng.random() < 0.5) and augmentation.flip
    angle = math.radians(augmentation.rotation) * rotation
    factor = (1.0 + augmentation.scale) ** scale
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    center = (size - 1) / 2
    x = center - cos * center + sin * center + augmentation.shift * size * shift_x
    y = center - sin * center - cos * center + augmentation.shift * size * shift_y
    matrix = np.array([[cos, -sin, x], [sin, cos, y]])
    return (compose(mirror(size), matrix) if flip else matrix), flip


def transform_points(
    points: Float[np.ndarray, "*n 2"], matrix: Float[np.ndarray, "2 3"]
) -> Float[np.ndarray, "*n 2"]:
    """Where the points are in the warped image."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def warp(
    image: UInt8[np.ndarray, "height width 3"], matrix: Float[np.ndarray, "2 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Resamples an image into a square crop.

    Bilinear. Where the crop shrinks the image to less than half, the part under the crop is first
    averaged down by the power of two that leaves less than half to do: a bilinear sample sees two
    pixels a side, and the pixels between would be skipped (aliasing).

    Outside the image the nearest edge pixel continues. Black would draw a hard edge that betrays
    pose and crop and looks like black hair to a network; reflection would grow a second ear or a
    second pair of eyes, which no mask covers. A continued edge invents no feature.

    Args:
      image: RGB.
      matrix: from source pixels to crop pixels; must be invertible.
      size: side of the crop in pixels.
    """
    (a, b, x), (c, d, y) = matrix.tolist()
    determinant = a * d - b * c
    factor = 2 ** max(0, math.floor(-math.log2(abs(determinant)) / 2))
    # The box of source pixels that the crop touches: a large photograph is not averaged as a whole,
    # and OpenCV's limit of 32,767 pixels a side does not bind. The box keeps at least one pixel, so
    # that a crop beside the image is filled with its edge.
    height, width = image.shape[:2]
    left, right = _touched(d, -b, x, y, determinant, size, factor, width)
    top, bottom = _touched(-c, a, x, y, determinant, size, factor, height)
    image = image[top:bottom, left:right]
    step_x = step_y = 1.0
    if factor > 1:
        height, width = image.shape[:2]
        small = (max(1, width // factor), max(1, height // factor))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        step_x, step_y = width / small[0], height / small[1]
    to_source = np.array(
        [[step_x, 0.0, left + (step_x - 1) / 2], [0.0, step_y, top + (step_y - 1) / 2]]
    )
    # OpenCV 5 warps four channels in half the time of three, to the same pixels; adding a fourth
    # and dropping it costs a fifth of what that saves.
    warped = cv2.warpAffine(
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA),
        compose(matrix, to_source),
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)


def _touched(
    across: float,
    down: float,
    x: float,
    y: float,
    determinant: float,
    size: int,
    factor: int,
    length: int,
) -> tuple[int, int]:
    """First and last-plus-one source index, on one axis, under a crop of `size`.

    `across` and `down` over `determinant` are the axis' row of the inverse matrix.
    """
    ends = [
        (across * (u - x) + down * (v - y)) / determinant
        for u in (-0.5, size - 0.5)
        for v in (-0.5, size - 0.5)
    ]
    # Two averaged pixels of margin: more than a bilinear sample reaches.
    first = min(max(math.floor(min(ends)) - 2 * factor, 0), length - 1)
    stop = math.ceil(max(ends)) + 2 * factor
    stop = first + math.ceil((stop - first) / factor) * factor  # whole cells where there is room
    return first, min(max(stop, first + 1), length)


def alter_colors(
    image: UInt8[np.ndarray, "size size 3"], rng: np.random.Generator, augmentation: Augmentation
) -> UInt8[np.ndarray, "size size 3"]:
    """Brightness, contrast and saturation as one color matrix, then the erased rectangle.

    Args:
      image: an RGB crop; painted on in place when a rectangle is erased.
      rng: the example's own generator, after `sample`.
      augmentation: the ranges.

    Returns:
      The altered crop; the same array when nothing is asked for.
    """
    ranges = augmentation.brightness, augmentation.contrast, augmentation.saturation
    if any(ranges):
        light, contrast, saturation = 1.0 + rng.uniform(-1.0, 1.0, 3) * ranges
        gray = np.array([0.299, 0.587, 0.114])
        matrix = np.empty((3, 4))
        matrix[:, :3] = light * contrast * (saturation * np.eye(3) + (1.0 - saturation) * gray)
        matrix[:, 3] = 127.5 * (1.0 - contrast)
        image = cv2.transform(image, matrix)
    if augmentation.erase and rng.random() < augmentation.erase:
        # Zhong et al. 2020, with smaller rectangles (there up to 40 %) and one random color.
        area, shape, u, v = rng.random(4)
        height, width = image.shape[:2]
        area, aspect = (0.02 + 0.18 * area) * height * width, 3.0 ** (2.0 * shape - 1.0)
        tall = min(height, round(math.sqrt(area * aspect)))
        wide = min(width, round(math.sqrt(area / aspect)))
        top, left = round(v * (height - tall)), round(u * (width - wide))
        image[top : top + tall, left : left + wide] = rng.integers(0, 256, 3, np.uint8)
    return image
