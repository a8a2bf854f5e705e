"""Paints what grows on a head and what is put on it: hair, beards, hats, glasses, jewelry, ties."""

from __future__ import annotations

import math

import cv2
import numpy as np

from landmarks.drawn_canvas import Canvas, Color, Points, curve, darker, ellipse, mirror, mix
from landmarks.drawn_features import EYE_X, MOUTH_Y, NOSE_Y, Face

_CLOTH: tuple[Color, ...] = (
    (178, 30, 40), (28, 60, 120), (30, 110, 70), (230, 190, 60), (90, 40, 110), (40, 40, 46), (225, 225, 228), (200, 100, 50),
)  # fmt: skip
_METAL: tuple[Color, ...] = ((236, 196, 80), (222, 226, 232), (240, 236, 226))


def is_long(face: Face) -> bool:
    return face.style.hair_length < face.pick("Male", 0.08, 0.82)


def _scallop(points: Points, size: float, period: int) -> Points:
    """Pushes a contour in and out to make curls."""
    step = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    length = np.sqrt((step**2).sum(1, keepdims=True)) + 1e-9
    normal = np.stack([step[:, 1], -step[:, 0]], axis=1) / length
    return (
        points
        + normal * (size * np.abs(np.sin(np.arange(len(points)) * math.pi / period)))[:, None]
    )


def _strands(face: Face, canvas: Canvas, count: int, clip: np.ndarray, bottom: float) -> None:
    """Light and dark strands that make hair look wavy or straight; none for hair that is neither."""
    wavy = "Wavy_Hair" in face.yes
    if not wavy and "Straight_Hair" not in face.yes:
        return
    t = np.linspace(0, 1, 28)[:, None]
    reach = face.width + 12
    start = np.linspace(-1, 1, count) + face.texture.uniform(-0.03, 0.03, count)
    phase = face.texture.uniform(0, 2 * math.pi, count)
    curves = []
    for s, p in zip(start, phase, strict=True):
        # From the parting over the side of the skull and down.
        x = reach * np.sign(s) * np.abs(s) ** 0.6 * np.minimum(1, 0.25 + 2.2 * t) ** (0.8)
        y = -84 + 20 * s * s + (bottom + 84) * t
        if wavy:
            x = x + 3.4 * np.sin(t * (bottom + 84) / 4.6 + p)
        curves.append(np.concatenate([x, y], axis=1))
    light = mix(face.hair, (255, 250, 240), 0.32)
    width = 1.5 if wavy else 0.9
    canvas.lines(curves[::2], width, light, alpha=0.75, depth=0, clip=clip)
    canvas.lines(curves[1::2], width, darker(face.hair, 0.55), alpha=0.8, depth=0, clip=clip)


def _crown(face: Face) -> Points:
    """The outer contour of the hair over the skull, from the left temple to the right one."""
    volume = (
        3.0
        + 5.0 * face.style.hair_volume
        + face.pick("Wavy_Hair", 2.5, 0)
        - face.pick("Straight_Hair", 1.5, 0)
    )
    w, top = face.width + 0.75 * volume, -66 - 1.1 * volume
    return curve([(-w, 4), (-w - 0.5, -22), (-0.84 * w, -52), (-0.45 * w, top + 3), (0, top), (0.45 * w, top + 3),
                  (0.84 * w, -52), (w + 0.5, -22), (w, 4)], samples=8)  # fmt: skip


def paint_back_hair(canvas: Canvas, face: Face) -> None:
    """Hair behind the neck, for long hair."""
    if "Bald" in face.yes or not is_long(face):
        return
    bottom = 62 + 30 * face.style.hair_volume
    w = face.width + 9 + 4 * face.style.hair_volume
    shape = curve([(0, -72), (0.7 * w, -58), (w, -20), (w + 1, 20), (w + 3, bottom - 12), (w - 6, bottom + 2), (0, bottom),
                   (-w + 6, bottom + 2), (-w - 3, bottom - 12), (-w - 1, 20), (-w, -20), (-0.7 * w, -58)], True, samples=8)  # fmt: skip
    if "Wavy_Hair" in face.yes:
        shape = _scallop(shape, 4.0, 6)
    canvas.fill(shape, darker(face.hair, 0.62), depth=0)
    _strands(face, canvas, 26, canvas.mask(shape, depth=0), bottom)


