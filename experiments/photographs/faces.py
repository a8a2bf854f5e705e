"""The work of the face-finding processes: image file to aligned crops, and masks to an overlay.

Nothing here imports JAX, which takes longer than the rest of a process's start.
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

from landmarks import processes
from landmarks.detection import LFW_BOX, Detection
from landmarks.detector import Detector
from mgmtn_jax.data import alignment
from mgmtn_jax.data.images import ImageError, decode_image, read_image
from mgmtn_jax.report import pictures

_PICTURE_SIZE = 224  # side of an overlay in pixels
# One detector per thread: dlib's detector stores its image pyramid in itself.
_thread_local = threading.local()


class DetectedFace(NamedTuple):
    """A face, cropped for the network and for display.

    Attributes:
      file: Path of the image as the user named it.
      number: Index of the face in its image, in order of decreasing detection score.
      found: The detection, in pixels of the upright image; None for aligned crops.
      image: Aligned RGB crop of the network's input size.
      landmarks: The 68 points, x then y, in pixels of the crop; None for aligned crops.
      picture: The same crop at display size.
    """

    file: Path
    number: int
    found: Detection | None
    image: UInt8[np.ndarray, "s s 3"]
    landmarks: Float[np.ndarray, "68 2"] | None
    picture: UInt8[np.ndarray, "p p 3"]

    @property
    def box(self) -> list[float] | None:
        """Left, top, right, bottom in pixels of the upright image; None for aligned crops."""
        return None if self.found is None else [round(float(side), 1) for side in self.found.box]

    @property
    def score(self) -> float | None:
        """The detector's score; None for aligned crops."""
        return None if self.found is None else self.found.score


class FindFaces(Protocol):
    """A function from an image file to face crops of `size` pixels a side.

    It is picklable and thread-safe.

    Raises:
      ImageError, OSError: If the file cannot be read.
    """

    def __call__(self, path: Path, size: int) -> list[DetectedFace]: ...


@dataclasses.dataclass(frozen=True)
class FaceFinder:
    """Detects and aligns the faces of an image, highest detection score first; a `FindFaces`.

    Attributes:
      upsample: Number of times to double the image size before detection.
      max_pixels: Largest accepted image, in pixels.
      tilted: Look again at quarter turns of an image in which no face is found.
      min_score: Lowest score of a face, see `Detector.find_all`.
    """

    upsample: int
    max_pixels: int
    tilted: bool = False
    min_score: float = 0.0

    def prepare(self) -> None:
        """Loads dlib's models, which the first photograph would wait for."""
        _detector(self.upsample)

    def __call__(self, path: Path, size: int) -> list[DetectedFace]:
        return self.from_bytes(read_image(path), size, path)

    def from_bytes(self, data: bytes, size: int, path: Path = Path()) -> list[DetectedFace]:
        """Detects and aligns the faces of an encoded image that is already in memory.

        Args:
          data: The image file's bytes.
          size: Side of the crops in pixels.
          path: File name to store in the results.
        """
        return self.from_image(decode_image(data, self.max_pixels), size, path)

    def from_image(
        self, image: UInt8[np.ndarray, "height width 3"], size: int, path: Path = Path()
    ) -> list[DetectedFace]:
        """Detects and aligns the faces of an upright RGB image; the arguments of `from_bytes`."""
        faces = []
        for number, found in enumerate(self._find_all(image)):
            matrix = alignment.align(found.landmarks, size)
            view = alignment.align(found.landmarks, _PICTURE_SIZE)
            faces.append(
                DetectedFace(
                    file=path,
                    number=number,
                    found=found,
                    image=alignment.warp(image, matrix, size),
                    landmarks=alignment.transform_points(found.landmarks, matrix),
                    picture=alignment.warp(image, view, _PICTURE_SIZE),
                )
            )
        return faces

    def _find_all(self, image: UInt8[np.ndarray, "height width 3"]) -> list[Detection]:
        find_all = _detector(self.upsample).find_all
        detections = find_all(image, self.min_score)
        for turns in (1, 3, 2) if self.tilted else ():
            if not detections:
                turned = find_all(np.ascontiguousarray(np.rot90(image, turns)), self.min_score)
                detections = [_turned_back(found, turns, image) for found in turned]
        return detections


def _turned_back(found: Detection, turns: int, image: np.ndarray) -> Detection:
    """A face found in `np.rot90(image, turns)`, in the pixels of the image itself."""
    points = np.concatenate([found.landmarks, found.box.reshape(2, 2)])
    for turn in reversed(range(turns)):
        width = image.shape[1 - turn % 2]  # Before this turn.
        points = np.stack([width - 1 - points[:, 1], points[:, 0]], axis=1)
    corners = points[-2:]
    box = np.concatenate([corners.min(0), corners.max(0)])
    return found._replace(landmarks=points[:-2].astype(np.float32), box=box.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class AlignedCrop:
    """Treats an image as one face that is already aligned and square; a `FindFaces`.

    Attributes:
      max_pixels: Largest accepted image, in pixels.
    """

    max_pixels: int

    def __call__(self, path: Path, size: int) -> list[DetectedFace]:
        image = decode_image(read_image(path), self.max_pixels)
        height, width = image.shape[:2]
        if height != width:
            raise ImageError(f"an aligned crop must be square, and this is {width}x{height} pixels")
        crop, picture = _resized(image, size), _resized(image, _PICTURE_SIZE)
        return [DetectedFace(path, 0, None, crop, None, picture)]


def write_overlay(path: Path, face: np.ndarray, masks: np.ndarray) -> None:
    """Writes a face under its masks (`pictures.overlay`) as a PNG file.

    Raises:
      OSError: If the file cannot be written.
    """
    Image.fromarray(pictures.overlay(face, masks)).save(path, compress_level=1)


def initialize_worker() -> None:
    """Prepares a worker process: it ignores Ctrl-C, exits with its parent, and runs one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # A terminal sends Ctrl-C to every process.
    threading.Thread(target=processes.exit_with_parent, daemon=True).start()
    cv2.setNumThreads(0)  # Parallelism comes from the processes.


def _detector(upsample: int) -> Detector:
    """The calling thread's detector."""
    detectors = _thread_local.__dict__.setdefault("detectors", {})
    if upsample not in detectors:
        detectors[upsample] = Detector("hog", LFW_BOX, upsample)
    return detectors[upsample]


def _resized(image: np.ndarray, size: int) -> UInt8[np.ndarray, "s s 3"]:
    scale = size / image.shape[0]
    offset = scale / 2 - 0.5  # Pixel centers have integer coordinates.
    return alignment.warp(image, np.array([[scale, 0, offset], [0, scale, offset]]), size)
