"""Cache of decoded images, in memory or on disk: after the first epoch, faces are only warped.

The cache holds part of the source image, not a crop: the pixels that any augmented crop can touch,
averaged down by the factor that all of these crops share. A crop is therefore still resampled once,
and equals the crop without the cache to one gray level.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import threading
import weakref
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import psutil
from absl import logging

from mgmtn_jax.data import alignment
from mgmtn_jax.data.augmentation import Augmentation, reach
from mgmtn_jax.data.faces import FaceSource, Image, StoredFace

Storage = Literal["none", "ram", "disk"]

_SAMPLES = 64  # faces decoded to estimate the size of the cache
_DISK_FULL = "the disk of $TMPDIR has no room for the decoded faces: set data.cache=none"


def cached(
    faces: FaceSource,
    storage: Storage,
    augmentation: Augmentation,
    size: int,
    local_process_count: int = 1,
) -> FaceSource:
    """Wraps a face source so that each face is decoded only at its first access.

    Args:
      faces: The source to cache.
      storage: `ram`; `disk` for an unnamed file in $TMPDIR that disappears with the process; `none`
        to decode at every access.
      augmentation: The augmentation, which determines the pixels that a crop can touch.
      size: Side of the crops in pixels.
      local_process_count: Number of processes of this host that create such a cache. Each of them
        ends up with the whole split, because each epoch deals the records out anew.

    Raises:
      ValueError: `storage` is unknown, or too small for the caches of all local processes.
    """
    if storage == "none":
        return faces
    if storage == "ram":
        free, place = psutil.virtual_memory().available, "memory"
    elif storage == "disk":
        free, place = shutil.disk_usage(tempfile.gettempdir()).free, tempfile.gettempdir()
    else:
        raise ValueError(f"data.cache must be 'none', 'ram' or 'disk', not {storage!r}")
    margin = Margin.of(augmentation, size)
    chosen = range(0, len(faces), max(1, len(faces) // _SAMPLES))
    sizes = [margin.cut(*faces.decode(faces[index]))[1].nbytes for index in chosen]
    needed = sum(sizes) / len(sizes) * len(faces)
    owners = f" in each of {local_process_count} processes" if local_process_count > 1 else ""
    sizes_text = (
        f"data.cache={storage}: {len(faces)} decoded faces take about {needed / 1e9:.2f} GB"
        f"{owners}, and {free / 1e9:.2f} GB of {place} are free"
    )
    if needed * local_process_count > free:
        others = "'disk' or 'none'" if storage == "ram" else "'none'"
        raise ValueError(f"{sizes_text}: set data.cache to {others}")
    logging.info(sizes_text)
    return CachedFaces(faces, margin, _Memory() if storage == "ram" else _File())


class Margin(NamedTuple):
    """The part of an image that any augmented crop of a face can touch.

    Attributes:
      size: Side of the crops in pixels.
      reach: Distance from the crop's center that an augmented crop can reach, in sides; see
        `augmentation.reach`.
      zoom: Largest factor by which augmentation enlarges or shrinks a crop.
    """

    size: int
    reach: float
    zoom: float

    @classmethod
    def of(cls, augmentation: Augmentation, size: int) -> Margin:
        return cls(size, reach(augmentation), 1.0 + augmentation.scale)

    def cut(self, face: StoredFace, image: Image) -> tuple[StoredFace, Image]:
        """Cuts the touched part out of an image and averages it down by the common factor."""
        matrix = alignment.align(face.landmarks, self.size)
        scale = math.hypot(*matrix[:, 0])
        factor = alignment.shrink_factor(scale * self.zoom)
        coarsest = alignment.shrink_factor(scale / self.zoom)
        box = alignment.touched(matrix, self.size, coarsest, image, self.reach)
        image, wide, tall = alignment.average(image[box], factor)
        corner = np.array([box[1].start, box[0].start])
        landmarks = (face.landmarks - corner + 0.5) / (wide, tall) - 0.5
        return face._replace(landmarks=landmarks.astype(np.float32)), np.ascontiguousarray(image)


class CachedFaces:
    """Faces that are read from a source once and then kept. Thread-safe."""

    def __init__(self, faces: FaceSource, margin: Margin, store: _Store) -> None:
        self._faces, self._margin, self._store = faces, margin, store
        self._kept: list[StoredFace | None] = [None] * len(faces)

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, index: int) -> StoredFace:
        kept = self._kept[index]
        if kept is None:
            # Two threads may race here. Both read the same face, and the later result is kept.
            face, image = self._margin.cut(*self._faces.decode(self._faces[index]))
            kept = self._kept[index] = face._replace(stored=self._store.put(image))
        return kept

    def decode(self, face: StoredFace) -> tuple[StoredFace, Image]:
        return face, self._store.get(face.stored)


class _Store(Protocol):
    def put(self, image: Image) -> Any:
        """Stores an image and returns the handle that `get` takes."""

    def get(self, handle: Any) -> Image: ...


class _Memory:
    def put(self, image: Image) -> Image:
        return image

    def get(self, handle: Image) -> Image:
        return handle


class _File:
    """Images back to back in an unlinked file, which the system frees even after a SIGKILL."""

    def __init__(self) -> None:
        self._file, path = tempfile.mkstemp(prefix="decoded-faces-")
        os.unlink(path)
        weakref.finalize(self, os.close, self._file)
        self._end, self._lock = 0, threading.Lock()

    def put(self, image: Image) -> tuple[int, tuple[int, ...]]:
        with self._lock:
            offset, self._end = self._end, self._end + image.nbytes
        try:
            written = os.pwrite(self._file, image.data, offset)
        except OSError as error:
            raise OSError(f"{_DISK_FULL} ({error.strerror})") from error
        if written != image.nbytes:  # A write that only partly fits is cut short without an error.
            raise OSError(_DISK_FULL)
        return offset, image.shape

    def get(self, handle: tuple[int, tuple[int, ...]]) -> Image:
        offset, shape = handle
        data = os.pread(self._file, int(np.prod(shape)), offset)
        return np.frombuffer(data, np.uint8).reshape(shape)
