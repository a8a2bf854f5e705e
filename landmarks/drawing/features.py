"""The features of a face: eyes, brows, nose and mouth, with make-up.

Lengths are face coordinates (see `drawing.canvas`).
"""

from __future__ import annotations

import numpy as np

from landmarks.drawing.canvas import (
    Canvas,
    Color,
    Points,
    darker,
    ellipse,
    mirror,
    mix,
    spline,
    symmetric,
)
from landmarks.drawing.head import FaceShape

_IRIS: tuple[Color, ...] = (
    (62, 38, 22),
    (94, 60, 30),
    (88, 104, 58),
    (70, 112, 160),
    (92, 100, 108),
)
_LIPSTICK: tuple[Color, ...] = ((196, 20, 44), (214, 36, 96), (150, 16, 60), (226, 60, 62))
_SHADOW: tuple[Color, ...] = ((88, 62, 150), (44, 96, 140), (150, 60, 110), (60, 110, 84))

EYE_X, BROW_Y, NOSE_Y, MOUTH_Y = 19.0, -14.5, 27.0, 41.0


def paint_eyes(canvas: Canvas, face: FaceShape) -> None:
    """Paints eye sockets, eyes, lids, lashes and eye make-up."""
    for side in (1, -1):
        _paint_eye(canvas, face, side)


def _paint_eye(canvas: Canvas, face: FaceShape, side: int) -> None:
    """Paints the right eye in the picture if `side` is 1, the left one if it is -1."""
    style, skin = face.style, face.skin
    made_up, male = "Heavy_Makeup" in face.yes, "Male" in face.yes
    rise = (4.6 + 1.2 * style.eye_size - 0.4 * male) * face.pick("Narrow_Eyes", 0.36, 1.0)
    drop = (3.4 + 0.6 * style.eye_size) * face.pick("Narrow_Eyes", 0.45, 1.0)
    half = 9.4 + 0.8 * style.eye_size
    lift = 1.6 * (style.eye_tilt - 0.4)
    black: Color = (14, 10, 12)
    line = mix(darker(skin, 0.25), (20, 14, 14), 0.5)

    def at(points: Points) -> Points:
        """Maps coordinates around this eye, x pointing away from the nose, to face coordinates."""
        return points * np.array([side, 1.0]) + np.array([side * EYE_X, 0.0])

    canvas.fill(at(ellipse(-1, -5, 12.5, 7.5)), darker(skin, 0.55), alpha=0.38, blur=2.5)
    canvas.fill(at(ellipse(-10, -1, 3.5, 5)), darker(skin, 0.5), alpha=0.4, blur=2)
    if made_up:
        lid = spline([(-9, -2), (-5, -9.5), (4, -11), (13, -6), (11, 0), (0, -4)], True)
        tint = _SHADOW[int(style.makeup * len(_SHADOW))]
        canvas.fill(at(lid), mix(tint, skin, 0.1), alpha=0.85, blur=1.1)

    upper = spline([(-half, 0.8), (-0.5 * half, -0.82 * rise), (0.5, -rise),
                   (0.55 * half, -0.72 * rise), (half, -lift)])  # fmt: skip
    lower = spline([(half, -lift), (0.45 * half, 0.9 * drop), (-0.5, drop),
                   (-0.55 * half, 0.75 * drop), (-half, 0.8)])  # fmt: skip
    opening = at(np.concatenate([upper, lower]))
    canvas.fill(opening, mix((240, 238, 234), skin, 0.12))
    white = canvas.mask(opening)
    iris = _IRIS[int(style.iris**1.5 * len(_IRIS))]
    x = side * EYE_X + 3.2 * (style.gaze - 0.5)
    canvas.fill(ellipse(x, -0.6, 4.6, 4.8), darker(iris, 0.6), clip=white)
    canvas.fill(ellipse(x, -0.6, 3.7, 3.9), iris, clip=white)
    canvas.fill(ellipse(x, -0.6, 2.1, 2.2), black, clip=white)
    canvas.fill(ellipse(x + 1.4, -2.2, 1.0, 1.0, corners=10), (255, 255, 255), clip=white)
    shadow = at(upper + np.array([0.0, 1.2]))
    canvas.lines([shadow], 1.6, (30, 24, 26), alpha=0.35, blur=0.6, clip=white)

    if made_up:
        canvas.lines([at(upper)], 2.6, black)
        canvas.lines([at(lower)], 1.6, line, alpha=0.9)
    else:
        canvas.lines([at(upper)], 1.7 if male else 2.0, line)
        canvas.lines([at(lower)], 0.9, line, alpha=0.6)
    crease = at(upper * np.array([0.95, 1.0]) + np.array([0.3, -2.8]))
    canvas.lines([crease], 1.0, darker(skin, 0.45), alpha=0.65, blur=0.3)
    if made_up or not male:
        length = 3.3 if made_up else 2.0
        roots = [(2, 0.85), (5.2, 0.78), (7.8, 0.5), (half, 0.1)]
        lashes = [
            at(np.array([(u, -v * rise), (u + length, -v * rise - length)])) for u, v in roots
        ]
        canvas.lines(lashes, 0.9, black, alpha=0.95)