def paint_front_hair(canvas: Canvas, face: Face, inside: np.ndarray) -> None:
    """Hair over the skull and the forehead: the hairline, bangs, locks beside the face."""
    if "Bald" in face.yes:
        shine = ellipse(-8, -48, 10, 5, tilt=-0.3)
        canvas.fill(shine, mix(face.skin, (255, 255, 255), 0.75), alpha=0.85, blur=2.0)
        return
    w = face.width
    crown = _crown(face)
    if "Wavy_Hair" in face.yes:
        crown = _scallop(crown, -4.5, 6) if crown[0, 0] > 0 else _scallop(crown, 4.5, 6)
    part = (face.style.parting - 0.5) * 0.9 * w
    if "Receding_Hairline" in face.yes:
        # Bare temples around a tuft in the middle.
        hairline = [(0.99 * w, 4), (0.96 * w, -24), (0.80 * w, -50), (0.5 * w, -60), (0.2 * w, -53),
                    (-0.2 * w, -53), (-0.5 * w, -60), (-0.80 * w, -50), (-0.96 * w, -24), (-0.99 * w, 4)]  # fmt: skip
    else:
        hairline = [(0.97 * w, 4), (0.9 * w, -20), (0.74 * w, -35), (0.3 * w + 0.5 * part, -42), (part, -46),
                    (-0.3 * w + 0.5 * part, -42), (-0.74 * w, -35), (-0.9 * w, -20), (-0.97 * w, 4)]  # fmt: skip
    cap = np.concatenate([crown, curve(hairline)])
    canvas.lines(
        [curve(hairline)], 4, darker(face.skin, 0.4), alpha=0.5, blur=1.8, depth=0, clip=inside
    )
    canvas.fill(cap, face.hair, depth=0)
    mask = canvas.mask(cap, depth=0)
    gloss = curve([(-0.6 * w, -50), (-0.2 * w, -61), (0.3 * w, -60)])
    canvas.lines(
        [gloss], 5, mix(face.hair, (255, 255, 255), 0.3), alpha=0.6, blur=2.5, depth=0, clip=mask
    )
    _strands(face, canvas, 40, mask, 20.0)
    if is_long(face):
        _locks(canvas, face)
    if "Bangs" in face.yes:
        jags = face.texture.uniform(-2.5, 2.5, 9)
        low = [
            (x * w, -19.5 + jag + 4 * abs(x))
            for x, jag in zip(np.linspace(0.86, -0.86, 9), jags, strict=True)
        ]
        bangs = np.concatenate(
            [
                curve([(-0.9 * w, -22), (-0.6 * w, -52), (0, -60), (0.6 * w, -52), (0.9 * w, -22)]),
                low,
            ]
        )
        canvas.fill(
            bangs + np.array([0, 2.0]),
            darker(face.skin, 0.4),
            alpha=0.5,
            blur=1.5,
            depth=0.5,
            clip=inside,
        )
        canvas.fill(bangs, mix(face.hair, (255, 255, 255), 0.05), depth=0.5)
        ends = [np.array([(0.35 * x, -60 + abs(x) * 0.15), (x, y)]) for x, y in low]
        canvas.lines(ends, 0.9, darker(face.hair, 0.55), alpha=0.7, depth=0.5)


