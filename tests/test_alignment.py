"""Alignment moves points and pixels together, for any face and size."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import skimage.transform
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mgmtn_jax.data import alignment
from mgmtn_jax.data.alignment import align, compose, transform_points, warp
from mgmtn_jax.data.augmentation import Augmentation, movements
from tests.helpers.dotted_faces import COLORS, dotted_image, face_points, nearest_colors

anytime = settings(deadline=None, max_examples=50)  # no deadline: the machine may be busy
SEEDS = st.integers(0, 2**32 - 1)
FACE = face_points()


def similarity(scale: float, degrees: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    cos, sin = (scale * f(math.radians(degrees)) for f in (math.cos, math.sin))
    return np.array([[cos, -sin, x], [sin, cos, y]])


def scale_of(matrix: np.ndarray) -> float:
    return math.sqrt(abs(np.linalg.det(matrix[:, :2])))


def resize(scale: float) -> np.ndarray:
    return np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]])


def smooth_image(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9.0 + y / 23.0), np.cos(y / 11.0), np.sin((x - y) / 17.0)]
    return np.stack([127.5 + 120 * wave for wave in waves], -1).astype(np.uint8)


def test_flip_index_reorders_a_mirrored_face():
    mirrored = FACE * [-1, 1] + [299, 0]
    np.testing.assert_allclose(mirrored[alignment.FLIP_INDEX], FACE, atol=1e-9)
    np.testing.assert_array_equal(alignment.FLIP_INDEX[alignment.FLIP_INDEX], np.arange(68))


@anytime
@given(
    st.floats(0.1, 10),
    st.floats(-180, 180),
    st.floats(-500, 500),
    st.floats(-500, 500),
    st.sampled_from([32, 112, 224]),
)
def test_a_moved_face_gives_the_same_crop(scale, degrees, x, y, size):
    moved = transform_points(FACE, similarity(scale, degrees, x, y))
    expected = transform_points(FACE, align(FACE, size))
    np.testing.assert_allclose(transform_points(moved, align(moved, size)), expected, atol=1e-6)


def test_eyes_and_mouth_land_on_their_canonical_places():
    points = (transform_points(FACE, align(FACE, 200)) + 0.5) / 200
    eyes, mouth = points[36:48].mean(0), points[[48, 54]].mean(0)
    np.testing.assert_allclose(eyes, [0.5, alignment.EYE_HEIGHT], atol=0.01)
    np.testing.assert_allclose(mouth, [0.5, alignment.MOUTH_HEIGHT], atol=0.01)


def test_crops_of_two_sizes_show_the_same_part_of_the_image():
    small, large = (transform_points(FACE, align(FACE, size)) for size in (56, 224))
    np.testing.assert_allclose((small + 0.5) * 4 - 0.5, large, atol=1e-9)


@anytime
@given(st.floats(0, 1), st.floats(-90, 90), st.booleans())
def test_a_face_in_profile_is_not_enlarged(width, degrees, left):
    turned = transform_points((FACE - 150) * [-width if left else width, 1], similarity(1, degrees))
    if left:
        turned = turned[alignment.FLIP_INDEX]
    frontal, profile = scale_of(align(FACE, 112)), scale_of(align(turned, 112))
    assert 0.99 * frontal < profile < 1.25 * frontal


def test_coinciding_points_are_only_translated():
    matrix = align(np.full((68, 2), 40.0), 112)
    assert scale_of(matrix) == pytest.approx(1)
    assert (np.abs(transform_points(np.array([[40.0, 40.0]]), matrix) - 56) < 6).all()


@anytime
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=136, max_size=136))
def test_any_finite_points_give_a_similarity_without_shear_or_reflection(values):
    matrix = align(np.array(values, np.float32).reshape(68, 2), 112)
    (a, b, _), (c, d, _) = matrix
    assert np.isfinite(matrix).all()
    assert (a, b) == (d, -c)


def test_non_finite_points_are_refused():
    landmarks = FACE.copy()
    landmarks[40, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        align(landmarks, 112)


@anytime
@given(
    st.floats(0.06, 3),
    st.floats(-180, 180),
    st.booleans(),
    st.floats(-0.2, 0.2),
    st.floats(-0.2, 0.2),
)
def test_the_warp_moves_dots_with_their_points(scale, degrees, flip, x, y):
    size, radius = 120, max(6.0, 4 / scale)
    center = np.array([301.3, 288.8])
    v, u = np.mgrid[:600, :600]
    dot = 255 * np.exp(-((u - center[0]) ** 2 + (v - center[1]) ** 2) / (2 * radius**2))
    image = np.repeat(dot[..., None], 3, 2).astype(np.uint8)
    matrix = similarity(scale, degrees)
    matrix[:, 2] = np.array([0.5 + x, 0.5 + y]) * size - transform_points(center[None], matrix)[0]
    if flip:
        matrix = compose(alignment.mirror(size), matrix)
    crop = warp(image, matrix, size)[..., 0].astype(float)
    row, column = np.unravel_index(crop.argmax(), crop.shape)
    (expected,) = transform_points(center[None], matrix)
    # The centroid of a window about the peak, because the crop's border may cut a wide dot.
    reach = math.ceil(2.5 * radius * scale)
    if reach < min(row, column, size - 1 - row, size - 1 - column):
        crop = crop[row - reach : row + reach + 1, column - reach : column + reach + 1]
        v, u = np.mgrid[row - reach : row + reach + 1, column - reach : column + reach + 1]
        found = np.array([(crop * u).sum(), (crop * v).sum()]) / crop.sum()
        np.testing.assert_allclose(found, expected, atol=0.25)
    else:
        np.testing.assert_allclose([column, row], expected, atol=4)


@anytime
@given(SEEDS, st.sampled_from([200, 224, 300]))  # None of them shrinks to less than half.
def test_the_warp_agrees_with_scikit_image(seed, size):
    image = smooth_image(250, 300)
    numbers = np.random.default_rng(seed).random((1, 5))
    (movement,), _ = movements(numbers, Augmentation(shift=0.3), size)
    matrix = compose(movement, align(FACE, size))
    inverse = skimage.transform.AffineTransform(np.linalg.inv(np.vstack([matrix, [0, 0, 1]])))
    expected = skimage.transform.warp(
        image, inverse, output_shape=(size, size), order=1, mode="edge", preserve_range=True
    )
    assert np.abs(warp(image, matrix, size) - expected).max() <= 3


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_shrinking_by_a_power_of_two_is_the_mean_of_the_cells(factor):
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).reduce(factor), int)
    crop = warp(image, resize(1 / factor), 256 // factor)
    assert np.abs(crop - expected).max() <= 1


@pytest.mark.parametrize("scale", [0.05, 0.11, 0.23, 0.4])
@pytest.mark.parametrize("degrees", [0, 8, 45])
def test_shrinking_does_not_alias(scale, degrees):
    stripes = np.zeros((901, 903, 3), np.uint8)
    stripes[:, ::2] = 255
    matrix = similarity(scale, degrees)
    matrix[:, 2] = 15.5 - transform_points(np.array([[450.0, 450.0]]), matrix)[0]
    crop = warp(stripes, matrix, 32)[4:-4, 4:-4].astype(float)
    # The finest stripes average to gray; skipped pixels would leave coarse black and white.
    assert np.abs(crop - 127.5).mean() < 5
    aliased = cv2.warpAffine(stripes, matrix, (32, 32))[4:-4, 4:-4]
    assert np.abs(aliased - 127.5).mean() > 25


def test_enlarging_keeps_half_pixels():
    image = smooth_image(40, 40)
    crop = warp(image, resize(2.0), 80)
    assert np.abs(crop - cv2.resize(image, (80, 80)).astype(int)).max() <= 1


@pytest.mark.parametrize("offset", [(0, 0), (-5000, 0), (0, 5000), (90, -70), (1e6, 1e6)])
@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 40.0])
def test_edge_pixels_are_repeated_outside_the_image(offset, scale):
    flat = np.full((70, 50, 3), (10, 20, 30), np.uint8)
    matrix = similarity(scale, 30, *offset)
    np.testing.assert_array_equal(
        warp(flat, matrix, 24), np.broadcast_to((10, 20, 30), (24, 24, 3))
    )


def test_an_image_wider_than_opencv_can_warp():
    image = np.zeros((8, 40_000, 3), np.uint8)
    image[:, 39_000:39_010] = 200
    crop = warp(image, similarity(1, 0, -38_999.0, 0.0), 12)
    np.testing.assert_array_equal(crop[4, :, 0], [0] + [200] * 10 + [0])


@anytime
@given(SEEDS)
def test_mirroring_twice_changes_nothing(seed):
    mirror = alignment.mirror(112)
    np.testing.assert_array_equal(compose(mirror, mirror), [[1, 0, 0], [0, 1, 0]])
    (matrix,), _ = movements(np.random.default_rng(seed).random((1, 5)), Augmentation(), 112)
    twice = compose(mirror, compose(mirror, matrix))
    np.testing.assert_allclose(twice, matrix, atol=1e-9)


def test_landmarks_stay_on_their_dots_after_a_flip():
    image = dotted_image(FACE)
    for flip in (False, True):
        matrix = align(FACE, 224)
        if flip:
            matrix = compose(alignment.mirror(224), matrix)
        points = transform_points(FACE, matrix)
        points = points[alignment.FLIP_INDEX] if flip else points
        seen = nearest_colors(warp(image, matrix, 224), points)
        np.testing.assert_array_equal(seen, alignment.FLIP_INDEX if flip else np.arange(68))
        assert points[36, 0] < points[45, 0]
    assert len(np.unique(COLORS, axis=0)) == 68
