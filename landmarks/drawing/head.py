"""The head without its features: shape and colors, neck, ears, skin, shading and age.

Lengths are face coordinates (see `drawing.canvas`).
"""

from __future__ import annotations

import dataclasses

import cv2
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
from landmarks.drawing.people import Style

_SKIN: tuple[Color, ...] = (
    (255, 226, 204),
    (246, 208, 178),
    (232, 184, 146),
    (211, 158, 116),
    (180, 125, 86),
    (142, 94, 62),
    (106, 68, 46),
    (80, 52, 38),
)


@dataclasses.dataclass
class FaceShape:
    """Shape and colors of one person.

    Attributes:
      yes: Names of the positive attributes.
      style: Everything that the labels leave open.
      texture: Random generator for strands, stubble and the like.
      width: Half the width of the face at the height of the eyes.
      chin: The y of the chin.
      outline: Closed contour of the face and skull, clockwise from the top.
      skin: Base color of the skin.
      hair: Color of the hair, and of brows and beard that have no color of their own.
    """

    yes: frozenset[str]
    style: Style
    texture: np.random.Generator
    width: float
    chin: float
    outline: Points
    skin: Color
    hair: Color

    def pick(self, name: str, yes: float, no: float) -> float:
        return yes if name in self.yes else no


def build(yes: frozenset[str], style: Style, texture: np.random.Generator) -> FaceShape:
    """Derives the shape and colors of a head from labels and style."""
    male, chubby, oval = ("Male" in yes), ("Chubby" in yes), ("Oval_Face" in yes)
    width = 38.5 + 2.5 * style.face_width + 1.5 * male + 4.5 * chubby - 1.0 * oval
    chin = 62.5 + 3.5 * style.face_length + 1.5 * male + 2.5 * oval - 1.0 * chubby
    # The jaw dominates the shape: tapering to a narrow chin (oval), or broad and blunt.
    if oval:
        jaw, chin_width = 0.70 + 0.03 * style.jaw, 9.0
    else:
        jaw, chin_width = 0.84 + 0.06 * style.jaw, 15.0 + 5.0 * style.chin
    jaw += 0.04 * male + 0.08 * chubby
    chin_width += 3.0 * male + 4.0 * chubby
    cheek = 0.97 + 0.06 * chubby - 0.03 * oval
    outline = symmetric([
        (0, -64), (0.42 * width, -61), (0.78 * width, -48), (0.95 * width, -26), (width, -4),
        (cheek * width, 18), (jaw * width, 0.62 * chin),
        (0.5 * (jaw * width + chin_width), 0.83 * chin), (chin_width, 0.965 * chin), (0, chin + 1),
    ])  # fmt: skip
    position = style.skin * (len(_SKIN) - 1)
    tone = int(position)
    skin = mix(_SKIN[tone], _SKIN[tone + 1], position - tone)
    skin = mix(skin, (230, 150, 140) if style.skin_hue < 0.5 else (220, 180, 110), 0.1)
    return FaceShape(yes, style, texture, width, chin, outline, skin, _hair_color(yes, style))


def _hair_color(yes: frozenset[str], style: Style) -> Color:
    s = style.hair_shade
    if "Black_Hair" in yes:
        return mix((14, 12, 14), (34, 28, 32), s)
    if "Blond_Hair" in yes:
        return mix((214, 176, 92), (240, 214, 140), s)
    if "Brown_Hair" in yes:
        return mix((84, 50, 26), (128, 80, 44), s)
    if "Gray_Hair" in yes:
        return mix((150, 150, 154), (206, 206, 210), s)
    # None of the named colors: red, or dyed. A bald man's brows and beard are dark or gray.
    if "Bald" in yes:
        return mix((40, 30, 26), (110, 100, 96), s)
    other = ((168, 62, 26), (190, 84, 40), (150, 36, 72), (60, 110, 130), (120, 70, 150))
    return mix(other[int(style.other_hair**2 * len(other))], (255, 255, 255), 0.12 * s)


def paint_ears(canvas: Canvas, face: FaceShape) -> None:
    """Paints ears behind the outline of the face."""
    for side in (1, -1):
        ear = ellipse(side * (face.width + 2.0), 8, 6.5, 14, tilt=side * 0.15)
        canvas.fill(ear, darker(face.skin, 0.88), depth=0)
        inner = ellipse(side * (face.width + 2.8), 7, 3.2, 8.5, tilt=side * 0.15)
        canvas.fill(inner, darker(face.skin, 0.68), blur=1, depth=0)