def _locks(canvas: Canvas, face: Face) -> None:
    """Long hair falls in front of the ears."""
    w, bottom = face.width, 50 + 34 * face.style.hair_volume
    right = curve([(0.86 * w, -34), (w + 7, -24), (w + 11, 8), (w + 12, bottom - 8), (w + 3, bottom), (w - 3, bottom - 14),
                   (w + 0.5, 14), (w - 2, -8)], True, samples=8)  # fmt: skip
    if "Wavy_Hair" in face.yes:
        right = _scallop(right, 3.5, 6)
    for lock in (right, mirror(right)):
        canvas.fill(lock, darker(face.hair, 0.88), depth=0)
        mask = canvas.mask(lock, depth=0)
        _strands(face, canvas, 40, mask, bottom)


def paint_beard(canvas: Canvas, face: Face, inside: np.ndarray) -> None:
    """Stubble, goatee, full beard, mustache and sideburns."""
    w, chin = face.width, face.chin
    color = darker(face.hair, 0.75)
    jaw = curve(
        [
            (w, 4),
            (w + 1, 20),
            (0.95 * w, 0.65 * chin),
            (0.6 * w, chin),
            (0, chin + 3),
            (-0.6 * w, chin),
            (-0.95 * w, 0.65 * chin),
            (-w - 1, 20),
            (-w, 4),
        ]
    )
    rim = curve(
        [
            (-0.92 * w, 8),
            (-0.8 * w, 24),
            (-21, 36),
            (-16, MOUTH_Y + 9),
            (0, MOUTH_Y + 11.5),
            (16, MOUTH_Y + 9),
            (21, 36),
            (0.8 * w, 24),
            (0.92 * w, 8),
        ]
    )
    region = np.concatenate([jaw, rim])
    lip = np.array(
        [
            (-17, MOUTH_Y - 2),
            (-8, NOSE_Y + 5.5),
            (8, NOSE_Y + 5.5),
            (17, MOUTH_Y - 2),
            (8, MOUTH_Y - 5),
            (-8, MOUTH_Y - 5),
        ]
    )
    if "5_o_Clock_Shadow" in face.yes:
        tint = mix(mix(face.skin, (46, 50, 66), 0.62), color, 0.15)
        for shape in (region, lip):
            canvas.fill(shape, tint, alpha=0.75, blur=2.0, clip=inside)
        _hairs(canvas, face, region, inside, 260, 0.8, darker(tint, 0.5))
    elif "Goatee" in face.yes:
        goatee = curve(
            [
                (-4, MOUTH_Y + 8),
                (4, MOUTH_Y + 8),
                (11, MOUTH_Y + 9),
                (13, chin - 6),
                (7, chin + 3),
                (0, chin + 5),
                (-7, chin + 3),
                (-13, chin - 6),
                (-11, MOUTH_Y + 9),
            ],
            True,
        )
        canvas.fill(goatee, color, blur=0.7)
        _hairs(canvas, face, goatee, inside, 60, 3.0, darker(color, 0.6))
    elif "No_Beard" not in face.yes:
        canvas.fill(region, color, blur=1.0)
        _hairs(canvas, face, region, inside, 160, 3.5, darker(color, 0.6))
        _hairs(canvas, face, region, inside, 80, 3.5, mix(color, (255, 255, 255), 0.25))
    if "Mustache" in face.yes:
        half = curve(
            [
                (0, NOSE_Y + 6.5),
                (8, NOSE_Y + 6.8),
                (16, MOUTH_Y - 4),
                (20, MOUTH_Y + 2.5),
                (12, MOUTH_Y - 1.2),
                (0, MOUTH_Y - 2.0),
            ],
            False,
        )
        whole = np.concatenate([half, mirror(half)[::-1]])
        canvas.fill(whole, darker(color, 0.9), blur=0.5)
    if "Sideburns" in face.yes:
        burn = curve(
            [(w - 1, -18), (w - 9, -14), (w - 10, 10), (w - 8, 24), (w - 2, 26), (w + 0.5, 10)],
            True,
        )
        for shape in (burn, mirror(burn)):
            canvas.fill(shape, darker(face.hair, 0.85), blur=0.6, depth=0)


