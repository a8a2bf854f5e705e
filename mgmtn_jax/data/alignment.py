"""Alignment of a face to a square crop: rotation, mirroring and resizing as one affine matrix.

All movements compose to one (2, 3) matrix from source pixels to crop pixels. `warp` applies it to
the image and `transform_points` to the landmarks, so that both stay together and no pixel is
resampled twice.

Coordinates are pixel indices, x then y: (0, 0) is the *center* of the first pixel, as in OpenCV
and dlib. An image of width W spans [-0.5, W - 0.5], so the fraction f of it lies at f * W - 0.5,
and resizing by s maps x to s * (x + 0.5) - 0.5. Without the halves, every crop would be shifted by
up to half a pixel, by an amount that depends on its size.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

EYE_HEIGHT = 0.42
EYE_DISTANCE = 0.25
MOUTH_HEIGHT = 0.695
"""Canonical position of eyes and mouth, as fractions of the crop's side (ours).

On detected faces of CelebA and LFW, the mouth corners lie 1.1 eye distances below the eyes (median;
hence 0.42 + 1.1 * 0.25). The side is 4 eye distances: 1.7 above the eyes for the hair, 1.2 beside
each eye for ears and long hair, and 1.2 below the mouth for chin and neck.
"""

CANONICAL: tuple[tuple[float, float], ...] = (
    (0.5 - EYE_DISTANCE / 2, EYE_HEIGHT),
    (0.5 + EYE_DISTANCE / 2, EYE_HEIGHT),
    (0.5, MOUTH_HEIGHT),
)
"""Canonical x, y of the left eye and the right eye (in the image) and of the mouth; fractions."""


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


def _anchor_weights() -> Float[np.ndarray, "3 68"]:
    weights = np.zeros((3, 68))
    weights[0, 36:42] = weights[1, 42:48] = 1 / 6
    weights[2, [48, 54]] = 1 / 2
    return weights


# Images up to this many bytes are warped whole: cropping them to the touched part takes longer than
# adding a fourth channel to all of it. Larger ones are cropped, which also keeps their sides under
# OpenCV's limit of 32,767.
_SMALL = 1 << 19

# Multiplied by the landmarks, gives the two eye centers and the midpoint of the mouth corners.
_ANCHORS = _anchor_weights()


def align(landmarks: Float[np.ndarray, "*n 68 2"], size: int) -> Float[np.ndarray, "*n 2 3"]:
    """The similarity (rotation, uniform scale, translation) from a face to the canonical crop.

    A least-squares fit of the eye centers and the midpoint of the mouth corners (Umeyama 1991; in
    the plane and without reflections, it is one complex division). The mouth is included because
    the eyes coincide in profile, where the distance from eyes to mouth alone determines the scale.

    Args:
      landmarks: iBUG points of one or more faces, in source pixels.
      size: Side of the crop in pixels.

    Returns:
      The matrix from source pixels to crop pixels. If all points coincide, they have no scale and
      are translated to the canonical center without scaling or rotation.

    Raises:
      ValueError: A point that the fit uses is not finite.

    Examples:
        A face of twice the size has a matrix of half the scale.

        >>> face = np.random.default_rng(0).uniform(0, 100, (68, 2))
        >>> larger = align(2 * face, 112)
        >>> np.allclose(larger[:, :2], align(face, 112)[:, :2] / 2)
        True
    """
    # With points as complex numbers, a similarity is z -> turn * z + offset.
    source = (_ANCHORS @ landmarks).view(np.complex128)[..., 0]
    if not np.isfinite(source).all():
        raise ValueError("landmarks are not finite")
    target = np.array(CANONICAL).view(np.complex128)[:, 0] * size - (0.5 + 0.5j)
    middle, target_middle = source.sum(-1) / 3, target.sum() / 3
    spokes, target_spokes = source - middle[..., None], target - target_middle
    spread = (np.abs(spokes) ** 2).sum(-1)
    has_size = spread > 1e-4  # A spread below a hundredth of a pixel is rounding error.
    turn = np.where(
        has_size, spokes.conj() @ target_spokes / np.where(has_size, spread, 1.0), 1.0 + 0.0j
    )
    offset = target_middle - turn * middle
    rows = [[turn.real, -turn.imag, offset.real], [turn.imag, turn.real, offset.imag]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def compose(
    after: Float[np.ndarray, "*n 2 3"], before: Float[np.ndarray, "*n 2 3"]
) -> Float[np.ndarray, "*n 2 3"]:
    """The matrix that applies `before`, then `after`."""
    matrix = after[..., :2] @ before
    matrix[..., 2] += after[..., 2]
    return matrix


def mirror(size: int) -> Float[np.ndarray, "2 3"]:
    """The horizontal flip of a crop. Flipped landmarks must also be reordered by `FLIP_INDEX`."""
    return np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]])


def transform_points(
    points: Float[np.ndarray, "*n points 2"], matrix: Float[np.ndarray, "*n 2 3"]
) -> Float[np.ndarray, "*n points 2"]:
    """Maps points of the source image to the warped image."""
    return points @ matrix[..., :2].mT + matrix[..., None, :, 2]


def warp(
    image: UInt8[np.ndarray, "height width 3"],
    matrix: Float[np.ndarray, "2 3"],
    size: int,
    out: UInt8[np.ndarray, "size size 3"] | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """Resamples an image into a square crop.

    Sampling is bilinear. A bilinear sample sees two pixels a side, so a crop that shrinks the image
    to less than half would skip pixels (aliasing). The image is then first averaged down by a power
    of two that leaves a factor of less than two to the warp.

    Outside the image, the nearest edge pixel is repeated. Black would add a hard edge that gives
    away pose and crop, and that resembles black hair; reflection would add a second ear or pair of
    eyes outside all masks.

    Args:
      image: The RGB image.
      matrix: Matrix from source pixels to crop pixels; must be invertible.
      size: Side of the crop in pixels.
      out: Contiguous array for the crop; None allocates one.
    """
    (a, b, x), (c, d, y) = matrix.tolist()
    factor = shrink_factor(math.sqrt(abs(a * d - b * c)))
    if factor > 1 or image.size > _SMALL:
        box = touched(matrix, size, factor, image)
        left, top = box[1].start, box[0].start
        image, step_x, step_y = average(image[box], factor)
        # Averaged pixel u lies at step_x * u + (step_x - 1) / 2 in the box.
        left, top = left + (step_x - 1) / 2, top + (step_y - 1) / 2
        matrix = np.array(
            [
                [a * step_x, b * step_y, a * left + b * top + x],
                [c * step_x, d * step_y, c * left + d * top + y],
            ]
        )
    # OpenCV 5 warps four channels in half the time of three, with equal pixels. Adding and removing
    # the fourth costs a fifth of the time saved.
    warped = cv2.warpAffine(
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA),
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=out)


def shrink_factor(scale: float) -> int:
    """The power of two by which an image is averaged down before a warp that resizes by `scale`."""
    return 2 ** max(0, math.floor(-math.log2(scale)))


def average(
    image: UInt8[np.ndarray, "height width 3"], factor: int
) -> tuple[UInt8[np.ndarray, "rows columns 3"], int, int]:
    """Averages an image over cells of `factor` times `factor` pixels. Incomplete cells are dropped.

    Returns:
      The smaller image, and the width and height of a cell: `factor`, or the image's side if that
      is smaller.
    """
    if factor == 1:
        return image, 1, 1
    height, width = image.shape[:2]
    wide, tall = min(factor, width), min(factor, height)
    columns, rows = width // wide, height // tall
    whole = image[: rows * tall, : columns * wide]
    return cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA), wide, tall


def touched(
    matrix: Float[np.ndarray, "2 3"],
    size: int,
    factor: int,
    image: UInt8[np.ndarray, "height width 3"],
    reach: float = 0.5,
) -> tuple[slice, slice]:
    """The rows and columns of an image that a crop can touch.

    Both slices start at a multiple of `factor`, so that all crops of an image share the same grid
    of averaged cells. They hold at least one pixel: a crop beside the image repeats its edge.

    Args:
      matrix: Matrix from source pixels to crop pixels.
      size: Side of the crop in pixels.
      factor: Side of an averaged cell in pixels.
      image: The image.
      reach: Distance from the crop's center that the crop reaches on either axis, in sides.
    """
    (a, b, x), (c, d, y) = matrix.tolist()
    determinant = a * d - b * c
    x, y = (size - 1) / 2 - x, (size - 1) / 2 - y
    half = reach * size / abs(determinant)
    height, width = image.shape[:2]
    return (
        _cells((a * y - c * x) / determinant, half * (abs(a) + abs(c)), factor, height),
        _cells((d * x - b * y) / determinant, half * (abs(b) + abs(d)), factor, width),
    )


def _cells(middle: float, half: float, factor: int, length: int) -> slice:
    # The margin of two averaged pixels is larger than the reach of a bilinear sample.
    first = min(max(math.floor(middle - half) - 2 * factor, 0), length - 1) // factor * factor
    stop = -(-(math.ceil(middle + half) + 2 * factor) // factor) * factor
    return slice(first, min(max(stop, first + factor), length))
