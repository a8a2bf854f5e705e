r"""Group regions: eight binary masks, rasterized from 68 landmarks inside the jitted step.

Masks are never stored: 68 points take 544 bytes, eight masks of 227x227 take 412 KB, and points can
be augmented exactly. The outlines are ours. The 68 landmarks include neither ears nor hair, so
these regions are geometric rules in units of the face size `s`, about one inter-ocular distance:

             . - ~ ~ ~ - .           hair: a horseshoe from the brows over the head and down
          /    h a i r    \                both sides, out to 0.75 s beside the jaw
         |  .-~~~~~~~~~-.  |         ear:  a strip 0.45 s wide outside the jaw line, from above
         | /  ==     ==  \ |               the eye corner to below the lobe, to include earrings
      ear||  <o>  |  <o>  ||ear      eyes: brows to the bags under the eyes, bridge included
         || cheek | cheek ||         nose: bridge to wings and tip
         ||      ~^~      ||         cheeks: under the eyes to the jaw, up to the sideburns
           \    mouth    /           mouth: lips and the skin a beard or mustache grows on
            \   lower   /            lower_face: chin, jaw and neck, down to collar and necklace
              `- - - -'              object: the whole face, chin to hairline
              | neck  |

Coordinates are pixel indices of the crop, x then y: 0 is the center of the first pixel.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.data.alignment import FLIP_INDEX

MOUTH = slice(48, 60)  # outer lips
MOUTH_MARGIN = 0.32  # face sizes

Outline = tuple[tuple[int, float, float], ...]
"""Corners of a polygon, each (landmark, right, down): a landmark index and an offset in face sizes
along the face's own axes. "Left" means left in the image."""


def _mirrored(outline: Outline) -> Outline:
    return tuple((int(FLIP_INDEX[index]), -x, y) for index, x, y in reversed(outline))


def _whole(half: Outline) -> Outline:
    """Completes a left half by its mirror image. Corners on the midline occur once."""
    return half + tuple(corner for corner in _mirrored(half) if corner not in half)


_LEFT_CHEEK: Outline = (
    (36, -0.20, 0.15),
    (0, 0.06, -0.40),
    (0, -0.06, -0.40),
    *((index, -0.06, 0.0) for index in range(0, 4)),
    (4, 0.0, 0.0),
    (48, -0.12, 0.0),
    (31, -0.08, 0.0),
    (40, 0.0, 0.22),
    (41, 0.0, 0.22),
)
_LEFT_EAR: Outline = (
    (0, 0.05, -0.30),
    (0, -0.45, -0.35),
    (2, -0.45, 0.10),
    (4, -0.40, 0.05),
    (4, -0.05, 0.05),
    *((index, 0.05, 0.0) for index in range(3, -1, -1)),
)
OUTLINES: dict[str, tuple[Outline, ...]] = {
    "ear": (_LEFT_EAR, _mirrored(_LEFT_EAR)),
    "lower_face": (
        _whole(
            (
                (8, -0.90, 0.95),
                (5, -0.30, 0.95),
                (4, -0.05, 0.0),
                (48, -0.05, 0.10),
                (57, 0.0, 0.05),
            )
        ),
    ),
    "cheeks": (_LEFT_CHEEK, _mirrored(_LEFT_CHEEK)),
    "nose": (
        _whole(
            (
                (33, 0.0, 0.12),
                (31, -0.15, 0.10),
                (31, -0.22, -0.12),
                (27, -0.16, -0.05),
            )
        ),
    ),
    "eyes": (
        _whole(
            (
                (39, 0.08, 0.20),
                (40, 0.05, 0.38),
                (41, -0.05, 0.38),
                (36, -0.22, 0.20),
                (17, -0.10, 0.0),
                *((index, 0.0, -0.14) for index in range(17, 22)),
            )
        ),
    ),
    "hair": (
        _whole(
            (
                (19, 0.0, -0.30),
                (17, 0.0, -0.25),
                (0, -0.10, -0.25),
                (4, -0.35, 0.10),
                (4, -0.75, 0.10),
                (0, -0.75, 0.0),
                (17, -0.75, -0.75),
                (19, -0.50, -1.35),
                (27, 0.0, -1.95),
            )
        ),
    ),
    "object": (
        _whole(
            (
                *((index, 0.0, 0.0) for index in range(8, -1, -1)),
                (17, -0.15, -0.35),
                (19, 0.0, -0.75),
                (27, 0.0, -1.15),
            )
        ),
    ),
}
"""The polygons whose union is a region, mirror-symmetric by construction. `mouth` is not listed,
because its outline is that of the lips, moved outward."""


