r"""Group regions: from 68 landmarks to eight binary masks, rasterized inside the jitted step.

Masks are never stored: 68 points are 544 bytes, eight masks of 227x227 are 412 KB, and augmentation
moves the points exactly. How regions are drawn from landmarks is ours; 68 points hold neither ears
nor hair, so those two are geometric rules, scaled by the face's own size `s`, about one
inter-ocular distance:

             . - ~ ~ ~ - .           hair: a horseshoe from the brows over the head and down
          /    h a i r    \                both sides, out to 0.75 s beside the jaw
         |  .-~~~~~~~~~-.  |         ear:  a strip 0.45 s wide outside the jaw line, from above
         | /  ==     ==  \ |               the eye corner to below the lobe, where an earring hangs
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
"""Corners of a polygon, each (landmark, right, down): the landmark, moved by so many face sizes
along the face's own axes. "Left" is the image's left."""


def _mirrored(outline: Outline) -> Outline:
    return tuple((int(FLIP_INDEX[index]), -x, y) for index, x, y in reversed(outline))


def _whole(half: Outline) -> Outline:
    """Adds the right half to a left half; corners on the midline are their own mirror images."""
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
"""The polygons whose union is a region. Left and right are mirror images by construction. The mouth
is missing: its outline is the lips', moved outward."""


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

    def place(outline: Outline) -> Float[Array, "v 2"]:
        corners = np.array(outline, np.float32)
        # Not a matrix product: accelerators round its factors to fewer bits by default.
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
    """Whether each point has a non-zero winding number.

    Non-zero rather than even-odd, so that a polygon that winds twice around a point, as one folded
    by a turned head may, has no hole there.
    An edge counts for the points at or above its lower end and below its upper end, therefore two
    polygons that share an edge share no point.

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
    # Without the barrier XLA's CPU compiler computes the corners anew for every cell: 2.5 times
    # the run time.
    polygons = jax.lax.optimization_barrier(region_polygons(landmarks))
    masks = []
    for region in REGIONS:
        inside = [inside_polygon(points, polygon) for polygon in polygons[region]]
        masks.append(jnp.any(jnp.stack(inside), axis=0))
    return jnp.stack(masks, axis=-1)


def draw_masks(
    points: Float[Array, "b 68 2"], image_size: int, mask_size: int
) -> Bool[Array, "b m m 8"]:
    """The regions of each face, drawn inside the step: see `rasterize`."""
    draw = functools.partial(rasterize, image_size=image_size, mask_size=mask_size)
    return jax.vmap(draw)(points)
