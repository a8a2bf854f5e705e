"""Paints the head and the face on it: skin, shading, eyes, brows, nose, mouth and what age and
make-up do to them. Lengths are face coordinates (see `drawn_canvas`)."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from landmarks.drawn_canvas import Canvas, Color, Points, curve, darker, ellipse, mirror, mix
from landmarks.drawn_people import Style

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


@dataclasses.dataclass
class Face:
    """One person while being painted.

    Attributes:
      yes: names of the attributes that hold.
      style: what the labels leave open.
      texture: random numbers for strands, stubble and the like.
      width: half the width of the face at the height of the eyes.
      chin: y of the chin.
      outline: closed contour of the face, skull included, starting at the top and going clockwise.
      skin: base color of the skin.
      hair: color of the hair, also of brows and beard where these have none of their own.
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


def build(yes: frozenset[str], style: Style, texture: np.random.Generator) -> Face:
    """Turns labels and style into the shape and colors of one head."""
    male, chubby, oval = ("Male" in yes), ("Chubby" in yes), ("Oval_Face" in yes)
    width = 38.5 + 2.5 * style.face_width + 1.5 * male + 4.5 * chubby - 1.0 * oval
    chin = 62.5 + 3.5 * style.face_length + 1.5 * male + 2.5 * oval - 1.0 * chubby
    # The jaw makes most of the shape: tapering to a narrow chin (oval), or broad and blunt.
    if oval:
        jaw, chin_width = 0.70 + 0.03 * style.jaw, 9.0
    else:
        jaw, chin_width = 0.84 + 0.06 * style.jaw, 15.0 + 5.0 * style.chin
    jaw += 0.04 * male + 0.08 * chubby
    chin_width += 3.0 * male + 4.0 * chubby
    cheek = 0.97 + 0.06 * chubby - 0.03 * oval
    half = [
        (0, -64), (0.42 * width, -61), (0.78 * width, -48), (0.95 * width, -26), (width, -4),
        (cheek * width, 18), (jaw * width, 0.62 * chin), (0.5 * (jaw * width + chin_width), 0.83 * chin),
        (chin_width, 0.965 * chin),
    ]  # fmt: skip
    right = half[1:]
    outline = curve([half[0], *right, (0, chin + 1), *[(-x, y) for x, y in reversed(right)]], True)

    position = style.skin * (len(_SKIN) - 1)
    tone = int(position)
    skin = mix(_SKIN[tone], _SKIN[tone + 1], position - tone)
    skin = mix(skin, (230, 150, 140) if style.skin_hue < 0.5 else (220, 180, 110), 0.1)
    return Face(yes, style, texture, width, chin, outline, skin, _hair_color(yes, style))


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


def paint_ears(canvas: Canvas, face: Face) -> None:
    """Ears behind the outline of the face."""
    for side in (1, -1):
        ear = ellipse(side * (face.width + 2.0), 8, 6.5, 14, tilt=side * 0.15)
        canvas.fill(ear, darker(face.skin, 0.88), depth=0)
        inner = ellipse(side * (face.width + 2.8), 7, 3.2, 8.5, tilt=side * 0.15)
        canvas.fill(inner, darker(face.skin, 0.68), blur=1, depth=0)


def paint_head(canvas: Canvas, face: Face) -> np.ndarray:
    """The face's skin with its large shading. Returns the mask of the face, to clip features by."""
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
            bone = curve([(20, 19), (29, 15), (36, 6)]) * np.array([side, 1])
            canvas.lines(
                [bone], 6, mix(skin, (255, 250, 240), 0.6), alpha=0.75, blur=2.4, clip=inside
            )
            hollow = curve([(37, 17), (28, 27), (22, 37), (32, 36), (38, 26)], True)
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


