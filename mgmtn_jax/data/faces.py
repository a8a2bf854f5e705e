"""The faces of a split: their records, and on demand their pixels."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from absl import logging
from jaxtyping import Float32, Int8, UInt8

from mgmtn_jax.data import schema
from mgmtn_jax.data.images import ImageError, decode_image
from mgmtn_jax.data.tfrecord import TFRecordSource

OnCorrupt = Literal["raise", "skip"]
Image = UInt8[np.ndarray, "height width 3"]


class Face(NamedTuple):
    """A record without its pixels.

    Attributes:
      position: the record's place in the split.
      landmarks: pixels of the image that `FaceSource.decode` makes, x then y.
      landmarks_valid: False where no face was detected and the landmarks are a guess.
      attributes: 1 yes, 0 no, -1 unknown.
      stored: what `FaceSource.decode` makes the image from.
    """

    position: int
    landmarks: Float32[np.ndarray, "68 2"]
    landmarks_valid: bool
    attributes: Int8[np.ndarray, " attributes"]
    stored: Any


class FaceSource(Protocol):
    """The faces of a split by position; safe to read from many threads.

    Records and pixels are fetched apart, so that a batch can have its geometry computed at once and
    its images, which may be large photographs, decoded one after the other.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Face: ...

    def decode(self, face: Face) -> tuple[Face, Image]:
        """A face with its pixels: another face if this one's turn out to be damaged."""


class Faces:
    """The faces of a data set's split, decoded at every access.

    Args:
      source: payloads of the split.
      name: names the split in messages.
      on_corrupt: `raise` ends at the first damaged record; `skip` puts the next intact record in
        its place, so that the number and order of all others stay what they were.
    """

    def __init__(self, source: TFRecordSource, name: str, on_corrupt: OnCorrupt) -> None:
        if on_corrupt not in ("raise", "skip"):
            raise ValueError(f"on_corrupt must be 'raise' or 'skip', not {on_corrupt!r}")
        if len(source) == 0:
            raise ValueError(f"{name} has no records")
        self.corrupt: set[int] = set()
        self._source, self._name, self._on_corrupt = source, name, on_corrupt

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Face:
        for position in range(index, index + len(self)):
            try:
                return self._read(position % len(self))
            except ValueError as error:
                self._skip(position % len(self), error)
        raise ValueError(f"{self._name} has no intact record")

    def decode(self, face: Face) -> tuple[Face, Image]:
        for _ in range(len(self)):
            try:
                return face, decode_image(face.stored)
            except ImageError as error:
                located = ValueError(f"{self._name}: record {face.position}: {error}")
                self._skip(face.position, located)
            face = self[(face.position + 1) % len(self)]
        raise ValueError(f"{self._name} has no intact record")

    def _read(self, index: int) -> Face:
        payload = self._source[index]
        try:
            record = schema.parse(payload)
        except ValueError as error:  # The checksum is right, so it was written like this.
            raise ValueError(f"{self._name}: record {index}: {error}") from error
        return Face(
            index,
            record.landmarks,
            record.landmark_source != schema.FALLBACK,
            record.attributes.astype(np.int8),
            record.image,
        )

    def _skip(self, index: int, error: ValueError) -> None:
        """Counts a damaged record, or raises the error."""
        if self._on_corrupt == "raise":
            raise error
        if index not in self.corrupt:  # Once a record, not once an epoch.
            self.corrupt.add(index)
            logging.warning("skipped a damaged record, %d so far: %s", len(self.corrupt), error)
