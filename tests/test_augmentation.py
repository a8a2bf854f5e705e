"""Augmentation stays within its ranges and follows its definitions."""

from __future__ import annotations

import math

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmtn_jax.data import alignment, augmentation
from mgmtn_jax.data.alignment import compose, transform_points
from mgmtn_jax.data.augmentation import NO_AUGMENTATION, Augmentation, alter_colors, movements

anytime = settings(deadline=None, max_examples=50)  # no deadline: the machine may be busy
SEEDS = st.integers(0, 2**32 - 1)


def numbers(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).random(count)


def altered(image: np.ndarray, seed: int, **ranges) -> np.ndarray:
    image = image.copy()
    alter_colors(image, numbers(seed, augmentation.NUM_COLOR), Augmentation(**ranges))
    return image


def color_waves(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    waves = [np.sin(x / 9.0 + y / 23.0), np.cos(y / 11.0), np.sin((x - y) / 17.0)]
    return np.stack([127.5 + 120 * wave for wave in waves], -1).astype(np.uint8)


@anytime
@given(SEEDS)
def test_movements_stay_in_their_ranges(seed):
    size, ranges = 112, Augmentation()
    (matrix,), (flip,) = movements(numbers(seed, 5)[None], ranges, size)
    assert (np.linalg.det(matrix[:, :2]) < 0) == flip
    if flip:
        matrix = compose(alignment.mirror(size), matrix)
    angle = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
    assert abs(angle) <= ranges.rotation
    assert 1 / 1.1 - 1e-9 <= math.hypot(*matrix[:, 0]) <= 1.1 + 1e-9
    center = np.array([(size - 1) / 2] * 2)
    (moved,) = transform_points(center[None], matrix)
    assert np.abs(moved - center).max() <= ranges.shift * size + 1e-9


@anytime
@given(SEEDS, st.floats(0, 180), st.floats(0, 0.5), st.floats(0, 0.3))
def test_crops_stay_within_the_stated_reach(seed, rotation, scale, shift):
    size, ranges = 112, Augmentation(rotation, scale, shift)
    matrices, _ = movements(numbers(seed, 50).reshape(10, 5), ranges, size)
    center = (size - 1) / 2
    corners = center + size / 2 * np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    for matrix in matrices:
        inverse = cv2.invertAffineTransform(matrix)
        farthest = np.abs(transform_points(corners, inverse) - center).max() / size
        assert farthest <= augmentation.reach(ranges) + 1e-9


def test_turning_a_part_off_does_not_change_the_others():
    def draw(**changes):
        return movements(numbers(3, 5)[None], Augmentation(flip=False, **changes), 112)[0][0]

    (still,), _ = movements(numbers(3, 5)[None], NO_AUGMENTATION, 112)
    np.testing.assert_allclose(still, [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(draw(shift=0.0)[:, :2], draw()[:, :2])


def test_colors_are_unchanged_by_default():
    np.testing.assert_array_equal(altered(color_waves(32), 0), color_waves(32))


@anytime
@given(SEEDS)
def test_color_changes_follow_their_definition(seed):
    image = color_waves(32)
    light = altered(image, seed, brightness=0.3)
    inside = (light > 0) & (light < 255) & (image > 20)
    ratio = light[inside] / image[inside]
    assert ratio.max() - ratio.min() < 0.06
    assert 0.65 < ratio.mean() < 1.35

    middle = np.full((8, 8, 3), 128, np.uint8)
    assert np.abs(altered(middle, seed, contrast=0.5) - 128.0).max() <= 1

    gray = np.repeat(image[..., :1], 3, 2)
    assert np.abs(altered(gray, seed, saturation=1.0) - gray.astype(int)).max() <= 1


@anytime
@given(SEEDS)
def test_erasing_paints_one_rectangle(seed):
    image = np.tile(np.arange(100, dtype=np.uint8)[:, None, None] * 2 + 1, (1, 100, 3))
    image += np.arange(100, dtype=np.uint8)[None, :, None]
    erased = altered(image, seed, erase=1.0)
    rows, columns = np.nonzero((erased != image).any(-1))
    box = erased[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert len(np.unique(box.reshape(-1, 3), axis=0)) == 1
    assert 0.01 < box.shape[0] * box.shape[1] / 100**2 < 0.22