def _hairs(
    canvas: Canvas,
    face: Face,
    region: Points,
    inside: np.ndarray,
    count: int,
    length: float,
    color: Color,
) -> None:
    """Short strokes over a region."""
    low, high = region.min(0), region.max(0)
    roots = face.texture.uniform(low, high, (count, 2))
    lean = face.texture.uniform(-0.5, 0.5, count)
    ends = np.stack(
        [roots[:, 0] + lean * length + roots[:, 0] * 0.02 * length, roots[:, 1] + length], axis=1
    )
    clip = cv2.min(canvas.mask(region), inside)
    canvas.lines(list(np.stack([roots, ends], axis=1)), 0.6, color, alpha=0.8, clip=clip)


def paint_hat(canvas: Canvas, face: Face) -> None:
    """A beanie, a cap with a visor or a hat with a brim, over the crown."""
    if "Wearing_Hat" not in face.yes:
        return
    style, w = face.style, face.width + 6
    color = _CLOTH[int(style.hat_color * len(_CLOTH))]
    dark = darker(color, 0.6)
    kind = int(style.hat * 3)
    top = -84.0
    dome = curve([(-w, -28), (-w - 0.5, -44), (-0.75 * w, -70), (-0.3 * w, top + 1), (0.3 * w, top + 1), (0.75 * w, -70),
                  (w + 0.5, -44), (w, -28), (0.5 * w, -31), (-0.5 * w, -31)], True)  # fmt: skip
    shade = curve(
        [(-0.9 * w, -30), (0, -30), (0.9 * w, -30), (0.7 * w, -22), (0, -19), (-0.7 * w, -22)], True
    )
    canvas.fill(shade, darker(face.skin, 0.35), alpha=0.5, blur=2.5, depth=0.4)
    canvas.fill(dome, color, depth=0)
    mask = canvas.mask(dome, depth=0)
    canvas.fill(
        np.array([(0.35 * w, -90), (w + 9, -90), (w + 9, -20), (0.5 * w, -20)]),
        dark,
        alpha=0.5,
        blur=8,
        depth=0,
        clip=mask,
    )
    if kind == 0:
        ribs = [np.array([(x * w, -30), (x * 0.55 * w, top)]) for x in np.linspace(-1, 1, 13)]
        canvas.lines(ribs, 1.2, dark, alpha=0.5, depth=0, clip=mask)
        cuff = curve(
            [(-w - 1.5, -26), (-w - 1.5, -42), (0, -47), (w + 1.5, -42), (w + 1.5, -26), (0, -31)],
            True,
        )
        canvas.fill(cuff, darker(color, 0.82), depth=0)
    elif kind == 1:
        seams = [
            curve([(0, -88), (x * w * 0.7, -62), (x * w * 0.8, -32)]) for x in (-1, -0.3, 0.3, 1)
        ]
        canvas.lines(seams, 0.9, dark, alpha=0.7, depth=0, clip=mask)
        visor = curve(
            [
                (-0.86 * w, -30),
                (0, -40),
                (0.86 * w, -30),
                (0.7 * w, -23),
                (0, -26),
                (-0.7 * w, -23),
            ],
            True,
        )
        canvas.fill(visor, darker(color, 0.75), depth=0.5)
        canvas.lines(
            [curve([(-0.86 * w, -30), (0, -39), (0.86 * w, -30)])],
            1.2,
            darker(color, 0.45),
            depth=0.5,
        )
    else:
        brim = ellipse(0, -35, w + 15, 7.5)
        canvas.fill(brim, darker(color, 0.85), depth=0)
        band = curve([(-w, -40), (0, -44), (w, -40), (w, -48), (0, -53), (-w, -48)], True)
        canvas.fill(band, darker(color, 0.4), depth=0, clip=mask)


