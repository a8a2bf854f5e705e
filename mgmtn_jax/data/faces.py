"""The faces of a split by position: records first, pixels on demand."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
from absl import logging
from jaxtyping import Float32, Int64, UInt8

from mgmtn_jax.data import schema
from mgmtn_jax.data.folds import Records
from mgmtn_jax.data.images import ImageError, decode_image

Image = UInt8[np.ndarray, "height width 3"]


class StoredFace(NamedTuple):
    """A face whose image is not decoded yet.

    Attributes:
      position: Position of the record in the split.
      landmarks: 68 points in pixels of the image that `FaceSource.decode` returns, x then y.
      landmarks_valid: False where no face was detected and the landmarks are a fixed guess.
      labels: 1 positive, 0 negative, -1 unknown.
      stored: Handle from which `FaceSource.decode` produces the image.
    """

    position: int
    landmarks: Float32[np.ndarray, "68 2"]
    landmarks_valid: bool
    labels: Int64[np.ndarray, " attributes"]
    stored: Any


class FaceSource(Protocol):
    """Thread-safe random access to the faces of a split.

    Records and pixels are fetched separately: the geometry of a batch is computed at once, and its
    images, which may be large photographs, are decoded one at a time.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> StoredFace: ...

    def decode(self, face: StoredFace) -> tuple[StoredFace, Image]:
        """Returns a face and its RGB image; another face if this one's image is damaged."""


class Faces:
    """The faces of a split, decoded at every access.

    Args:
      source: The serialized records of the split.
      name: Name of the split in messages.
      on_corrupt: `raise` fails at the first damaged record; `skip` replaces it by an intact record,
        which keeps the number and order of all others.

    Attributes:
      corrupt: Positions of the damaged records found so far.
    """

    def __init__(self, source: Records, name: str, on_corrupt: schema.OnCorrupt) -> None:
        if len(source) == 0:
            raise ValueError(f"{name} has no records")
        self.corrupt: set[int] = set()
        self._source, self._name, self._on_corrupt = source, name, on_corrupt
        # The distance from a damaged record to its replacement. It is large, because damage to a
        # shard affects all records behind it, and coprime to the count, so that repeated steps
        # reach every record.
        count = len(source)
        self._step = next(n for n in range(5 * count // 8, 2 * count) if math.gcd(n, count) == 1)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def lengths(self) -> list[int]:
        """The number of faces, of this one data set."""
        return [len(self)]

    def __getitem__(self, index: int) -> StoredFace:
        for _ in range(len(self)):
            try:
                return self._read(index)
            except ValueError as error:
                index = self._skip(index, error)
        raise ValueError(f"{self._name} has no intact record")

    def decode(self, face: StoredFace) -> tuple[StoredFace, Image]:
        for _ in range(len(self)):
            try:
                return face, decode_image(face.stored)
            except ImageError as error:
                located = ValueError(f"{self._name}: record {face.position}: {error}")
                face = self[self._skip(face.position, located)]
        raise ValueError(f"{self._name} has no intact record")

    def _read(self, index: int) -> StoredFace:
        payload = self._source[index]
        try:
            record = schema.parse(payload)
        except ValueError as error:  # The checksum matches, so it was written this way.
            raise ValueError(f"{self._name}: record {index}: {error}") from error
        return StoredFace(
            index,
            record.landmarks,
            record.landmark_source != schema.FALLBACK,
            record.labels,
            record.image,
        )

    def _skip(self, index: int, error: ValueError) -> int:
        """Counts a damaged record and returns the position of its replacement, or raises."""
        if self._on_corrupt == "raise":
            raise error
        if index not in self.corrupt:  # Count each record once, not once per epoch.
            self.corrupt.add(index)
            logging.warning("skipped a damaged record, %d so far: %s", len(self.corrupt), error)
        return (index + self._step) % len(self)