def paint_age(canvas: Canvas, face: Face, inside: np.ndarray) -> None:
    """Wrinkles of the forehead, the eyes and the mouth; pouches under the eyes; a second chin."""
    line = darker(face.skin, 0.5)
    if "Young" not in face.yes:
        wave = 1.5 * face.style.wrinkles
        creases = [
            curve([(-20 + i, y + 1), (-8, y - wave), (6, y), (20 - i, y + 1.5)])
            for i, y in enumerate((-24.5, -29.5, -34.5))
        ]
        folds = [curve([(10.5, 25), (16, 31), (20, 40), (19.5, 46)])]
        feet = [curve([(31, y), (36, y + dy)]) for y, dy in ((-2, -3.5), (1, 0), (3.5, 3.5))]
        brow = [curve([(2.8, -17), (2.2, -9)])]
        both = [*folds, *feet, *brow]
        canvas.lines(creases, 1.1, line, alpha=0.75, blur=0.4, clip=inside)
        canvas.lines([*both, *map(mirror, both)], 1.3, line, alpha=0.8, blur=0.4, clip=inside)
    if "Bags_Under_Eyes" in face.yes:
        pouch = curve([(10, 5.5), (19, 7.5), (28, 5), (25, 11), (18, 13.5), (12, 11)], True)
        edge = curve([(10.5, 9), (14, 12.8), (19, 13.8), (25, 11.5), (28, 7)])
        tint = mix(darker(face.skin, 0.6), (90, 60, 110), 0.3)
        for shape in (pouch, mirror(pouch)):
            canvas.fill(shape, tint, alpha=0.6, blur=1, clip=inside)
        canvas.lines([edge, mirror(edge)], 1.4, darker(face.skin, 0.4), alpha=0.8, blur=0.4)


def paint_eyes(canvas: Canvas, face: Face) -> None:
    """Sockets, eyes, lids and lashes, and eye make-up."""
    style, skin = face.style, face.skin
    made_up = "Heavy_Makeup" in face.yes
    male = "Male" in face.yes
    open_up = (4.6 + 1.2 * style.eye_size - 0.4 * male) * face.pick("Narrow_Eyes", 0.36, 1.0)
    open_down = (3.4 + 0.6 * style.eye_size) * face.pick("Narrow_Eyes", 0.45, 1.0)
    half = 9.4 + 0.8 * style.eye_size
    lift = 1.6 * (style.eye_tilt - 0.4)
    iris_color = _IRIS[int(style.iris**1.5 * len(_IRIS))]
    line = mix(darker(skin, 0.25), (20, 14, 14), 0.5)
    gaze = 3.2 * (style.gaze - 0.5)
    for side in (1, -1):

        def at(points: Points) -> Points:
            return (points * np.array([side, 1.0])) + np.array([side * EYE_X, 0.0])

        socket = ellipse(-1, -5, 12.5, 7.5)
        canvas.fill(at(socket), darker(skin, 0.55), alpha=0.38, blur=2.5)
        corner = ellipse(-10, -1, 3.5, 5)
        canvas.fill(at(corner), darker(skin, 0.5), alpha=0.4, blur=2)
        if made_up:
            lid = curve([(-9, -2), (-5, -9.5), (4, -11), (13, -6), (11, 0), (0, -4)], True)
            tint = _SHADOW[int(style.makeup * len(_SHADOW))]
            canvas.fill(at(lid), mix(tint, skin, 0.1), alpha=0.85, blur=1.1)
        upper = curve([(-half, 0.8), (-half * 0.5, -open_up * 0.82), (0.5, -open_up),
                       (half * 0.55, -open_up * 0.72), (half, -lift)])  # fmt: skip
        lower = curve([(half, -lift), (half * 0.45, open_down * 0.9), (-0.5, open_down),
                       (-half * 0.55, open_down * 0.75), (-half, 0.8)])  # fmt: skip
        eye = at(np.concatenate([upper, lower]))
        canvas.fill(eye, mix((240, 238, 234), skin, 0.12))
        white = canvas.mask(eye)
        x = side * EYE_X + gaze
        canvas.fill(ellipse(x, -0.6, 4.6, 4.8), darker(iris_color, 0.6), clip=white)
        canvas.fill(ellipse(x, -0.6, 3.7, 3.9), iris_color, clip=white)
        canvas.fill(ellipse(x, -0.6, 2.1, 2.2), (12, 10, 12), clip=white)
        canvas.fill(ellipse(x + 1.4, -2.2, 1.0, 1.0, corners=10), (255, 255, 255), clip=white)
        canvas.lines(
            [at(upper + np.array([0, 1.2]))], 1.6, (30, 24, 26), alpha=0.35, blur=0.6, clip=white
        )
        liner = 2.6 if made_up else 1.7 if male else 2.0
        canvas.lines([at(upper)], liner, (14, 10, 12) if made_up else line)
        canvas.lines([at(lower)], 1.6 if made_up else 0.9, line, alpha=0.9 if made_up else 0.6)
        crease = upper * np.array([0.95, 1.0]) + np.array([0.3, -2.8])
        canvas.lines([at(crease)], 1.0, darker(skin, 0.45), alpha=0.65, blur=0.3)
        if not male or made_up:
            length = 4.4 if made_up else 2.6
            tips = [(2, -0.85), (5.2, -0.78), (7.8, -0.5), (half, -0.1)]
            lashes = [
                np.array([(a, open_up * b), (a + length * 0.75, open_up * b - length * 0.75)])
                for a, b in tips
            ]
            canvas.lines([at(lash) for lash in lashes], 0.9, (14, 10, 12), alpha=0.95)


