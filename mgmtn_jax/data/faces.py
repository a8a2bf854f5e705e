"""The faces of a split, decoded on demand."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
from absl import logging
from jaxtyping import Float32, Int8, UInt8

from mgmtn_jax.data import schema
from mgmtn_jax.data.images import decode_image
from mgmtn_jax.data.tfrecord import TFRecordSource

OnCorrupt = Literal["raise", "skip"]


class Face(NamedTuple):
    """A decoded record.

    Attributes:
      position: the record's place in the split.
      image: RGB.
      landmarks: pixels of `image`, x then y.
      landmarks_valid: False where no face was detected and the landmarks are a guess.
      attributes: 1 yes, 0 no, -1 unknown.
    """

    position: int
    image: UInt8[np.ndarray, "height width 3"]
    landmarks: Float32[np.ndarray, "68 2"]
    landmarks_valid: bool
    attributes: Int8[np.ndarray, " attributes"]


class FaceSource(Protocol):
    """Faces by position; safe to read from many threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Face: ...


class Faces:
    """The faces of a split, decoded at every access.

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
                if self._on_corrupt == "raise":
                    raise
                self._report(position % len(self), error)
        raise ValueError(f"{self._name} has no intact record")

    def _read(self, index: int) -> Face:
        payload = self._source[index]
        try:
            record = schema.parse(payload)
            if not np.isfinite(record.landmarks).all():
                raise ValueError("its landmarks are not finite")
            image = decode_image(record.image)
        except ValueError as error:  # The checksum is right, so it was written like this.
            raise ValueError(f"{self._name}: record {index}: {error}") from error
        return Face(
            index,
            image,
            record.landmarks,
            record.landmark_source != schema.FALLBACK,
            record.attributes.astype(np.int8),
        )

    def _report(self, index: int, error: ValueError) -> None:
        if index not in self.corrupt:  # Once a record, not once an epoch.
            self.corrupt.add(index)
            logging.warning("skipped a damaged record, %d so far: %s", len(self.corrupt), error)