def paint_brows(canvas: Canvas, face: FaceShape) -> None:
    """Paints brows: flat or arched, thin or bushy, in the hair's color, never paler than skin."""
    style = face.style
    bushy, male, arched = (
        name in face.yes for name in ("Bushy_Eyebrows", "Male", "Arched_Eyebrows")
    )
    thick = 1.5 + 0.5 * style.brow_weight + 0.8 * male + (2.4 if bushy else 0)
    rise = 6.5 if arched else 0.8
    y = BROW_Y + 1.0 - 2.0 * style.brow_height + (0.5 if arched else -0.5)
    spine = spline(
        [(7.5, y + 1.2), (14, y - rise * 0.45), (22, y - rise), (28, y - rise * 0.5), (32, y + 2.5)]
    )
    along = np.linspace(0, 1, len(spine))
    profile = np.interp(along, [0, 0.25, 0.7, 1], [0.75, 1, 0.75, 0.1])[:, None]
    offset = profile * np.array([0.0, thick])
    brow = np.concatenate([spine - offset, (spine + offset)[::-1]])
    color = mix(darker(face.hair, 0.6), darker(face.skin, 0.32), 0.35)
    for shape in (brow, mirror(brow)):
        canvas.fill(shape, color, alpha=0.9, blur=0.45)
    if bushy:
        at = face.texture.integers(1, len(spine) - 1, 34)
        lean = face.texture.uniform(-1, 1, (34, 2))
        hairs = [
            spine[i] + np.array([(-1.5, 0.7 * thick), (1.5 + 1.5 * a, -thick * (1.25 + 0.3 * b))])
            for i, (a, b) in zip(at, lean, strict=True)
        ]
        canvas.lines([*hairs, *map(mirror, hairs)], 0.7, darker(color, 0.6), alpha=0.9)


def paint_nose(canvas: Canvas, face: FaceShape) -> None:
    """Paints the nose: bridge, tip, wings and nostrils."""
    style, skin = face.style, face.skin
    big, pointy = "Big_Nose" in face.yes, "Pointy_Nose" in face.yes
    wing = (13.0 if big else 6.4 if pointy else 8.8) + 1.0 * style.nose_width
    tip = NOSE_Y + 2.0 * (style.nose_length - 0.5) + (2.0 if big else 0.0)
    dark, light = darker(skin, 0.5), mix(skin, (255, 250, 244), 0.6)
    lit = -1 if style.light_side < 0.5 else 1
    bridge = 3.4 if pointy else 5.5 if big else 4.2
    for side in (1, -1):
        flank = spline([(bridge, -9), (bridge - 0.6, 2), (bridge + 0.6, 13), (wing, tip - 2),
                       (wing + 3.5, tip), (wing + 1, 10), (bridge + 4, -6)], True)  # fmt: skip
        alpha = 0.22 if side == lit else 0.5
        canvas.fill(flank * np.array([side, 1]), dark, alpha=alpha, blur=1.6, depth=1.2)
    ridge = spline([(-0.9, -8), (0.9, -8), (1.4, 10), (1.2, 18), (-1.2, 18), (-1.4, 10)], True)
    canvas.fill(ridge, light, alpha=0.6, blur=1.2, depth=1.3)
    under = symmetric([(0, tip + 3.2), (wing, tip + 1), (0.6 * wing, tip + 7)])
    canvas.fill(under, dark, alpha=0.45, blur=1.5, depth=1.1)
    if pointy:
        # A narrow ridge of light that ends in a tip hanging over the nostrils.
        point = np.array([(-3.4, tip - 5), (0.0, tip - 16), (3.4, tip - 5), (0.0, tip + 5.5)])
        canvas.fill(point, light, alpha=0.9, blur=0.7, depth=1.4)
        edge = [np.array([(-4.4, tip - 4), (0.0, tip + 5.8), (4.4, tip - 4)])]
        canvas.lines(edge, 1.1, darker(skin, 0.4), alpha=0.8, blur=0.4, depth=1.4)
    else:
        radius = 6.0 if big else 3.6
        shine = ellipse(0, tip - 4, radius, radius * 0.8)
        canvas.fill(shine, light, alpha=0.6, blur=1.4, depth=1.4)
    base = [
        spline([(-wing, tip - 5), (-wing - 1.2, tip - 0.5), (-wing + 1.5, tip + 2.0)]),
        spline([(wing, tip - 5), (wing + 1.2, tip - 0.5), (wing - 1.5, tip + 2.0)]),
        spline([(-wing * 0.5, tip + 2.2), (0, tip + 3.4), (wing * 0.5, tip + 2.2)]),
    ]
    canvas.lines(base, 1.3, darker(skin, 0.4), alpha=0.85, blur=0.3, depth=1.2)
    for side in (1, -1):
        radius = 2.4 if big else 1.7
        nostril = ellipse(side * wing * 0.52, tip + 1.4, radius, 1.3, tilt=-side * 0.25)
        canvas.fill(nostril, darker(skin, 0.16), blur=0.3, depth=1.2)


