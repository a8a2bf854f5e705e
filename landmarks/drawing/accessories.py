"""Accessories of a face: hats, glasses, earrings, necklaces, ties.

Lengths are face coordinates (see `drawing.canvas`).
"""

from __future__ import annotations

import numpy as np

from landmarks.drawing.canvas import Canvas, Color, darker, ellipse, mirror, mix, spline, symmetric
from landmarks.drawing.features import EYE_X
from landmarks.drawing.head import FaceShape

_CLOTH: tuple[Color, ...] = (
    (178, 30, 40), (28, 60, 120), (30, 110, 70), (230, 190, 60), (90, 40, 110),
    (40, 40, 46), (225, 225, 228), (200, 100, 50),
)  # fmt: skip
_METAL: tuple[Color, ...] = ((236, 196, 80), (222, 226, 232), (240, 236, 226))


def paint_hat(canvas: Canvas, face: FaceShape) -> None:
    """A beanie, a cap with a visor or a hat with a brim, over the crown."""
    if "Wearing_Hat" not in face.yes:
        return
    style, w = face.style, face.width + 6
    color = _CLOTH[int(style.hat_color * len(_CLOTH))]
    dark = darker(color, 0.6)
    kind = int(style.hat * 3)
    top = -84.0
    dome = symmetric(
        [(0.3 * w, top + 1), (0.75 * w, -70), (w + 0.5, -44), (w, -28), (0.5 * w, -31)]
    )
    shade = symmetric([(0, -30), (0.9 * w, -30), (0.7 * w, -22), (0, -19)])
    canvas.fill(shade, darker(face.skin, 0.35), alpha=0.5, blur=2.5, depth=0.4)
    canvas.fill(dome, color, depth=0)
    mask = canvas.mask(dome, depth=0)
    far_side = np.array([(0.35 * w, -90), (w + 9, -90), (w + 9, -20), (0.5 * w, -20)])
    canvas.fill(far_side, dark, alpha=0.5, blur=8, depth=0, clip=mask)
    if kind == 0:
        ribs = [np.array([(x * w, -30), (x * 0.55 * w, top)]) for x in np.linspace(-1, 1, 13)]
        canvas.lines(ribs, 1.2, dark, alpha=0.5, depth=0, clip=mask)
        cuff = symmetric([(0, -47), (w + 1.5, -42), (w + 1.5, -26), (0, -31)])
        canvas.fill(cuff, darker(color, 0.82), depth=0)
    elif kind == 1:
        seams = [
            spline([(0, -88), (x * w * 0.7, -62), (x * w * 0.8, -32)]) for x in (-1, -0.3, 0.3, 1)
        ]
        canvas.lines(seams, 0.9, dark, alpha=0.7, depth=0, clip=mask)
        visor = symmetric([(0, -40), (0.86 * w, -30), (0.7 * w, -23), (0, -26)])
        seam = symmetric([(0.86 * w, -30), (0, -39)], closed=False)
        canvas.fill(visor, darker(color, 0.75), depth=0.5)
        canvas.lines([seam], 1.2, darker(color, 0.45), depth=0.5)
    else:
        brim = ellipse(0, -35, w + 15, 7.5)
        canvas.fill(brim, darker(color, 0.85), depth=0)
        band = spline([(-w, -40), (0, -44), (w, -40), (w, -48), (0, -53), (-w, -48)], True)
        canvas.fill(band, darker(color, 0.4), depth=0, clip=mask)