def paint_brows(canvas: Canvas, face: Face) -> None:
    """Brows: flat or arched, thin or bushy, in the hair's color but never paler than skin."""
    style = face.style
    bushy, male, arched = (
        name in face.yes for name in ("Bushy_Eyebrows", "Male", "Arched_Eyebrows")
    )
    thick = 1.5 + 0.5 * style.brow_weight + 0.8 * male + (2.4 if bushy else 0)
    rise = 6.5 if arched else 0.8
    y = BROW_Y + 1.0 - 2.0 * style.brow_height + (0.5 if arched else -0.5)
    spine = curve(
        [(7.5, y + 1.2), (14, y - rise * 0.45), (22, y - rise), (28, y - rise * 0.5), (32, y + 2.5)]
    )
    profile = np.interp(np.linspace(0, 1, len(spine)), [0, 0.25, 0.7, 1], [0.75, 1, 0.75, 0.1])[
        :, None
    ]
    offset = profile * np.array([0.0, thick])
    brow = np.concatenate([spine - offset, (spine + offset)[::-1]])
    color = mix(darker(face.hair, 0.6), darker(face.skin, 0.32), 0.35)
    for shape in (brow, mirror(brow)):
        canvas.fill(shape, color, alpha=0.9, blur=0.45)
    if bushy:
        at = face.texture.integers(1, len(spine) - 1, 34)
        lean = face.texture.uniform(-1, 1, (34, 2))
        hairs = [
            np.stack(
                [
                    spine[i] + (-1.5, thick * 0.7),
                    spine[i] + (1.5 + 1.5 * a, -thick * (1.25 + 0.3 * b)),
                ]
            )
            for i, (a, b) in zip(at, lean, strict=True)
        ]
        canvas.lines([*hairs, *map(mirror, hairs)], 0.7, darker(color, 0.6), alpha=0.9)