def mouth_corner(face: FaceShape) -> tuple[float, float]:
    """The left mouth corner (right in the picture); the other one is its mirror image."""
    style = face.style
    if "Smiling" in face.yes:
        return 17.5 + 2.0 * style.mouth_width, MOUTH_Y - 3.5 - 1.5 * style.smile
    return 14.0 + 1.6 * style.mouth_width, MOUTH_Y + 1.6 * (style.smile - 0.35)


def paint_mouth(canvas: Canvas, face: FaceShape) -> None:
    """Paints lips, closed or around teeth, and the shadow below them."""
    style, skin = face.style, face.skin
    x, corner = mouth_corner(face)
    smiling = "Smiling" in face.yes
    gap = (5.0 + 3.5 * style.opening) if "Mouth_Slightly_Open" in face.yes else 0.0
    big = 1.75 if "Big_Lips" in face.yes else 1.0
    top, bottom = 3.0 * big, 4.0 * big
    middle = MOUTH_Y + (1.8 if smiling else 0.0)
    above, below = 0.35 * gap, 0.65 * gap
    # Four splines from the right corner of the mouth to the left one.
    inner_top = symmetric([(x, corner), (0.5 * x, middle - 0.5), (0, middle - above)], closed=False)
    inner_low = symmetric(
        [(x, corner), (0.55 * x, middle + 0.5 * gap), (0, middle + below)], closed=False
    )
    outer_top = symmetric([(x + 0.8, corner), (0.55 * x, middle - 0.75 * top),
                           (0.2 * x, middle - top - above), (0, middle - 0.8 * top - above)],
                          closed=False)  # fmt: skip
    outer_low = symmetric([(x + 0.8, corner), (0.6 * x, middle + 0.75 * bottom + 0.5 * gap),
                           (0, middle + bottom + below)], closed=False)  # fmt: skip
    shadow = ellipse(0, middle + bottom + below + 2.5, 9, 2)
    canvas.fill(shadow, darker(skin, 0.5), alpha=0.6, blur=1.2)
    philtrum = symmetric([(1.6, NOSE_Y + 5), (2, middle - top - 1.5)])
    canvas.fill(philtrum, darker(skin, 0.6), alpha=0.35, blur=0.8)
    lips = mix(darker(skin, 0.78), (176, 70, 74), 0.38)
    if "Wearing_Lipstick" in face.yes:
        lips = mix(_LIPSTICK[int(style.lip_shade * len(_LIPSTICK))], skin, 0.06)
    canvas.fill(np.concatenate([outer_top, inner_low[::-1]]), darker(lips, 0.82), blur=0.3)
    canvas.fill(np.concatenate([outer_low, inner_top[::-1]]), lips, blur=0.3)
    shine = ellipse(0, middle + below + 0.45 * bottom, 0.4 * x, 0.2 * bottom)
    gloss = 0.75 if "Wearing_Lipstick" in face.yes else 0.35
    canvas.fill(shine, mix(lips, (255, 255, 255), 0.5), alpha=gloss, blur=0.8)
    if gap:
        hole = np.concatenate([inner_top, inner_low[::-1]])
        canvas.fill(hole, (54, 14, 18))
        inside = canvas.mask(hole)
        teeth = symmetric([(0, middle - 4), (0.8 * x, corner - 2), (0.6 * x, middle + 0.18 * gap),
                           (0, middle + 0.32 * gap)])  # fmt: skip
        canvas.fill(teeth, (242, 238, 226), clip=inside)
        canvas.lines([hole], 0.7, darker(lips, 0.5), alpha=0.8)
    else:
        canvas.lines([inner_top], 1.3, darker(lips, 0.35), alpha=0.95)
    ends = [spline([(x - 1.5, corner + 0.4), (x + 1.8, corner - (1.2 if smiling else -0.6))])]
    if smiling:
        # Cheeks pushed up by the smile fold beside the mouth.
        ends.append(spline([(x + 4, corner - 9), (x + 6.2, corner - 3), (x + 4.5, corner + 4)]))
    canvas.lines([*ends, *map(mirror, ends)], 1.3, darker(skin, 0.42), alpha=0.75, blur=0.4)
