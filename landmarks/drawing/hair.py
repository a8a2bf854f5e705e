"""Hair and beards: hair in four labelled colors or others, long or short.

Lengths are face coordinates (see `drawing.canvas`).
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from landmarks.drawing.canvas import (
    Canvas,
    Color,
    Mask,
    Points,
    darker,
    ellipse,
    mirror,
    mix,
    spline,
    symmetric,
)
from landmarks.drawing.features import MOUTH_Y, NOSE_Y
from landmarks.drawing.head import FaceShape


def is_long(face: FaceShape) -> bool:
    return face.style.hair_length < face.pick("Male", 0.08, 0.82)


def _scallop(points: Points, size: float, period: int) -> Points:
    """Pushes a contour in and out to make curls."""
    step = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    length = np.sqrt((step**2).sum(1, keepdims=True)) + 1e-9
    normal = np.stack([step[:, 1], -step[:, 0]], axis=1) / length
    depth = size * np.abs(np.sin(np.arange(len(points)) * math.pi / period))
    return points + normal * depth[:, None]


def _strands(face: FaceShape, canvas: Canvas, count: int, clip: Mask, bottom: float) -> None:
    """Paints light and dark strands of wavy or straight hair; nothing for hair that is neither."""
    wavy = "Wavy_Hair" in face.yes
    if not wavy and "Straight_Hair" not in face.yes:
        return
    t = np.linspace(0, 1, 28)[:, None]
    reach = face.width + 12
    start = np.linspace(-1, 1, count) + face.texture.uniform(-0.03, 0.03, count)
    phase = face.texture.uniform(0, 2 * math.pi, count)
    strands = []
    for s, p in zip(start, phase, strict=True):
        # From the parting over the side of the skull and down.
        x = reach * np.sign(s) * np.abs(s) ** 0.6 * np.minimum(1, 0.25 + 2.2 * t) ** 0.8
        y = -84 + 20 * s * s + (bottom + 84) * t
        if wavy:
            x = x + 3.4 * np.sin(t * (bottom + 84) / 4.6 + p)
        strands.append(np.concatenate([x, y], axis=1))
    light = mix(face.hair, (255, 250, 240), 0.32)
    width = 1.5 if wavy else 0.9
    canvas.lines(strands[::2], width, light, alpha=0.75, depth=0, clip=clip)
    canvas.lines(strands[1::2], width, darker(face.hair, 0.55), alpha=0.8, depth=0, clip=clip)


def _crown(face: FaceShape) -> Points:
    """The outer contour of the hair on the skull, from the right temple to the left one."""
    volume = 3.0 + 5.0 * face.style.hair_volume
    volume += face.pick("Wavy_Hair", 2.5, 0) - face.pick("Straight_Hair", 1.5, 0)
    w, top = face.width + 0.75 * volume, -66 - 1.1 * volume
    half = [(w, 4), (w + 0.5, -22), (0.84 * w, -52), (0.45 * w, top + 3), (0, top)]
    crown = symmetric(half, closed=False, samples=8)
    return _scallop(crown, -4.5, 6) if "Wavy_Hair" in face.yes else crown


def paint_back_hair(canvas: Canvas, face: FaceShape) -> None:
    """Paints the part of long hair that is behind the neck."""
    if "Bald" in face.yes or not is_long(face):
        return
    bottom = 62 + 30 * face.style.hair_volume
    w = face.width + 9 + 4 * face.style.hair_volume
    shape = symmetric(
        [(0, -72), (0.7 * w, -58), (w, -20), (w + 1, 20), (w + 3, bottom - 12), (w - 6, bottom + 2),
         (0, bottom)], samples=8,
    )  # fmt: skip
    if "Wavy_Hair" in face.yes:
        shape = _scallop(shape, 4.0, 6)
    canvas.fill(shape, darker(face.hair, 0.62), depth=0)
    _strands(face, canvas, 26, canvas.mask(shape, depth=0), bottom)


def paint_front_hair(canvas: Canvas, face: FaceShape, inside: Mask) -> None:
    """Paints hair on the skull and the forehead: hairline, bangs, locks beside the face."""
    if "Bald" in face.yes:
        shine = mix(face.skin, (255, 255, 255), 0.75)
        canvas.fill(ellipse(-8, -48, 10, 5, tilt=-0.3), shine, alpha=0.85, blur=2.0)
        return
    w = face.width
    part = 0.45 * w * (face.style.parting - 0.5)
    if "Receding_Hairline" in face.yes:
        # Bare temples around a tuft in the middle.
        hairline = symmetric([(0.99 * w, 4), (0.96 * w, -24), (0.80 * w, -50), (0.5 * w, -60),
                              (0.2 * w, -53)], closed=False)  # fmt: skip
    else:
        hairline = symmetric([(0.97 * w, 4), (0.9 * w, -20), (0.74 * w, -35), (0.3 * w, -42),
                              (0, -46)], closed=False)  # fmt: skip
        hairline[:, 0] += part * np.clip((-20 - hairline[:, 1]) / 20, 0, 1)
    cap = np.concatenate([_crown(face), hairline[::-1]])
    shadow = darker(face.skin, 0.4)
    canvas.lines([hairline], 4, shadow, alpha=0.5, blur=1.8, depth=0, clip=inside)
    canvas.fill(cap, face.hair, depth=0)
    mask = canvas.mask(cap, depth=0)
    gloss = spline([(-0.6 * w, -50), (-0.2 * w, -61), (0.3 * w, -60)])
    shine = mix(face.hair, (255, 255, 255), 0.3)
    canvas.lines([gloss], 5, shine, alpha=0.6, blur=2.5, depth=0, clip=mask)
    _strands(face, canvas, 40, mask, 20.0)
    if is_long(face):
        _locks(canvas, face)
    if "Bangs" in face.yes:
        _bangs(canvas, face, inside)


def _bangs(canvas: Canvas, face: FaceShape, inside: Mask) -> None:
    """Paints hair combed over the forehead, with ragged ends above the brows."""
    w = face.width
    places = np.linspace(0.86, -0.86, 9)
    ends = -19.5 + face.texture.uniform(-2.5, 2.5, 9) + 4 * np.abs(places)
    low = np.stack([places * w, ends], axis=1)
    top = symmetric([(-0.9 * w, -22), (-0.6 * w, -52), (0, -60)], closed=False)
    bangs = np.concatenate([top, low])
    below, shadow = bangs + np.array([0.0, 2.0]), darker(face.skin, 0.4)
    canvas.fill(below, shadow, alpha=0.5, blur=1.5, depth=0.5, clip=inside)
    canvas.fill(bangs, mix(face.hair, (255, 255, 255), 0.05), depth=0.5)
    strands = [np.array([(0.35 * x, -60 + abs(x) * 0.15), (x, y)]) for x, y in low]
    canvas.lines(strands, 0.9, darker(face.hair, 0.55), alpha=0.7, depth=0.5)


def _locks(canvas: Canvas, face: FaceShape) -> None:
    """Paints long hair in front of the ears."""
    w, bottom = face.width, 50 + 34 * face.style.hair_volume
    right = spline(
        [(0.86 * w, -34), (w + 7, -24), (w + 11, 8), (w + 12, bottom - 8), (w + 3, bottom),
         (w - 3, bottom - 14), (w + 0.5, 14), (w - 2, -8)], closed=True, samples=8,
    )  # fmt: skip
    if "Wavy_Hair" in face.yes:
        right = _scallop(right, 3.5, 6)
    for lock in (right, mirror(right)):
        canvas.fill(lock, darker(face.hair, 0.88), depth=0)
        mask = canvas.mask(lock, depth=0)
        _strands(face, canvas, 40, mask, bottom)


def paint_beard(canvas: Canvas, face: FaceShape, inside: Mask) -> None:
    """Paints stubble, goatee, full beard, mustache and sideburns."""
    w, chin = face.width, face.chin
    color = darker(face.hair, 0.75)
    jaw = symmetric([(w, 4), (w + 1, 20), (0.95 * w, 0.65 * chin), (0.6 * w, chin), (0, chin + 3)],
                    closed=False)  # fmt: skip
    rim = symmetric([(-0.92 * w, 8), (-0.8 * w, 24), (-21, 36), (-16, MOUTH_Y + 9),
                     (0, MOUTH_Y + 11.5)], closed=False)  # fmt: skip
    region = np.concatenate([jaw, rim])
    upper_lip = symmetric([(8, NOSE_Y + 5.5), (17, MOUTH_Y - 2), (8, MOUTH_Y - 5)])
    if "5_o_Clock_Shadow" in face.yes:
        tint = mix(mix(face.skin, (46, 50, 66), 0.62), color, 0.15)
        for shape in (region, upper_lip):
            canvas.fill(shape, tint, alpha=0.75, blur=2.0, clip=inside)
        _hairs(canvas, face, region, inside, 260, 0.8, darker(tint, 0.5))
    elif "Goatee" in face.yes:
        goatee = symmetric([(4, MOUTH_Y + 8), (11, MOUTH_Y + 9), (13, chin - 6), (7, chin + 3),
                            (0, chin + 5)])  # fmt: skip
        canvas.fill(goatee, color, blur=0.7)
        _hairs(canvas, face, goatee, inside, 60, 3.0, darker(color, 0.6))
    elif "No_Beard" not in face.yes:
        canvas.fill(region, color, blur=1.0)
        _hairs(canvas, face, region, inside, 160, 3.5, darker(color, 0.6))
        _hairs(canvas, face, region, inside, 80, 3.5, mix(color, (255, 255, 255), 0.25))
    if "Mustache" in face.yes:
        mustache = symmetric([
            (0, NOSE_Y + 6.5), (8, NOSE_Y + 6.8), (16, MOUTH_Y - 4), (20, MOUTH_Y + 2.5),
            (12, MOUTH_Y - 1.2), (0, MOUTH_Y - 2),
        ])  # fmt: skip
        canvas.fill(mustache, darker(color, 0.9), blur=0.5)
    if "Sideburns" in face.yes:
        burn = spline(
            [(w - 1, -18), (w - 9, -14), (w - 10, 10), (w - 8, 24), (w - 2, 26), (w + 0.5, 10)],
            True,
        )
        for shape in (burn, mirror(burn)):
            canvas.fill(shape, darker(face.hair, 0.85), blur=0.6, depth=0)


def _hairs(
    canvas: Canvas,
    face: FaceShape,
    region: Points,
    inside: Mask,
    count: int,
    length: float,
    color: Color,
) -> None:
    """Paints short hairs in a region."""
    low, high = region.min(0), region.max(0)
    roots = face.texture.uniform(low, high, (count, 2))
    lean = face.texture.uniform(-0.5, 0.5, count)
    tips = roots + length * np.stack([lean + 0.02 * roots[:, 0], np.ones(count)], axis=1)
    clip = cv2.min(canvas.mask(region), inside)
    canvas.lines(list(np.stack([roots, tips], axis=1)), 0.6, color, alpha=0.8, clip=clip)
