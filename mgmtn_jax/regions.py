"""Group regions: from 68 landmarks to eight binary masks, rasterized inside the jitted step.

Masks are never stored: 68 points are 544 bytes, eight masks of 227x227 are 412 KB, and augmentation
moves the points exactly. How regions are drawn from landmarks is ours; 68 points hold neither ears
nor hair, so those two are geometric rules, scaled by the face's own size `s`, about one
inter-ocular distance:

            . - ~ ~ ~ - .            hair: a horseshoe from the brows over the head and down
         /    h a i r     \\               both sides, out to 0.75 s beside the jaw
        |  .-~~~~~~~~~-.   |         ear:  a strip 0.45 s wide outside the jaw line, from above
        | /  ==     ==  \\  |               the eye corner to below the lobe, where an earring hangs
     ear||  <o>  |  <o>  ||ear       eyes: brows to the bags under the eyes, bridge included
        || cheek |  cheek||          nose: bridge to wings and tip
        ||      ~^~      ||          cheeks: under the eyes to the jaw, up to the sideburns
         \\    mouth     /            mouth: lips and the skin a beard or mustache grows on
           \\ lower    /              lower_face: chin, jaw and neck, down to collar and necklace
             `- - - -'               object: the whole face, chin to hairline
             | neck |

Coordinates are pixel indices of the crop, x then y: 0 is the center of the first pixel.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mgmtn_jax.attributes import REGIONS

JAW, RIGHT_JAW = 0, 16  # ends of the jaw line, beside the eyes
NOSE_BRIDGE, NOSE_LEFT, NOSE_BASE, NOSE_RIGHT = 27, 31, 33, 35
MOUTH = slice(48, 60)  # outer lips
MOUTH_LEFT, MOUTH_RIGHT, LIP_BOTTOM = 48, 54, 57


def face_frame(
    landmarks: Float[Array, "68 2"],
) -> tuple[Float[Array, "2"], Float[Array, "2"], Float[Array, ""]]:
    """The face's own axes and size.

    Two estimates of the rightward vector are added: from eye to eye, and from the eyes to the mouth
    turned by a right angle. In profile the first one vanishes and the second one stands.

    Returns:
      right: unit vector towards larger x of an upright face.
      down: unit vector from the eyes to the mouth, at a right angle to `right`.
      size: pixels; one inter-ocular distance of an average frontal face.
    """
    left_eye, right_eye = landmarks[36:42].mean(0), landmarks[42:48].mean(0)
    drop = landmarks[MOUTH].mean(0) - (left_eye + right_eye) / 2
    across = (right_eye - left_eye) + jnp.stack([drop[1], -drop[0]])
    length = jnp.sqrt(jnp.sum(jnp.square(across)) + 1e-6)
    right = across / length
    down = jnp.stack([-right[1], right[0]])
    return right, down, length / 2.1


def region_polygons(
    landmarks: Float[Array, "68 2"],
) -> dict[str, list[Float[Array, "v 2"]]]:
    """The polygons whose union is each region, in pixels of the landmarks' image."""
    right, down, size = face_frame(landmarks)

    def at(index: int, x: float = 0.0, y: float = 0.0) -> Float[Array, "2"]:
        """A landmark moved by (x, y) face sizes along the face's own axes."""
        return landmarks[index] + size * (x * right + y * down)

    def path(*points: Float[Array, "2"]) -> Float[Array, "v 2"]:
        return jnp.stack(points)

    # --- points that lie on no landmark
    lips = landmarks[MOUTH]
    outward = lips - lips.mean(0)
    distance = jnp.sqrt(jnp.sum(jnp.square(outward), axis=1, keepdims=True) + 1e-6)

    mouth = lips + 0.28 * size * outward / distance
    nose = path(
        at(NOSE_BRIDGE, -0.16, -0.05),
        at(NOSE_BRIDGE, 0.16, -0.05),
        at(NOSE_RIGHT, 0.22, -0.12),
        at(NOSE_RIGHT, 0.15, 0.10),
        at(NOSE_BASE, 0.0, 0.12),
        at(NOSE_LEFT, -0.15, 0.10),
        at(NOSE_LEFT, -0.22, -0.12),
    )
    eyes = path(
        at(17, -0.10, 0.0),
        *[at(index, 0.0, -0.14) for index in range(17, 27)],
        at(26, 0.10, 0.0),
        at(45, 0.22, 0.20),
        at(46, 0.05, 0.38),
        at(47, -0.05, 0.38),
        at(42, -0.08, 0.20),
        at(39, 0.08, 0.20),
        at(40, 0.05, 0.38),
        at(41, -0.05, 0.38),
        at(36, -0.22, 0.20),
    )
    left_cheek = path(
        at(36, -0.20, 0.15),
        at(JAW, 0.06, -0.40),
        at(JAW, -0.06, -0.40),
        *[at(index, -0.06) for index in range(0, 4)],
        at(4),
        at(MOUTH_LEFT, -0.12),
        at(NOSE_LEFT, -0.08, 0.0),
        at(40, 0.0, 0.22),
        at(41, 0.0, 0.22),
    )
    right_cheek = path(
        at(45, 0.20, 0.15),
        at(RIGHT_JAW, -0.06, -0.40),
        at(RIGHT_JAW, 0.06, -0.40),
        *[at(index, 0.06) for index in range(16, 12, -1)],
        at(12),
        at(MOUTH_RIGHT, 0.12),
        at(NOSE_RIGHT, 0.08, 0.0),
        at(47, 0.0, 0.22),
        at(46, 0.0, 0.22),
    )
    left_ear = path(
        at(JAW, 0.05, -0.30),
        at(JAW, -0.45, -0.35),
        at(2, -0.45, 0.10),
        at(4, -0.40, 0.05),
        at(4, -0.05, 0.05),
        *[at(index, 0.05) for index in range(3, -1, -1)],
    )
    right_ear = path(
        at(RIGHT_JAW, -0.05, -0.30),
        at(RIGHT_JAW, 0.45, -0.35),
        at(14, 0.45, 0.10),
        at(12, 0.40, 0.05),
        at(12, 0.05, 0.05),
        *[at(index, -0.05) for index in range(13, 17)],
    )
    lower_face = path(
        at(MOUTH_LEFT, -0.05, 0.10),
        at(4, -0.05),
        at(5, -0.30, 0.95),
        at(8, -0.90, 0.95),
        at(8, 0.90, 0.95),
        at(11, 0.30, 0.95),
        at(12, 0.05),
        at(MOUTH_RIGHT, 0.05, 0.10),
        at(LIP_BOTTOM, 0.0, 0.05),
    )
    hair = path(
        at(4, -0.35, 0.10),
        at(4, -0.75, 0.10),
        at(JAW, -0.75, 0.0),
        at(17, -0.75, -0.75),
        at(19, -0.50, -1.35),
        at(NOSE_BRIDGE, 0.0, -1.95),
        at(24, 0.50, -1.35),
        at(26, 0.75, -0.75),
        at(RIGHT_JAW, 0.75, 0.0),
        at(12, 0.75, 0.10),
        at(12, 0.35, 0.10),
        at(RIGHT_JAW, 0.10, -0.25),
        at(26, 0.0, -0.25),
        at(24, 0.0, -0.30),
        at(19, 0.0, -0.30),
        at(17, 0.0, -0.25),
        at(JAW, -0.10, -0.25),
    )
    face = path(
        *[landmarks[index] for index in range(17)],
        at(26, 0.15, -0.35),
        at(24, 0.0, -0.75),
        at(NOSE_BRIDGE, 0.0, -1.15),
        at(19, 0.0, -0.75),
        at(17, -0.15, -0.35),
    )
    return {
        "mouth": [mouth],
        "ear": [left_ear, right_ear],
        "lower_face": [lower_face],
        "cheeks": [left_cheek, right_cheek],
        "nose": [nose],
        "eyes": [eyes],
        "hair": [hair],
        "object": [face],
    }


