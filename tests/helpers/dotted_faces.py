"""Faces made of 68 colored dots, one color per landmark, and data sets of them."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import schema, tfrecord

_GRID = np.array(list(itertools.product((0, 85, 170, 255), (40, 100, 160, 220), range(0, 256, 51))))
COLORS = np.random.default_rng(0).permutation(_GRID)[:68]
"""(68, 3) The color of each landmark's dot; any two differ by at least 51 in some channel."""


def face_points(size: float = 300.0) -> np.ndarray:
    """(68, 2) Landmarks of an upright, symmetric face in an image of `size`, in iBUG order."""

    def ring(x, y, across, down, count):  # Clockwise from the left end.
        angle = 2 * np.pi * np.arange(count) / count
        return np.stack([x - across * np.cos(angle), y - down * np.sin(angle)], 1)

    along = np.linspace(0, 1, 5)
    jaw = np.pi * np.arange(17) / 16
    points = [
        np.stack([-0.27 * np.cos(jaw), 0.45 + 0.38 * np.sin(jaw)], 1),
        np.stack([-0.2 + 0.14 * along, 0.35 - 0.03 * np.sin(np.pi * along)], 1),
        np.stack([0.06 + 0.14 * along, 0.35 - 0.03 * np.sin(np.pi * along)], 1),
        np.stack([np.zeros(4), np.linspace(0.43, 0.55, 4)], 1),
        np.stack([-0.08 + 0.16 * along, 0.59 + 0.01 * np.sin(np.pi * along)], 1),
        ring(-0.13, 0.43, 0.055, 0.04, 6),
        ring(0.13, 0.43, 0.055, 0.04, 6),
        ring(0.0, 0.71, 0.12, 0.07, 12),
        ring(0.0, 0.71, 0.075, 0.03, 8),
    ]
    fractions = np.concatenate(points) + np.array([0.5, 0.0])
    return fractions * size - 0.5


def dotted_image(points: np.ndarray, size: int = 300) -> np.ndarray:
    """Draws an RGB image with a dot at every point."""
    image = np.full((size, size, 3), 128, np.uint8)
    for (x, y), color in zip(points, COLORS.tolist(), strict=True):
        cv2.circle(image, (round(x * 16), round(y * 16)), 4 * 16, color, -1, shift=4)
    return image


def nearest_colors(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(68,) The landmark whose color is nearest to the image's color at each point."""
    x, y = np.rint(points).astype(int).T
    return np.abs(image[y, x][:, None].astype(int) - COLORS).sum(-1).argmin(1)


NUM_BITS = 6


def write_dataset(folder, count: int, *, fallbacks=(), images=None) -> None:
    """Writes a data set with the split `train` in two shards. Record i has the key `face-i` and the
    bits of i as labels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    records = []
    for index in range(count):
        points = face_points() + rng.uniform(-8, 8, 2)
        encoded = cv2.imencode(".png", dotted_image(points)[..., ::-1])[1].tobytes()
        record = schema.Record(
            key=f"face-{index}",
            image=(images or {}).get(index, encoded),
            landmarks=points.astype(np.float32),
            face_box=np.array([60, 60, 240, 240], np.float32),
            landmark_source=schema.FALLBACK if index in fallbacks else schema.HOG,
            labels=(index >> np.arange(NUM_BITS)) & 1,
        )
        records.append(schema.serialize(record))
    half = count // 2
    for shard, part in enumerate((records[:half], records[half:])):
        tfrecord.write_tfrecord(folder / schema.shard_name("train", shard, 2), part)
    names = AttributeSet.create([f"bit_{bit}" for bit in range(NUM_BITS)])
    schema.write_metadata(folder, names, {"train": [half, count - half]})


def record_indices(batch) -> list[int]:
    """The record number of each row, read from its labels."""
    return (batch["labels"].astype(int) << np.arange(NUM_BITS)).sum(1).tolist()
