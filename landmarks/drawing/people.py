"""The people to draw: labels with plausible correlations, and styles for everything else.

Labels and styles come from different random streams, so that neither carries information about the
other.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int8

from mgmtn_jax.attributes import CELEBA_ATTRIBUTES

UNKNOWN: tuple[str, ...] = ("Attractive", "Pale_Skin")
"""Attributes that are unknown for every drawn face. The first is an opinion, and the second would
tie a label to the skin tone, which is independent of every other attribute."""

HAIR_COLORS: tuple[str, ...] = ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")


def draw_labels(rng: np.random.Generator) -> Int8[np.ndarray, "40"]:
    """Draws one label vector in CelebA's order: 1 positive, 0 negative, -1 unknown.

    Positive rates follow CelebA's loosely. Rare attributes are made more frequent (every known one
    has at least about 5 % positives), so that a few thousand faces suffice to learn all of them.
    """
    # Always 40 random numbers, whatever is decided, so that the stream stays aligned.
    u = dict(zip(CELEBA_ATTRIBUTES, rng.random(len(CELEBA_ATTRIBUTES)), strict=True))
    yes: dict[str, bool] = {}

    def draw(name: str, rate: float) -> bool:
        yes[name] = bool(u[name] < rate)
        return yes[name]

    male = draw("Male", 0.45)
    young = draw("Young", 0.65)
    hat = draw("Wearing_Hat", 0.12)

    # A hat hides the crown, so attributes that show only there are negative under it.
    bald = draw("Bald", 0.0 if hat or not male else 0.14 if young else 0.28)
    draw(
        "Receding_Hairline", 0.0 if hat or bald else (0.12 if young else 0.5) * (1 if male else 0.3)
    )
    bangs_rate = 0.12 if male else 0.35
    draw("Bangs", 0.0 if hat or bald or yes["Receding_Hairline"] else bangs_rate)
    color = _choose(u["Black_Hair"], (0.28, 0.22, 0.3, 0.0) if young else (0.16, 0.14, 0.18, 0.42))
    for i, name in enumerate(HAIR_COLORS):
        yes[name] = not bald and color == i
    texture = _choose(u["Wavy_Hair"], (0.28, 0.3) if male else (0.42, 0.32))
    textured = not bald and not (hat and male)
    yes["Wavy_Hair"], yes["Straight_Hair"] = textured and texture == 0, textured and texture == 1

    # Facial hair: none, stubble, goatee or full beard; a mustache alone is not a beard.
    beard = _choose(u["No_Beard"], (0.45, 0.22, 0.17, 0.16)) if male else 0
    yes["No_Beard"] = beard == 0
    yes["5_o_Clock_Shadow"] = beard == 1
    yes["Goatee"] = beard == 2
    draw("Mustache", 0.0 if not male else (0.2, 0.1, 0.5, 0.7)[beard])
    draw("Sideburns", 0.0 if not male or bald else (0.18, 0.25, 0.3, 0.65)[beard])

    lipstick = draw("Wearing_Lipstick", 0.02 if male else 0.6)
    draw("Heavy_Makeup", 0.02 if male else 0.6 if lipstick else 0.15)
    draw("Wearing_Earrings", 0.05 if male else 0.4)
    necktie = draw("Wearing_Necktie", 0.22 if male else 0.0)
    draw("Wearing_Necklace", 0.0 if necktie else 0.06 if male else 0.33)
    draw("Eyeglasses", 0.15 if young else 0.28)
    draw("Arched_Eyebrows", 0.15 if male else 0.42)
    draw("Bushy_Eyebrows", 0.35 if male else 0.1)
    draw("Bags_Under_Eyes", (0.3 if male else 0.15) + (0.0 if young else 0.15))
    draw("Narrow_Eyes", 0.2)

    smiling = draw("Smiling", 0.45)
    draw("High_Cheekbones", 0.7 if smiling else 0.22)
    draw("Mouth_Slightly_Open", 0.65 if smiling else 0.3)
    draw("Rosy_Cheeks", 0.06 if male else 0.3 if yes["Heavy_Makeup"] else 0.18)
    draw("Big_Lips", 0.28)
    big_nose = draw("Big_Nose", 0.35 if male else 0.2)
    draw("Pointy_Nose", 0.0 if big_nose else 0.4)
    chubby = draw("Chubby", 0.14)
    draw("Double_Chin", 0.55 if chubby else 0.06)
    draw("Oval_Face", 0.0 if chubby else 0.36)
    draw("Blurry", 0.1)
    return np.array([-1 if name in UNKNOWN else yes[name] for name in CELEBA_ATTRIBUTES], np.int8)


def _choose(u: float, rates: tuple[float, ...]) -> int:
    """The index of the interval, of lengths `rates`, that contains u; len(rates) past the last."""
    return int(np.searchsorted(np.cumsum(rates), u, side="right"))


@dataclasses.dataclass(frozen=True)
class Style:
    """Everything about a person that the labels leave open.

    Every field is uniform in [0, 1); the painting functions define its meaning.
    """

    skin: float
    skin_hue: float
    hair_shade: float
    hair_length: float
    hair_volume: float
    other_hair: float
    parting: float
    iris: float
    gaze: float
    eye_size: float
    eye_tilt: float
    brow_height: float
    brow_weight: float
    face_width: float
    face_length: float
    jaw: float
    chin: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lip_shade: float
    makeup: float
    smile: float
    opening: float
    light_side: float
    light_strength: float
    glasses: float
    glasses_color: float
    hat: float
    hat_color: float
    earring: float
    tie_color: float
    necklace: float
    blur: float
    wrinkles: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Style:
        fields = dataclasses.fields(cls)
        values = rng.random(len(fields)).tolist()
        return cls(**{field.name: value for field, value in zip(fields, values, strict=True)})
