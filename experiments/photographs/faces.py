"""What the processes that find faces do: from a file to aligned crops, and from masks to a picture.

They start in a second because nothing here needs JAX.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from landmarks import workers
from landmarks.detector import LFW_BOX, Detector
from mgmtn_jax.data import alignment
from mgmtn_jax.data.images import ImageError, decode_image
from mgmtn_jax.report import pictures

_PICTURE_SIZE = 224  # pixels a side of an overlay
_of_thread = threading.local()  # dlib's detector keeps its pyramid in itself.


class DetectedFace(NamedTuple):
    """A face that is ready for the network.

    Attributes:
      file: the image, as it was named.
      number: of the face in its image.
      box: left, top, right, bottom in pixels of the upright image; None for aligned crops.
      image: the aligned crop.
      landmarks: x then y in pixels of the crop; None for aligned crops.
      picture: the same crop at another size, for people.
    """

    file: Path
    number: int
    box: list[float] | None
    image: UInt8[np.ndarray, "s s 3"]
    landmarks: Float[np.ndarray, "68 2"] | None
    picture: UInt8[np.ndarray, "p p 3"]


class Find(Protocol):
    """How a file becomes faces of `size` pixels a side; in any number of threads or processes.

    Raises:
      ImageError, OSError: if the file cannot be read.
    """

    def __call__(self, path: Path, size: int) -> list[DetectedFace]: ...


@dataclasses.dataclass(frozen=True)
class FaceFinder:
    """Finds and aligns the faces of a file, the surest first; a `Find`.

    Attributes:
      upsample: how often images are doubled first.
      max_pixels: of an image.
    """

    upsample: int
    max_pixels: int

    def __call__(self, path: Path, size: int) -> list[DetectedFace]:
        return self.in_bytes(path.read_bytes(), size, path)

    def in_bytes(self, data: bytes, size: int, path: Path = Path()) -> list[DetectedFace]:
        """The same of the bytes of a file that is not there."""
        image = decode_image(data, self.max_pixels)
        faces = []
        for number, found in enumerate(_detector(self.upsample).find_all(image)):
            matrix = alignment.align(found.landmarks, size)
            view = alignment.align(found.landmarks, _PICTURE_SIZE)
            faces.append(
                DetectedFace(
                    file=path,
                    number=number,
                    box=[round(float(side), 1) for side in found.box],
                    image=alignment.warp(image, matrix, size),
                    landmarks=alignment.transform_points(found.landmarks, matrix),
                    picture=alignment.warp(image, view, _PICTURE_SIZE),
                )
            )
        return faces


@dataclasses.dataclass(frozen=True)
class AlignedCrop:
    """Takes a file for one face, square and aligned already; a `Find`.

    Attributes:
      max_pixels: of an image.
    """

    max_pixels: int

    def __call__(self, path: Path, size: int) -> list[DetectedFace]:
        image = decode_image(path.read_bytes(), self.max_pixels)
        height, width = image.shape[:2]
        if height != width:
            raise ImageError(f"{width}x{height} pixels are no aligned crop, which would be square")
        crop, picture = _resized(image, size), _resized(image, _PICTURE_SIZE)
        return [DetectedFace(path, 0, None, crop, None, picture)]


def write_overlay(path: Path, face: np.ndarray, masks: np.ndarray) -> None:
    """Writes `pictures.overlay` as PNG.

    Raises:
      OSError: if it cannot be written.
    """
    Image.fromarray(pictures.overlay(face, masks)).save(path, compress_level=1)


def begin_worker() -> None:
    """Makes a new process one that works for its parent, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # A terminal sends Ctrl-C to all of them.
    threading.Thread(target=workers.exit_with_parent, daemon=True).start()
    cv2.setNumThreads(0)  # The processes are the parallelism.


def _detector(upsample: int) -> Detector:
    known = _of_thread.__dict__.setdefault("detectors", {})
    if upsample not in known:
        known[upsample] = Detector("hog", LFW_BOX, upsample)
    return known[upsample]


def _resized(image: np.ndarray, size: int) -> UInt8[np.ndarray, "s s 3"]:
    scale = size / image.shape[0]
    offset = scale / 2 - 0.5  # Pixels' centers have whole coordinates.
    return alignment.warp(image, np.array([[scale, 0, offset], [0, scale, offset]]), size)