def paint_glasses(canvas: Canvas, face: FaceShape) -> None:
    if "Eyeglasses" not in face.yes:
        return
    style = face.style
    color: Color = ((18, 16, 18), (70, 36, 20), (150, 30, 40), (30, 50, 110))[
        int(style.glasses_color * 4)
    ]
    rx, ry = 14.0 + style.glasses, 10.0 + 2.0 * style.glasses
    power = 1.0 if style.glasses > 0.5 else 0.55  # Round or rectangular rims.
    circle = ellipse(0, 0, 1, 1, corners=40)
    rim = np.sign(circle) * np.abs(circle) ** power * np.array([rx, ry])
    rims = [
        np.concatenate([rim, rim[:1]]) + np.array([side * (EYE_X + 0.6), 1.0]) for side in (1, -1)
    ]
    for lens in rims:
        canvas.fill(lens, (225, 235, 245), alpha=0.12)
    bridge = spline([(-6, -2), (0, -4), (6, -2)])
    temples = [np.array([(EYE_X + rx, -3), (face.width + 2, -4)])]
    width = 1.6 + 0.9 * style.glasses_color
    canvas.lines([*rims, bridge, *temples, *map(mirror, temples)], width, color, depth=1.0)
    glint = np.array([(EYE_X - 7, -6), (EYE_X - 3, -6), (EYE_X - 9, 6), (EYE_X - 11, 3)])
    for shape in (glint, glint - np.array([2 * EYE_X, 0])):
        canvas.fill(shape, (255, 255, 255), alpha=0.3, blur=0.5)


def paint_earrings(canvas: Canvas, face: FaceShape) -> None:
    if "Wearing_Earrings" not in face.yes:
        return
    color = _METAL[int(face.style.earring * 3)]
    for side in (1, -1):
        x = side * (face.width + 3.5)
        canvas.fill(ellipse(x, 21, 2.6, 2.6), color, depth=0)
        if face.style.earring * 7 % 1 < 0.5:
            hoop = ellipse(x, 30, 6.0, 8.0)
            canvas.lines([np.concatenate([hoop, hoop[:1]])], 2.4, darker(color, 0.5), depth=0)
            canvas.lines([np.concatenate([hoop, hoop[:1]])], 1.5, color, depth=0)
        else:
            drop = spline([(x, 22), (x + 5, 34), (x, 40), (x - 5, 34)], True)
            canvas.fill(drop, darker(color, 0.5), depth=0)
            canvas.fill((drop - (x, 32)) * 0.72 + (x, 32.5), color, depth=0)


def paint_neckwear(canvas: Canvas, face: FaceShape) -> None:
    """Collar and tie, or necklace, over the clothes: high enough for crops that end at the neck."""
    style = face.style
    if "Wearing_Necktie" in face.yes:
        white: Color = (238, 240, 244)
        color = _CLOTH[int(style.tie_color * 5)]
        canvas.fill(symmetric([(17, 77), (20, 125)]), white, depth=0)
        tie = np.array([(-7, 76), (7, 76), (4.5, 87), (12, 128), (-12, 128), (-4.5, 87)])
        canvas.fill(tie, color, depth=0)
        inside = canvas.mask(tie, depth=0)
        stripes = [np.array([(-14, y), (14, y - 14)]) for y in range(85, 146, 7)]
        canvas.lines(stripes, 2, mix(color, (255, 255, 255), 0.6), depth=0, clip=inside)
        collar = np.array([(-26, 64), (-20, 68), (-3, 78), (-15, 90), (-30, 77), (-26, 64)])
        for shape in (collar, mirror(collar)):
            canvas.fill(shape, white, depth=0)
            canvas.lines([shape], 0.8, (130, 134, 142), depth=0)
    if "Wearing_Necklace" in face.yes:
        color = _METAL[int(style.necklace * 3)]
        chain = symmetric([(25, 68), (17, 79), (0, 86)], closed=False, samples=9)
        shadow = chain + np.array([0.0, 1.2])
        canvas.lines([shadow], 2, darker(face.skin, 0.4), alpha=0.6, blur=0.8, depth=0)
        for x, y in chain[::2]:
            canvas.fill(ellipse(x, y, 2.0, 2.0, corners=10), color, depth=0)
        canvas.fill(ellipse(0, 90, 3.6, 4.6), darker(color, 0.6), depth=0)
        canvas.fill(ellipse(0, 90, 2.5, 3.4), mix(color, (255, 255, 255), 0.3), depth=0)
