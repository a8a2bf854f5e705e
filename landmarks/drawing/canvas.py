"""A canvas for anti-aliased, blurred, clipped shapes given in face coordinates.

Face coordinates are pixels of the 178x218 picture with the origin midway between the eyes, x to the
right and y down, before the head is turned, tilted, scaled and shifted. Blending uses integers, so
that a face has the same bytes on every machine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

WIDTH, HEIGHT = 178, 218
SUPERSAMPLING = 2
_FRACTION_BITS = 4  # OpenCV takes polygon corners as fixed-point numbers.

Color = tuple[int, int, int]
Points = Float[np.ndarray, "N 2"]
Mask = UInt8[np.ndarray, "H W"]


@dataclasses.dataclass(frozen=True)
class Pose:
    """Position and orientation of the head in the picture.

    Attributes:
      x, y: The point midway between the eyes, in picture pixels.
      scale: Size of the face; at 1 the eyes are 38 pixels apart.
      roll: Tilt in the picture plane in radians, positive clockwise.
      yaw, pitch: Shift, sideways and down, of the most prominent part of the face relative to its
        outline, in pixels: a cheap approximation of turning the head in depth.
    """

    x: float
    y: float
    scale: float
    roll: float
    yaw: float
    pitch: float

    def project(self, points: Points, depth: float) -> Points:
        """Maps face coordinates to picture pixels.

        `depth` is 0 in the plane of the face's outline, 1 on the surface of the face, and larger on
        the nose.
        """
        x, y = points[:, 0], points[:, 1]
        if depth:
            dome = np.sqrt(np.clip(1 - (x / 44) ** 2 - ((y - 5) / 75) ** 2, 0, 1)) * depth
            x, y = x + self.yaw * dome, y + self.pitch * dome
        cos, sin = math.cos(self.roll) * self.scale, math.sin(self.roll) * self.scale
        return np.stack([self.x + cos * x - sin * y, self.y + sin * x + cos * y], axis=1)


class Canvas:
    """A picture at `SUPERSAMPLING` times its final size, painted in face coordinates.

    Attributes:
      planes: The red, green and blue channel. Separate, because OpenCV blends one channel ten times
        as fast as NumPy blends three.
      pose: Maps face coordinates to the picture; may be replaced between strokes.
    """

    def __init__(self, picture: UInt8[np.ndarray, "H W 3"], pose: Pose):
        self.planes: list[Mask] = list(cv2.split(picture))
        self.pose = pose

    @property
    def picture(self) -> UInt8[np.ndarray, "H W 3"]:
        """The picture so far, RGB."""
        return cv2.merge(self.planes)

    def fill(
        self,
        points: Points,
        color: Color,
        *,
        alpha: float = 1.0,
        blur: float = 0.0,
        depth: float = 1.0,
        clip: Mask | None = None,
    ) -> None:
        """Fills a polygon. `blur` is the standard deviation of its soft edge, in face pixels."""
        self._paint([points], None, color, alpha, blur, depth, clip)

    def lines(
        self,
        polylines: Sequence[Points],
        width: float,
        color: Color,
        *,
        alpha: float = 1.0,
        blur: float = 0.0,
        depth: float = 1.0,
        clip: Mask | None = None,
    ) -> None:
        """Draws open polylines of one width (face pixels) and color as one layer."""
        self._paint(polylines, width, color, alpha, blur, depth, clip)

    def mask(self, points: Points, depth: float = 1.0) -> Mask:
        """The inside of a polygon as a mask (0 to 255) of the whole canvas, for `clip`."""
        mask = np.zeros(self.planes[0].shape, np.uint8)
        cv2.fillPoly(mask, [self._fixed(points, depth)], 255, cv2.LINE_AA, _FRACTION_BITS)
        return mask

    def blend(self, mask: Mask, color: Color, alpha: float) -> None:
        """Blends `color` into the canvas with a mask of its size."""
        x, y, w, h = cv2.boundingRect(mask)
        self._blend(mask[y : y + h, x : x + w], x, y, color, alpha)

    def _fixed(self, points: Points, depth: float) -> np.ndarray:
        scale = SUPERSAMPLING * (1 << _FRACTION_BITS)
        return np.round(self.pose.project(points, depth) * scale).astype(np.int32)

    def _paint(
        self,
        polylines: Sequence[Points],
        width: float | None,
        color: Color,
        alpha: float,
        blur: float,
        depth: float,
        clip: Mask | None,
    ) -> None:
        fixed = self._fixed(np.concatenate(polylines), depth)
        scale = SUPERSAMPLING * self.pose.scale
        margin = math.ceil((3 * blur + (width or 0)) * scale) + 2
        corners = fixed >> _FRACTION_BITS
        height, full = self.planes[0].shape
        left, top = np.maximum(corners.min(0) - margin, 0)
        right, bottom = np.minimum(corners.max(0) + margin + 1, (full, height))
        if left >= right or top >= bottom:
            return
        # A wide blur needs no sharp mask: it is computed at low resolution and enlarged.
        shrink = 4 if blur * scale >= 4 else 2 if blur * scale >= 2.5 else 1
        width_px, height_px = int(right - left), int(bottom - top)
        mask: Any = np.zeros((-(-height_px // shrink), -(-width_px // shrink)), np.uint8)
        origin = np.array([left, top], np.int32) << _FRACTION_BITS
        ends = np.cumsum([len(line) for line in polylines])[:-1]
        moved = np.split((fixed - origin) // shrink, ends)
        if width is None:
            cv2.fillPoly(mask, moved, 255, cv2.LINE_AA, _FRACTION_BITS)
        else:
            thickness = max(1, round(width * scale / shrink))
            cv2.polylines(mask, moved, False, 255, thickness, cv2.LINE_AA, _FRACTION_BITS)
        if blur:
            mask = cv2.GaussianBlur(mask, (0, 0), blur * scale / shrink)
        if shrink > 1:
            size = (mask.shape[1] * shrink, mask.shape[0] * shrink)
            mask = cv2.resize(mask, size)[:height_px, :width_px]
        if clip is not None:
            mask = cv2.multiply(mask, clip[top:bottom, left:right], scale=1 / 255)
        self._blend(mask, left, top, color, alpha)

    def _blend(self, mask: Mask, left: int, top: int, color: Color, alpha: float) -> None:
        # Two look-ups and one product per channel. The result does not depend on the rounding mode:
        # no product of two integers divided by 255 lies half-way between two integers.
        weight = np.rint(np.arange(256) * alpha)
        keep = cv2.LUT(mask, (255 - weight).astype(np.uint8))
        for plane, value in zip(self.planes, color, strict=True):
            region = plane[top : top + mask.shape[0], left : left + mask.shape[1]]
            paint = cv2.LUT(mask, np.rint(weight * value / 255).astype(np.uint8))
            cv2.add(cv2.multiply(region, keep, scale=1 / 255), paint, dst=region)


def spline(points: Sequence[tuple[float, float]], closed: bool = False, samples: int = 6) -> Points:
    """A Catmull-Rom spline through the points."""
    p = np.asarray(points, np.float64)
    if closed:
        p = np.concatenate([p[-1:], p, p[:2]])
    else:
        p = np.concatenate([p[:1], p, p[-1:]])
    t = np.arange(samples)[None, :, None] / samples
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    corners = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    corners = corners.reshape(-1, 2)
    return corners if closed else np.concatenate([corners, p[-2:-1]])


def ellipse(
    x: float, y: float, rx: float, ry: float, *, tilt: float = 0.0, corners: int = 24
) -> Points:
    """An ellipse as a polygon; `tilt` in radians, positive clockwise."""
    angle = np.arange(corners) * (2 * math.pi / corners)
    dx, dy = rx * np.cos(angle), ry * np.sin(angle)
    cos, sin = math.cos(tilt), math.sin(tilt)
    return np.stack([x + cos * dx - sin * dy, y + sin * dx + cos * dy], axis=1)


def symmetric(half: Sequence[tuple[float, float]], closed: bool = True, samples: int = 6) -> Points:
    """A spline through the corners of one side of the face, then through their mirror images in
    reverse order. Corners on the middle line, x = 0, are not repeated."""
    return spline([*half, *((-x, y) for x, y in reversed(half) if x)], closed, samples)


def mirror(points: Points) -> Points:
    """The mirror image of a shape, on the other side of the face."""
    return points * np.array([-1.0, 1.0])


def mix(a: Color, b: Color, amount: float) -> Color:
    """Interpolates from `a` at 0 to `b` at 1; extrapolates beyond 1."""
    red, green, blue = (
        min(255, max(0, round(u + (v - u) * amount))) for u, v in zip(a, b, strict=True)
    )
    return red, green, blue


def darker(color: Color, factor: float) -> Color:
    """The color with its brightness multiplied by `factor`."""
    return mix(color, (0, 0, 0), 1 - factor)
