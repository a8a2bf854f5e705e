"""Polygons follow the face, and the rasterizer agrees with independent ones."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.draw

from mgmtn_jax import regions
from mgmtn_jax.attributes import REGIONS
from mgmtn_jax.data.alignment import FLIP_INDEX
from tests.helpers.average_face import (
    FACES,
    FRONTAL,
    IMAGE,
    MIDDLE,
    OUTLINES,
    moved,
    random_faces,
    turned_head,
)

CELLS = 56
STEP = IMAGE / CELLS

FRAMES = jax.jit(jax.vmap(regions.face_frame))
POLYGONS = jax.jit(jax.vmap(regions.region_polygons))


@functools.cache
def rasterizer(cells: int = CELLS):
    rasterize = functools.partial(regions.rasterize, image_size=IMAGE, mask_size=cells)
    return jax.jit(jax.vmap(rasterize))


def draw(faces: np.ndarray) -> np.ndarray:
    """(n, CELLS, CELLS, 8) Masks, drawn in parts of equal size to compile only once."""
    count = len(faces)
    faces = np.concatenate([faces, np.zeros((-count % 128, 68, 2))]).astype(np.float32)
    masks = [np.asarray(rasterizer()(faces[i : i + 128])) for i in range(0, len(faces), 128)]
    return np.concatenate(masks)[:count]


def polygons_of(faces: np.ndarray) -> dict[str, list[np.ndarray]]:
    return jax.tree.map(np.asarray, POLYGONS(faces.astype(np.float32)))


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return random_faces(0)


@pytest.fixture(scope="module")
def masks(faces) -> np.ndarray:
    return draw(faces)


def intersects_itself(polygons: np.ndarray) -> np.ndarray:
    """(n,) True for polygons that cross themselves."""
    a, b = polygons, np.roll(polygons, -1, axis=1)

    def side(p, q, r):
        (px, py), (qx, qy), (rx, ry) = (np.moveaxis(v, -1, 0) for v in (p, q, r))
        return np.sign((qx - px) * (ry - py) - (qy - py) * (rx - px))

    a1, b1, a2, b2 = a[:, :, None], b[:, :, None], a[:, None], b[:, None]
    apart = side(a1, b1, a2) * side(a1, b1, b2) < 0
    return (apart & (side(a2, b2, a1) * side(a2, b2, b1) < 0)).any((1, 2))


def test_masks_equal_those_of_skimage(faces, masks):
    # skimage fills by the even-odd rule and ours is non-zero winding. They differ only where a
    # polygon crosses itself, so those faces are left to the winding test below.
    polygons = polygons_of(faces)
    for channel, region in enumerate(REGIONS):
        simple = ~np.any([intersects_itself(p) for p in polygons[region]], axis=0)
        assert simple.sum() >= 1000, region
        worst = 1.0
        for face in np.flatnonzero(simple):
            expected = np.zeros((CELLS, CELLS), bool)
            for polygon in polygons[region]:
                # Pixel indices to cell indices: both put 0 at the center of the first.
                x, y = ((polygon[face].astype(np.float64) + 0.5) / STEP - 0.5).T
                expected[skimage.draw.polygon(y, x, expected.shape)] = True
            union = (masks[face, :, :, channel] | expected).sum()
            if union:
                both = (masks[face, :, :, channel] & expected).sum()
                worst = min(worst, both / union)
        assert worst >= 0.98, (region, worst)


def test_masks_equal_winding_numbers_by_angles(faces, masks):
    # Folded polygons too: the angle that each polygon turns about a cell's center is summed.
    rng = np.random.default_rng(1)
    cells = rng.integers(0, CELLS, (FACES, 60, 2))
    centers = ((cells + 0.5) * STEP - 0.5) @ (1, 1j)
    polygons = polygons_of(faces)
    for channel, region in enumerate(REGIONS):
        expected = np.zeros(cells.shape[:2], bool)
        for polygon in polygons[region]:
            arms = polygon.astype(np.float64) @ (1, 1j)
            arms = arms[:, None] - centers[..., None]
            turns = np.angle(np.roll(arms, -1, axis=-1) / arms).sum(-1) / (2 * math.pi)
            expected |= np.rint(turns) != 0
        drawn = masks[np.arange(FACES)[:, None], cells[..., 1], cells[..., 0], channel]
        assert (drawn != expected).mean() < 1e-4, region


def test_masks_of_any_size_cover_the_crop_alike():
    # Centers of mass would move by a pixel if cells were placed by their corners.
    turned = [moved(FRONTAL, 0.5, degrees) for degrees in np.linspace(0, 360, 128)]
    turned = np.stack(turned).astype(np.float32)

    def centers(masks: np.ndarray) -> np.ndarray:
        axis = (np.arange(masks.shape[1]) + 0.5) * (IMAGE / masks.shape[1])
        masks = masks / masks.sum((1, 2), keepdims=True)
        return np.stack([np.einsum(how, masks, axis) for how in ("nyxr,x->nr", "nyxr,y->nr")])

    difference = centers(np.asarray(rasterizer(28)(turned))) - centers(draw(turned))
    np.testing.assert_allclose(difference.mean(1), 0, atol=0.1)


def test_a_mirrored_face_has_mirrored_masks(faces, masks):
    mirrored = (faces[:512] * [-1, 1] + [IMAGE - 1, 0])[:, FLIP_INDEX]
    # Cells whose center lies on an edge may differ by rounding.
    assert (draw(mirrored) != masks[:512, :, ::-1]).mean() < 1e-5


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_crop_has_turned_masks(faces, masks, quarters):
    turned = moved(faces[:256], 1.0, 90 * quarters)
    expected = np.rot90(masks[:256], -quarters, axes=(1, 2))
    assert (draw(turned) != expected).mean() < 1e-5


def test_polygons_follow_every_similarity(faces):
    rng = np.random.default_rng(2)
    how = (
        rng.uniform(0.3, 3, (FACES, 1)),
        rng.uniform(-180, 180, (FACES, 1)),
        *rng.uniform(-200, 200, (2, FACES, 1)),
    )
    expected, got = polygons_of(faces), polygons_of(moved(faces, *how))
    for region in REGIONS:
        for before, after in zip(expected[region], got[region], strict=True):
            np.testing.assert_allclose(after, moved(before, *how), atol=0.01)


def test_one_face_equals_its_row_of_a_batch(faces, masks):
    alone = jax.jit(regions.rasterize, static_argnums=(1, 2))
    for face in (3, 17):
        assert (np.asarray(alone(faces[face], IMAGE, CELLS)) != masks[face]).mean() < 1e-4


def test_masks_are_clipped_at_the_border(masks):
    shifted = draw(np.stack([FRONTAL, FRONTAL - [IMAGE / 2, 0], FRONTAL + IMAGE * 5]))
    np.testing.assert_array_equal(shifted[1, :, : CELLS // 2], shifted[0, :, CELLS // 2 :])
    assert not shifted[2].any()


def test_the_frame_of_an_upright_face():
    right, down, size = (np.asarray(value)[0] for value in FRAMES(FRONTAL[None]))
    np.testing.assert_allclose(right, [1, 0], atol=1e-5)
    np.testing.assert_allclose(down, [0, 1], atol=1e-5)
    eyes = FRONTAL[42:48].mean(0) - FRONTAL[36:42].mean(0)
    assert size == pytest.approx(eyes[0], rel=0.1)


def test_a_profile_keeps_its_frame():
    heads = turned_head(np.array([-90.0, -75.0, 75.0, 90.0])) * (IMAGE / 4)
    line = heads[:1] * [0, 1]  # all points under each other
    right, down, size = (np.asarray(value) for value in FRAMES(np.concatenate([heads, line])))
    assert (down[:, 1] > 0.9).all()
    np.testing.assert_allclose((right * down).sum(-1), 0, atol=1e-6)
    assert (size > 0.45 * IMAGE / 4).all()


def test_a_face_near_profile_keeps_its_regions():
    heads = turned_head(np.array([-75.0, -60.0, 60.0, 75.0])) * (IMAGE / 4)
    heads += np.array([MIDDLE, 0.4 * IMAGE])
    assert (draw(heads).sum((1, 2)) >= 20).all()


def test_points_that_coincide_give_empty_masks_and_no_nan():
    points = np.full((1, 68, 2), 40.0, np.float32)
    assert np.isfinite(np.concatenate([np.ravel(v) for v in FRAMES(points)])).all()
    for polygons in polygons_of(points).values():
        for polygon in polygons:
            np.testing.assert_allclose(polygon, 40.0, atol=0.01)
    assert draw(points).sum() <= len(REGIONS)


SHARES = {  # of the crop that an aligned frontal face fills, percent
    "mouth": (4, 9),
    "ear": (6, 14),
    "lower_face": (8, 18),
    "cheeks": (7, 14),
    "nose": (3, 7),
    "eyes": (7, 15),
    "hair": (25, 45),
    "object": (30, 45),
}


def test_an_aligned_face_fills_plausible_shares_of_the_crop():
    masks = draw(FRONTAL[None])[0]
    for channel, (least, most) in enumerate(SHARES[region] for region in REGIONS):
        assert least < 100 * masks[..., channel].mean() < most, REGIONS[channel]
    # What is left to no region is background, beside and above the head.
    assert masks.any(-1).mean() > 0.6
    assert masks[8:, CELLS // 2 - 4 : CELLS // 2 + 4].any(-1).mean() > 0.95


@pytest.mark.parametrize("region", REGIONS)
def test_outlines_are_those_that_networks_were_trained_with(region):
    polygon = polygons_of(FRONTAL[None])[region][0][0].astype(np.float64)
    (x, y), (next_x, next_y) = polygon.T, np.roll(polygon, -1, axis=0).T
    area = abs((x * next_y - next_x * y).sum()) / 2
    np.testing.assert_allclose([x.mean(), y.mean(), area], OUTLINES[region], rtol=1e-3)


INNER = [*range(36, 68), *range(28, 36)]  # eyes, nose, mouth
HELD = {
    "mouth": range(48, 68),
    "ear": (),
    "lower_face": range(6, 11),
    "cheeks": (),
    "nose": (28, 29, 30, 31, 32, 33, 34, 35),
    "eyes": (*range(17, 28), *range(36, 48)),
    "hair": (),
    "object": INNER,
}
KEPT_OUT = {
    "mouth": (27, 28, 29, *range(36, 48)),
    "ear": (*range(6, 11), *INNER),
    "lower_face": range(17, 48),
    "cheeks": (8, 27, 28, 29, 30, 33, 51, 57, *range(17, 27)),
    "nose": (8, *range(17, 27), *range(36, 68)),
    "eyes": (*range(1, 16), *range(30, 36), *range(48, 68)),
    "hair": (*range(5, 12), *range(17, 27), *INNER),
    "object": (),
}


@functools.cache
def held_by_region(yaw: float, places: tuple[tuple[float, float], ...] = ()) -> np.ndarray:
    """(8, 68) True where a region contains a landmark, or a place in inter-ocular distances."""
    points = turned_head(np.array([yaw]))[0]
    places = np.resize(places, (68, 2)) if places else points
    return np.asarray(_held(*np.float32([points, places]) * (IMAGE / 4)))


@jax.jit
def _held(face, points):
    polygons = regions.region_polygons(face)
    inside = functools.partial(regions.inside_polygon, points)
    return jnp.stack([sum(map(inside, polygons[region])) > 0 for region in REGIONS])


@pytest.mark.parametrize("yaw", [-25, 0, 25])
@pytest.mark.parametrize("region", REGIONS)
def test_regions_contain_their_landmarks(region, yaw):
    held = held_by_region(yaw)[REGIONS.index(region)]
    assert held[list(HELD[region])].all()
    assert not held[list(KEPT_OUT[region])].any()


@pytest.mark.parametrize(
    ("region", "x", "y"),
    [
        ("hair", 0.0, -1.3),  # above the forehead
        ("hair", 0.9, -0.9),
        ("hair", 1.5, 0.5),  # beside the ear
        ("ear", 1.3, 0.3),
        ("ear", 1.25, 1.1),  # an earring under the lobe
        ("cheeks", 0.75, 0.6),
        ("cheeks", 1.1, 0.1),  # a sideburn
        ("lower_face", 0.0, 1.7),
        ("lower_face", 0.0, 2.4),  # a tie
        ("mouth", 0.0, 1.0),  # a mustache
        ("mouth", 0.0, 1.55),
        ("eyes", 0.5, 0.3),  # a bag under the eye
        ("object", 0.0, -0.7),
    ],
)
def test_regions_contain_places_without_a_landmark(region, x, y):
    assert held_by_region(0, ((x, y), (-x, y)))[REGIONS.index(region)].all()