def paint_nose(canvas: Canvas, face: Face) -> None:
    """Bridge, tip, wings and nostrils."""
    style, skin = face.style, face.skin
    big, pointy = "Big_Nose" in face.yes, "Pointy_Nose" in face.yes
    wing = (13.0 if big else 6.4 if pointy else 8.8) + 1.0 * style.nose_width
    tip = NOSE_Y + 2.0 * (style.nose_length - 0.5) + (2.0 if big else 0.0)
    dark, light = darker(skin, 0.5), mix(skin, (255, 250, 244), 0.6)
    lit = -1 if style.light_side < 0.5 else 1
    bridge = 3.4 if pointy else 5.5 if big else 4.2
    for side in (1, -1):
        flank = curve([(bridge, -9), (bridge - 0.6, 2), (bridge + 0.6, 13), (wing, tip - 2),
                       (wing + 3.5, tip), (wing + 1, 10), (bridge + 4, -6)], True)  # fmt: skip
        alpha = 0.22 if side == lit else 0.5
        canvas.fill(flank * np.array([side, 1]), dark, alpha=alpha, blur=1.6, depth=1.2)
    ridge = curve([(-0.9, -8), (0.9, -8), (1.4, 10), (1.2, 18), (-1.2, 18), (-1.4, 10)], True)
    canvas.fill(ridge, light, alpha=0.6, blur=1.2, depth=1.3)
    under = curve(
        [
            (-wing, tip + 1),
            (0, tip + 3.2),
            (wing, tip + 1),
            (wing * 0.6, tip + 7),
            (-wing * 0.6, tip + 7),
        ],
        True,
    )
    canvas.fill(under, dark, alpha=0.45, blur=1.5, depth=1.1)
    if pointy:
        # A narrow ridge of light that ends in a tip hanging over the nostrils.
        point = np.array([(-3.4, tip - 5), (0.0, tip - 16), (3.4, tip - 5), (0.0, tip + 5.5)])
        canvas.fill(point, light, alpha=0.9, blur=0.7, depth=1.4)
        edge = [np.array([(-4.4, tip - 4), (0.0, tip + 5.8), (4.4, tip - 4)])]
        canvas.lines(edge, 1.1, darker(skin, 0.4), alpha=0.8, blur=0.4, depth=1.4)
    else:
        radius = 6.0 if big else 3.6
        canvas.fill(
            ellipse(0, tip - 4, radius, radius * 0.8), light, alpha=0.6, blur=1.4, depth=1.4
        )
    base = [
        curve([(-wing, tip - 5), (-wing - 1.2, tip - 0.5), (-wing + 1.5, tip + 2.0)]),
        curve([(wing, tip - 5), (wing + 1.2, tip - 0.5), (wing - 1.5, tip + 2.0)]),
        curve([(-wing * 0.5, tip + 2.2), (0, tip + 3.4), (wing * 0.5, tip + 2.2)]),
    ]
    canvas.lines(base, 1.3, darker(skin, 0.4), alpha=0.85, blur=0.3, depth=1.2)
    for side in (1, -1):
        nostril = ellipse(
            side * wing * 0.52, tip + 1.4, 2.4 if big else 1.7, 1.3, tilt=-side * 0.25
        )
        canvas.fill(nostril, darker(skin, 0.16), blur=0.3, depth=1.2)


def mouth_corner(face: Face) -> tuple[float, float]:
    """The left corner of the mouth (right in the picture); the other one mirrors it."""
    style = face.style
    if "Smiling" in face.yes:
        return 17.5 + 2.0 * style.mouth_width, MOUTH_Y - 3.5 - 1.5 * style.smile
    return 14.0 + 1.6 * style.mouth_width, MOUTH_Y + 1.6 * (style.smile - 0.35)