def paint_head(canvas: Canvas, face: FaceShape) -> np.ndarray:
    """Paints skin and large-scale shading. Returns the mask of the face, used to clip features."""
    style, skin = face.style, face.skin
    canvas.fill(face.outline, skin, depth=0)
    inside = canvas.mask(face.outline, depth=0)
    dark, light = darker(skin, 0.55), mix(skin, (255, 244, 230), 0.4)
    # The cheeks and the jaw turn away from the viewer: darker towards the outline.
    rim = face.outline * np.array([0.80, 0.86]) + np.array([0.0, -1.0])
    shade = 255 - canvas.mask(rim, depth=0)
    canvas.blend(_soften(shade, inside), dark, 0.5)
    jaw = face.outline[face.outline[:, 1] > 12]  # Clockwise from the right ear to the left one.
    canvas.lines([jaw], 1.3, darker(skin, 0.4), alpha=0.7, blur=0.5, depth=0)
    # Light from one side.
    side = 1 if style.light_side < 0.5 else -1
    shadow = np.array([(10, -70), (60, -70), (60, 80), (16, 80)]) * np.array([side, 1])
    canvas.fill(shadow, dark, alpha=0.12 + 0.28 * style.light_strength, blur=12, clip=inside)
    for x, y, rx, ry, alpha in ((0, -34, 20, 9, 0.5), (-22, 20, 8, 6, 0.45), (22, 20, 8, 6, 0.45)):
        canvas.fill(ellipse(x, y, rx, ry), light, alpha=alpha, blur=5, clip=inside)
    canvas.fill(ellipse(0, face.chin - 8, 8, 4), light, alpha=0.4, blur=3, clip=inside)
    if "High_Cheekbones" in face.yes:
        for side in (1, -1):
            bone = spline([(20, 19), (29, 15), (36, 6)]) * np.array([side, 1])
            canvas.lines(
                [bone], 6, mix(skin, (255, 250, 240), 0.6), alpha=0.75, blur=2.4, clip=inside
            )
            hollow = spline([(37, 17), (28, 27), (22, 37), (32, 36), (38, 26)], True)
            canvas.fill(
                hollow * np.array([side, 1]), darker(skin, 0.5), alpha=0.75, blur=2.4, clip=inside
            )
    if "Rosy_Cheeks" in face.yes:
        for side in (1, -1):
            blush = ellipse(side * 25, 22, 9, 7.5)
            canvas.fill(blush, mix(skin, (235, 40, 70), 0.62), alpha=0.8, blur=2.5, clip=inside)
    return inside


def _soften(mask: np.ndarray, inside: np.ndarray) -> np.ndarray:
    small = cv2.resize(mask, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), 3.0)
    size = (mask.shape[1], mask.shape[0])
    return cv2.multiply(cv2.resize(small, size), inside, scale=1 / 255)


def paint_age(canvas: Canvas, face: FaceShape, inside: np.ndarray) -> None:
    """Paints wrinkles of the forehead, the eyes and the mouth, and bags under the eyes."""
    line = darker(face.skin, 0.5)
    if "Young" not in face.yes:
        wave = 1.5 * face.style.wrinkles
        creases = [
            spline([(-20 + i, y + 1), (-8, y - wave), (6, y), (20 - i, y + 1.5)])
            for i, y in enumerate((-24.5, -29.5, -34.5))
        ]
        folds = [spline([(10.5, 25), (16, 31), (20, 40), (19.5, 46)])]
        feet = [spline([(31, y), (36, y + dy)]) for y, dy in ((-2, -3.5), (1, 0), (3.5, 3.5))]
        brow = [spline([(2.8, -17), (2.2, -9)])]
        both = [*folds, *feet, *brow]
        canvas.lines(creases, 1.1, line, alpha=0.75, blur=0.4, clip=inside)
        canvas.lines([*both, *map(mirror, both)], 1.3, line, alpha=0.8, blur=0.4, clip=inside)
    if "Bags_Under_Eyes" in face.yes:
        pouch = spline([(10, 5.5), (19, 7.5), (28, 5), (25, 11), (18, 13.5), (12, 11)], True)
        edge = spline([(10.5, 9), (14, 12.8), (19, 13.8), (25, 11.5), (28, 7)])
        tint = mix(darker(face.skin, 0.6), (90, 60, 110), 0.3)
        for shape in (pouch, mirror(pouch)):
            canvas.fill(shape, tint, alpha=0.6, blur=1, clip=inside)
        canvas.lines([edge, mirror(edge)], 1.4, darker(face.skin, 0.4), alpha=0.8, blur=0.4)


def paint_neck(canvas: Canvas, face: FaceShape) -> None:
    """Paints the neck with the shadow of the chin, and a double chin if the label says so."""
    skin = face.skin
    half = face.width * face.pick("Male", 0.76, 0.58) + face.pick("Chubby", 4, 0)
    neck = symmetric([(half, 30), (half, 70), (half + 4, 84), (half + 26, 110)])
    canvas.fill(neck, darker(skin, 0.86), depth=0)
    inside = canvas.mask(neck, depth=0)
    shadow = face.outline * np.array([0.95, 1.0]) + np.array([0, 7.0])
    canvas.fill(shadow, darker(skin, 0.35), alpha=0.85, blur=2.5, depth=0, clip=inside)
    tendons = [spline([(half * 0.7, 74), (5, 100)])]
    canvas.lines(
        [*tendons, *map(mirror, tendons)], 2, darker(skin, 0.6), alpha=0.4, blur=1.2, depth=0
    )
    if "Double_Chin" in face.yes:
        w = face.width * 0.62
        chin = face.chin
        fold = symmetric([(w, chin - 14), (0.8 * w, chin + 3), (0, chin + 12)], closed=False)
        canvas.fill(fold, mix(skin, (255, 244, 230), 0.08), depth=0, blur=0.6)
        canvas.lines([fold], 2.2, darker(skin, 0.38), alpha=0.9, blur=0.6, depth=0)