def inside_polygon(points: Float[Array, "*n 2"], polygon: Float[Array, "v 2"]) -> Bool[Array, "*n"]:
    """Whether each point has a non-zero winding number.

    Non-zero rather than even-odd, so that a polygon that a profile folds over itself has no holes.
    An edge counts for the points at or above its lower end and below its upper end, therefore two
    polygons that share an edge share no point.
    """
    x, y = points[..., :1], points[..., 1:]
    x0, y0 = polygon[:, 0], polygon[:, 1]
    x1, y1 = jnp.roll(x0, -1), jnp.roll(y0, -1)
    side = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)
    upward = (y0 <= y) & (y < y1) & (side > 0)
    downward = (y1 <= y) & (y < y0) & (side < 0)
    winding = jnp.sum(upward, axis=-1) - jnp.sum(downward, axis=-1)
    return winding != 0


def rasterize(
    landmarks: Float[Array, "68 2"], image_size: int, mask_size: int
) -> Bool[Array, "m m 8"]:
    """Draws the eight regions of one face, in the order of `REGIONS`.

    A cell belongs to a region if its center lies inside. Points may lie outside the image; what
    falls outside is cut off.

    Args:
      landmarks: in pixels of the crop.
      image_size: pixels a side of the crop.
      mask_size: cells a side of the masks, which cover the whole crop.
    """
    centers = (jnp.arange(mask_size) + 0.5) * (image_size / mask_size) - 0.5
    points = jnp.stack(jnp.meshgrid(centers, centers), axis=-1)
    polygons = region_polygons(landmarks)
    masks = []
    for region in REGIONS:
        inside = [inside_polygon(points, polygon) for polygon in polygons[region]]
        masks.append(jnp.any(jnp.stack(inside), axis=0))
    return jnp.stack(masks, axis=-1)
