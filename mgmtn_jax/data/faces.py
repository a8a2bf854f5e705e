"""The faces of a split: their records, and on demand their pixels."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
from absl import logging
from jaxtyping import Float32, Int64, UInt8

from mgmtn_jax.data import schema
from mgmtn_jax.data.images import ImageError, decode_image
from mgmtn_jax.data.tfrecord import TFRecordSource

Image = UInt8[np.ndarray, "height width 3"]


class StoredFace(NamedTuple):
    """A record without its pixels.

    Attributes:
      position: the record's place in the split.
      landmarks: pixels of the image that `FaceSource.decode` makes, x then y.
      landmarks_valid: False where no face was detected and the landmarks are a guess.
      labels: 1 yes, 0 no, -1 unknown.
      stored: what `FaceSource.decode` makes the image from.
    """

    position: int
    landmarks: Float32[np.ndarray, "68 2"]
    landmarks_valid: bool
    labels: Int64[np.ndarray, " attributes"]
    stored: Any


class FaceSource(Protocol):
    """The faces of a split by position; safe to read from many threads.

    Records and pixels are fetched apart, so that a batch can have its geometry computed at once and
    its images, which may be large photographs, decoded one after the other.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> StoredFace: ...

    def decode(self, face: StoredFace) -> tuple[StoredFace, Image]:
        """A face with its pixels: another face if this one's turn out to be damaged."""


class Faces:
    """The faces of a data set's split, decoded at every access.

    Args:
      source: payloads of the split.
      name: names the split in messages.
      on_corrupt: `raise` ends at the first damaged record; `skip` puts an intact record in its
        place, so that the number and order of all others stay what they were.
    """

    def __init__(self, source: TFRecordSource, name: str, on_corrupt: schema.OnCorrupt) -> None:
        if len(source) == 0:
            raise ValueError(f"{name} has no records")
        self.corrupt: set[int] = set()
        self._source, self._name, self._on_corrupt = source, name, on_corrupt
        # From a damaged record to the one that stands in for it: a step that is spread over the
        # split, because the records behind the damage of a shard are damaged too, and that meets
        # every record before it comes back.
        count = len(source)
        self._step = next(n for n in range(5 * count // 8, 2 * count) if math.gcd(n, count) == 1)

    def __len__(self) -> int:
        return len(self._source)

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
        except ValueError as error:  # The checksum is right, so it was written like this.
            raise ValueError(f"{self._name}: record {index}: {error}") from error
        return StoredFace(
            index,
            record.landmarks,
            record.landmark_source != schema.FALLBACK,
            record.labels,
            record.image,
        )

    def _skip(self, index: int, error: ValueError) -> int:
        """Counts a damaged record and names the one that stands in, or raises the error."""
        if self._on_corrupt == "raise":
            raise error
        if index not in self.corrupt:  # Once a record, not once an epoch.
            self.corrupt.add(index)
            logging.warning("skipped a damaged record, %d so far: %s", len(self.corrupt), error)
        return (index + self._step) % len(self)
