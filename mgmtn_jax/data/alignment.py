"""From landmarks to a square crop: alignment, mirror and resize as one affine matrix.

Everything that moves a pixel is one (2, 3) matrix from source pixels to crop pixels. The image goes
through one `warp`, the landmarks through one `transform_points`, so points and pixels cannot drift
apart and no pixel is resampled twice.

Coordinates are pixel indices, x then y: (0, 0) is the *center* of the first pixel, as in OpenCV
and dlib. An image of width W spans [-0.5, W - 0.5], so a fraction f of it is at f * W - 0.5 and a
change of size by s maps x to s * (x + 0.5) - 0.5. Leaving the halves out would shift every crop by
up to half a pixel, differently at each size.
"""

from __future__ import annotations

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


def _anchor_weights() -> Float[np.ndarray, "3 68"]:
    weights = np.zeros((3, 68))
    weights[0, 36:42] = weights[1, 42:48] = 1 / 6
    weights[2, [48, 54]] = 1 / 2
    return weights


# Bytes of an image that is taken whole: cutting out what a crop touches takes longer than giving
# all of it a fourth channel. Larger ones are cut, also because OpenCV warps no side over 32,767.
_SMALL = 1 << 19

# Times the landmarks: the two eye centers and the middle of the mouth corners.
_ANCHORS = _anchor_weights()


def align(landmarks: Float[np.ndarray, "*n 68 2"], size: int) -> Float[np.ndarray, "*n 2 3"]:
    """The similarity (rotation, one scale, translation) that brings a face to the canonical crop.

    Least squares over eye centers and the middle of the mouth corners (Umeyama 1991; in the plane,
    with mirror images ruled out, it is one complex division). Three points and not two because the
    eyes of a profile coincide: then the distance from eyes to mouth alone sets the scale, and the
    face is drawn no larger than that distance asks for.

    Args:
      landmarks: iBUG points in source pixels, of one face or of many.
      size: side of the crop in pixels.

    Returns:
      The matrix from source pixels to crop pixels. Points that all coincide have no scale; they are
      brought to the crop's canonical center unscaled and unrotated.

    Raises:
      ValueError: if a point that is used is not finite.

    Examples:
        The same face twice as large has a matrix of half the scale.

        >>> face = np.random.default_rng(0).uniform(0, 100, (68, 2))
        >>> larger = align(2 * face, 112)
        >>> np.allclose(larger[:, :2], align(face, 112)[:, :2] / 2)
        True
    """
    # Points as complex numbers: a similarity is z -> turn * z + offset.
    source = (_ANCHORS @ landmarks).view(np.complex128)[..., 0]
    if not np.isfinite(source).all():
        raise ValueError("landmarks are not finite")
    target = np.array(CANONICAL).view(np.complex128)[:, 0] * size - (0.5 + 0.5j)
    middle, target_middle = source.sum(-1) / 3, target.sum() / 3
    spokes, target_spokes = source - middle[..., None], target - target_middle
    spread = (np.abs(spokes) ** 2).sum(-1)
    has_size = spread > 1e-4  # A spread under a hundredth of a pixel is rounding, not a face.
    turn = np.where(
        has_size, spokes.conj() @ target_spokes / np.where(has_size, spread, 1.0), 1.0 + 0.0j
    )
    offset = target_middle - turn * middle
    rows = [[turn.real, -turn.imag, offset.real], [turn.imag, turn.real, offset.imag]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def compose(
    after: Float[np.ndarray, "*n 2 3"], before: Float[np.ndarray, "*n 2 3"]
) -> Float[np.ndarray, "*n 2 3"]:
    """One matrix that applies `before`, then `after`."""
    matrix = after[..., :2] @ before
    matrix[..., 2] += after[..., 2]
    return matrix


def mirror(size: int) -> Float[np.ndarray, "2 3"]:
    """The reflection of a crop about its vertical middle. Landmarks also need `FLIP_INDEX`."""
    return np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]])


def transform_points(
    points: Float[np.ndarray, "*n points 2"], matrix: Float[np.ndarray, "*n 2 3"]
) -> Float[np.ndarray, "*n points 2"]:
    """Where the points are in the warped image."""
    return points @ matrix[..., :2].mT + matrix[..., None, :, 2]


def warp(
    image: UInt8[np.ndarray, "height width 3"],
    matrix: Float[np.ndarray, "2 3"],
    size: int,
    out: UInt8[np.ndarray, "size size 3"] | None = None,
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
      out: where the crop is written, a contiguous array; a new one by default.
    """
    (a, b, x), (c, d, y) = matrix.tolist()
    factor = shrink_factor(math.sqrt(abs(a * d - b * c)))
    if factor > 1 or image.size > _SMALL:
        box = touched(matrix, size, factor, image)
        left, top = box[1].start, box[0].start
        image, step_x, step_y = average(image[box], factor)
        # Averaged pixel u is at step_x * u + (step_x - 1) / 2 of the box.
        left, top = left + (step_x - 1) / 2, top + (step_y - 1) / 2
        matrix = np.array(
            [
                [a * step_x, b * step_y, a * left + b * top + x],
                [c * step_x, d * step_y, c * left + d * top + y],
            ]
        )
    # OpenCV 5 warps four channels in half the time of three, to the same pixels; adding a fourth
    # and dropping it costs a fifth of what that saves.
    warped = cv2.warpAffine(
        cv2.cvtColor(image, cv2.COLOR_RGB2RGBA),
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=out)


def shrink_factor(scale: float) -> int:
    """The largest power of two by which an image is averaged down before it is warped to `scale`
    times its size."""
    return 2 ** max(0, math.floor(-math.log2(scale)))


def average(
    image: UInt8[np.ndarray, "height width 3"], factor: int
) -> tuple[UInt8[np.ndarray, "rows columns 3"], int, int]:
    """The mean of every whole cell of `factor` times `factor` pixels.

    Returns:
      The smaller image, and the width and the height of a cell: `factor`, or less where the image
      itself is smaller.
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

    Both begin at a multiple of `factor` pixels from the image's first, whatever the crop, so that
    averaged cells lie where they lie in every other crop of the image. There is at least one pixel:
    a crop beside the image is filled with its edge.

    Args:
      matrix: from source pixels to crop pixels.
      size: side of the crop in pixels.
      factor: side of an averaged cell.
      image: the image.
      reach: how far from its center the crop reaches on either axis, in sides.
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
    # Two averaged pixels of margin: more than a bilinear sample reaches.
    first = min(max(math.floor(middle - half) - 2 * factor, 0), length - 1) // factor * factor
    stop = -(-(math.ceil(middle + half) + 2 * factor) // factor) * factor
    return slice(first, min(max(stop, first + factor), length))