def paint_glasses(canvas: Canvas, face: Face) -> None:
    if "Eyeglasses" not in face.yes:
        return
    style = face.style
    color: Color = ((18, 16, 18), (70, 36, 20), (150, 30, 40), (30, 50, 110))[
        int(style.glasses_color * 4)
    ]
    rx, ry = 14.0 + style.glasses, 10.0 + 2.0 * style.glasses
    angle = np.arange(40) * (2 * math.pi / 40)
    power = 1.0 if style.glasses > 0.5 else 0.55  # Round or rectangular rims.
    rim = np.stack([rx * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power,
                    ry * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power], axis=1)  # fmt: skip
    rims = [
        np.concatenate([rim, rim[:1]]) + np.array([side * (EYE_X + 0.6), 1.0]) for side in (1, -1)
    ]
    for lens in rims:
        canvas.fill(lens, (225, 235, 245), alpha=0.12)
    bridge = curve([(-6, -2), (0, -4), (6, -2)])
    temples = [np.array([(EYE_X + rx, -3), (face.width + 2, -4)])]
    width = 1.6 + 0.9 * style.glasses_color
    canvas.lines([*rims, bridge, *temples, *map(mirror, temples)], width, color, depth=1.0)
    glint = np.array([(EYE_X - 7, -6), (EYE_X - 3, -6), (EYE_X - 9, 6), (EYE_X - 11, 3)])
    for shape in (glint, glint - np.array([2 * EYE_X, 0])):
        canvas.fill(shape, (255, 255, 255), alpha=0.3, blur=0.5)


def paint_earrings(canvas: Canvas, face: Face) -> None:
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
            drop = curve([(x, 22), (x + 5, 34), (x, 40), (x - 5, 34)], True)
            canvas.fill(drop, darker(color, 0.5), depth=0)
            canvas.fill((drop - (x, 32)) * 0.72 + (x, 32.5), color, depth=0)


def paint_neckwear(canvas: Canvas, face: Face) -> None:
    """Collar and tie, or necklace, over the clothes."""
    style = face.style
    if "Wearing_Necktie" in face.yes:
        white: Color = (238, 240, 244)
        color = _CLOTH[int(style.tie_color * 5)]
        canvas.fill(np.array([(-17, 84), (17, 84), (20, 125), (-20, 125)]), white, depth=0)
        tie = np.array([(-6, 84), (6, 84), (4, 94), (12, 128), (-12, 128), (-4, 94)])
        canvas.fill(tie, color, depth=0)
        inside = canvas.mask(tie, depth=0)
        stripes = [np.array([(-14, y), (14, y - 14)]) for y in range(92, 146, 7)]
        canvas.lines(stripes, 2, mix(color, (255, 255, 255), 0.6), depth=0, clip=inside)
        collar = np.array([(-25, 72), (-19, 76), (-3, 86), (-15, 97), (-28, 84)])
        for shape in (collar, mirror(collar)):
            canvas.fill(shape, white, depth=0)
        canvas.lines(
            [np.concatenate([s, s[:1]]) for s in (collar, mirror(collar))],
            0.8,
            (130, 134, 142),
            depth=0,
        )
    if "Wearing_Necklace" in face.yes:
        color = _METAL[int(style.necklace * 3)]
        chain = curve([(-25, 74), (-17, 86), (0, 94), (17, 86), (25, 74)], samples=9)
        canvas.lines(
            [chain + np.array([0, 1.2])], 2, darker(face.skin, 0.4), alpha=0.6, blur=0.8, depth=0
        )
        for x, y in chain[::2]:
            canvas.fill(ellipse(x, y, 1.9, 1.9, corners=10), color, depth=0)
        canvas.fill(ellipse(0, 98, 3.6, 4.6), darker(color, 0.6), depth=0)
        canvas.fill(ellipse(0, 98, 2.5, 3.4), mix(color, (255, 255, 255), 0.3), depth=0)