def paint_mouth(canvas: Canvas, face: Face) -> None:
    """Lips, closed or around teeth, with the shadow below them."""
    style, skin = face.style, face.skin
    x, corner = mouth_corner(face)
    smiling = "Smiling" in face.yes
    gap = (5.0 + 3.5 * style.opening) if "Mouth_Slightly_Open" in face.yes else 0.0
    big = 1.75 if "Big_Lips" in face.yes else 1.0
    top, bottom = 3.0 * big, 4.0 * big
    middle = MOUTH_Y + (1.8 if smiling else 0.0)
    inner_top = curve([(-x, corner), (-x * 0.5, middle - 0.5), (0, middle - gap * 0.35),
                       (x * 0.5, middle - 0.5), (x, corner)])  # fmt: skip
    inner_low = curve([(x, corner), (x * 0.55, middle + gap * 0.5), (0, middle + gap * 0.65),
                       (-x * 0.55, middle + gap * 0.5), (-x, corner)])  # fmt: skip
    outer_top = curve([(-x - 0.8, corner), (-x * 0.55, middle - top * 0.75), (-x * 0.2, middle - top - gap * 0.35),
                       (0, middle - top * 0.8 - gap * 0.35), (x * 0.2, middle - top - gap * 0.35),
                       (x * 0.55, middle - top * 0.75), (x + 0.8, corner)])  # fmt: skip
    outer_low = curve([(x + 0.8, corner), (x * 0.6, middle + bottom * 0.75 + gap * 0.5), (0, middle + bottom + gap * 0.65),
                       (-x * 0.6, middle + bottom * 0.75 + gap * 0.5), (-x - 0.8, corner)])  # fmt: skip
    canvas.fill(
        ellipse(0, middle + bottom + gap * 0.65 + 2.5, 9, 2), darker(skin, 0.5), alpha=0.6, blur=1.2
    )
    philtrum = np.array(
        [(-1.6, NOSE_Y + 5), (1.6, NOSE_Y + 5), (2, middle - top - 1.5), (-2, middle - top - 1.5)]
    )
    canvas.fill(philtrum, darker(skin, 0.6), alpha=0.35, blur=0.8)
    natural = mix(darker(skin, 0.78), (176, 70, 74), 0.38)
    lips = natural
    if "Wearing_Lipstick" in face.yes:
        lips = mix(_LIPSTICK[int(style.lip_shade * len(_LIPSTICK))], skin, 0.06)
    canvas.fill(np.concatenate([outer_top, inner_low]), darker(lips, 0.82), blur=0.3)
    canvas.fill(np.concatenate([outer_low, inner_top]), lips, blur=0.3)
    shine = 0.75 if "Wearing_Lipstick" in face.yes else 0.35
    canvas.fill(
        ellipse(0, middle + gap * 0.65 + bottom * 0.45, x * 0.4, bottom * 0.2),
        mix(lips, (255, 255, 255), 0.5),
        alpha=shine,
        blur=0.8,
    )
    if gap:
        hole = np.concatenate([inner_top, inner_low])
        canvas.fill(hole, (54, 14, 18))
        inside = canvas.mask(hole)
        teeth = curve([(-x * 0.8, corner - 2), (0, middle - 4), (x * 0.8, corner - 2), (x * 0.6, middle + gap * 0.18),
                       (0, middle + gap * 0.32), (-x * 0.6, middle + gap * 0.18)], True)  # fmt: skip
        canvas.fill(teeth, (242, 238, 226), clip=inside)
        canvas.lines([np.concatenate([inner_top, inner_low])], 0.7, darker(lips, 0.5), alpha=0.8)
    else:
        canvas.lines([inner_top], 1.3, darker(lips, 0.35), alpha=0.95)
    ends = [curve([(x - 1.5, corner + 0.4), (x + 1.8, corner - (1.2 if smiling else -0.6))])]
    if smiling:
        # Cheeks pushed up by the smile fold beside the mouth.
        ends.append(curve([(x + 4, corner - 9), (x + 6.2, corner - 3), (x + 4.5, corner + 4)]))
    canvas.lines([*ends, *map(mirror, ends)], 1.3, darker(skin, 0.42), alpha=0.75, blur=0.4)


def paint_neck(canvas: Canvas, face: Face) -> None:
    """Neck and the shadow of the chin on it; a second chin where there is one."""
    skin = face.skin
    half = face.width * face.pick("Male", 0.76, 0.58) + face.pick("Chubby", 4, 0)
    neck = curve([(-half, 30), (half, 30), (half, 70), (half + 4, 84), (half + 26, 110), (-half - 26, 110),
                  (-half - 4, 84), (-half, 70)], True)  # fmt: skip
    canvas.fill(neck, darker(skin, 0.86), depth=0)
    inside = canvas.mask(neck, depth=0)
    shadow = face.outline * np.array([0.95, 1.0]) + np.array([0, 7.0])
    canvas.fill(shadow, darker(skin, 0.35), alpha=0.85, blur=2.5, depth=0, clip=inside)
    tendons = [curve([(half * 0.7, 74), (5, 100)])]
    canvas.lines(
        [*tendons, *map(mirror, tendons)], 2, darker(skin, 0.6), alpha=0.4, blur=1.2, depth=0
    )
    if "Double_Chin" in face.yes:
        w = face.width * 0.62
        fold = curve(
            [
                (-w, face.chin - 14),
                (-w * 0.8, face.chin + 3),
                (0, face.chin + 12),
                (w * 0.8, face.chin + 3),
                (w, face.chin - 14),
            ]
        )
        canvas.fill(fold, mix(skin, (255, 244, 230), 0.08), depth=0, blur=0.6)
        canvas.lines([fold], 2.2, darker(skin, 0.38), alpha=0.9, blur=0.6, depth=0)
