"""Decode once: pixels kept in memory or on disk, so that every further epoch only warps.

What is kept is a part of the source image, not of a crop: the pixels that any augmented crop can
touch, averaged down as far as every one of them would be. A crop is therefore still resampled once,
and comes out as without the cache.
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

_SAMPLES = 64
_DISK_FULL = "the disk under $TMPDIR has no room for the decoded faces: take data.cache=none"


def cached(
    faces: FaceSource, storage: Storage, augmentation: Augmentation, size: int
) -> FaceSource:
    """The same faces, each decoded the first time it is asked for.

    Args:
      faces: what to read from.
      storage: `ram`; `disk` for a nameless file in $TMPDIR that is gone when the process ends;
        `none` to decode at every access.
      augmentation: decides how much of an image a crop can touch.
      size: side of the crops in pixels.

    Raises:
      ValueError: if `storage` is none of the three, or has no room for the faces.
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
    told = (
        f"data.cache={storage}: {len(faces)} decoded faces take about {needed / 1e9:.2f} GB, and "
        f"{free / 1e9:.2f} GB of {place} are free"
    )
    if needed > free:
        raise ValueError(told)
    logging.info(told)
    return CachedFaces(faces, margin, _Memory() if storage == "ram" else _File())


class Margin(NamedTuple):
    """The part of an image that any crop of a face can touch.

    Attributes:
      size: side of the crops in pixels.
      reach: see `augmentation.reach`.
      zoom: by how much an augmented crop may be larger or smaller than the unmoved one.
    """

    size: int
    reach: float
    zoom: float

    @classmethod
    def of(cls, augmentation: Augmentation, size: int) -> Margin:
        return cls(size, reach(augmentation), 1.0 + augmentation.scale)

    def cut(self, face: StoredFace, image: Image) -> tuple[StoredFace, Image]:
        """No more of an image than is needed, averaged down as far as any crop is."""
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
    """Faces that are read from a source once and kept. Safe to read from many threads."""

    def __init__(self, faces: FaceSource, margin: Margin, store: _Store) -> None:
        self._faces, self._margin, self._store = faces, margin, store
        self._kept: list[StoredFace | None] = [None] * len(faces)

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, index: int) -> StoredFace:
        kept = self._kept[index]
        if kept is None:
            # Two threads may both come here. Both read the same face, and the later one's is kept.
            face, image = self._margin.cut(*self._faces.decode(self._faces[index]))
            kept = self._kept[index] = face._replace(stored=self._store.put(image))
        return kept

    def decode(self, face: StoredFace) -> tuple[StoredFace, Image]:
        return face, self._store.get(face.stored)


class _Store(Protocol):
    def put(self, image: Image) -> Any:
        """Keeps an image; returns what `get` finds it by."""

    def get(self, handle: Any) -> Image: ...


class _Memory:
    def put(self, image: Image) -> Image:
        return image

    def get(self, handle: Image) -> Image:
        return handle


class _File:
    """Images one behind the other in a file that has no name, so that no kill leaves it behind."""

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
        if written != image.nbytes:  # The last write that finds some room is cut short.
            raise OSError(_DISK_FULL)
        return offset, image.shape

    def get(self, handle: tuple[int, tuple[int, ...]]) -> Image:
        offset, shape = handle
        data = os.pread(self._file, int(np.prod(shape)), offset)
        return np.frombuffer(data, np.uint8).reshape(shape)