def face_frame(
    landmarks: Float[Array, "68 2"],
) -> tuple[Float[Array, "2"], Float[Array, "2"], Float[Array, ""]]:
    """Estimates the axes and the size of a face.

    The rightward axis is the sum of two estimates: the vector from eye to eye, and the vector from
    eyes to mouth rotated by 90 degrees. In profile, the first vanishes and the second remains.

    Returns:
      right: Unit vector towards larger x of an upright face.
      down: Unit vector from the eyes to the mouth, perpendicular to `right`.
      size: Pixels; one inter-ocular distance of an average frontal face.
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

    def place(outline: Outline) -> Float[Array, "v 2"]:
        corners = np.array(outline, np.float32)
        # No matrix product, for which accelerators round the factors to fewer bits by default.
        offset = corners[:, 1:2] * right + corners[:, 2:3] * down
        return landmarks[corners[:, 0].astype(int)] + size * offset

    polygons = {
        region: [place(outline) for outline in outlines] for region, outlines in OUTLINES.items()
    }
    lips = landmarks[MOUTH]
    outward = lips - lips.mean(0)
    distance = jnp.sqrt(jnp.sum(jnp.square(outward), axis=1, keepdims=True) + 1e-6)
    return {"mouth": [lips + MOUTH_MARGIN * size * outward / distance], **polygons}


def inside_polygon(points: Float[Array, "*n 2"], polygon: Float[Array, "v 2"]) -> Bool[Array, "*n"]:
    """True for each point with a non-zero winding number.

    Polygons of turned heads can fold over and wind twice around a point; the non-zero rule fills
    these parts, where the even-odd rule would leave a hole. Each edge covers a half-open interval
    of y, so that polygons that share an edge share no point.

    Examples:
        >>> triangle = jnp.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
        >>> inside_polygon(jnp.array([[1.0, 1.0], [3.0, 3.0]]), triangle).tolist()
        [True, False]
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
    """Draws the masks of one face, in the order of `REGIONS`.

    A cell belongs to a region if its center lies inside. Landmarks may lie outside the crop; the
    masks are clipped at its border.

    Args:
      landmarks: Landmarks in pixels of the crop.
      image_size: Side of the crop in pixels.
      mask_size: Side of the masks in cells. The masks cover the whole crop.
    """
    centers = (jnp.arange(mask_size) + 0.5) * (image_size / mask_size) - 0.5
    points = jnp.stack(jnp.meshgrid(centers, centers), axis=-1)
    # Without the barrier, XLA's CPU compiler recomputes the corners for every cell, which takes 2.5
    # times as long.
    polygons = jax.lax.optimization_barrier(region_polygons(landmarks))
    masks = []
    for region in REGIONS:
        inside = [inside_polygon(points, polygon) for polygon in polygons[region]]
        masks.append(jnp.any(jnp.stack(inside), axis=0))
    return jnp.stack(masks, axis=-1)


def draw_masks(
    points: Float[Array, "b 68 2"], image_size: int, mask_size: int
) -> Bool[Array, "b m m 8"]:
    """Draws the masks of a batch of faces, see `rasterize`."""
    draw = functools.partial(rasterize, image_size=image_size, mask_size=mask_size)
    return jax.vmap(draw)(points)
