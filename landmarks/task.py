"""A task of the landmark stage, independent of the command and its flags."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

import cv2
from etils import epath

from landmarks import sources
from landmarks.detection import FindFace
from landmarks.plausibility import Box
from landmarks.sources import Source
from landmarks.sources.given_landmarks import with_landmarks

RUN_AGAIN = "run the same command again to make the missing shards"


class StageError(RuntimeError):
    """Shards could not be made for a reason outside this program, such as a killed worker."""


@dataclasses.dataclass(frozen=True)
class Task:
    """The settings of a run; picklable, so that it can be sent to a worker on any machine.

    Attributes:
      source: Name of the source, a key of `sources.SOURCES`.
      data_dir: Folder of the source; None for drawn faces.
      out_dir: Folder for the data set.
      limit: Largest number of faces; None for all.
      seed: Seed of the drawn faces.
      num_shards: Approximate number of shards over all splits; None for one per 500 faces.
      detector: `hog`, `cnn` or `none`.
      upsample: Number of times to double the image size before detection.
      max_pixels: Largest image accepted, width times height.
      landmarks: File of the faces' landmarks; None to find them with dlib.
    """

    source: str
    data_dir: str | None
    out_dir: str
    limit: int | None
    seed: int
    num_shards: int | None
    detector: str
    upsample: int
    max_pixels: int
    landmarks: str | None = None

    def read_source(self) -> Source:
        """Reads the list of faces and checks every label."""
        data_dir = None if self.data_dir is None else epath.Path(self.data_dir)
        source = sources.SOURCES[self.source](data_dir, self.limit, self.seed)
        if self.landmarks is not None:
            source = with_landmarks(source, epath.Path(self.landmarks))
        return source if self.limit is None else source.limited(self.limit)

    def fingerprint(self, source: Source) -> dict[str, Any]:
        """Everything that the bytes of the data set depend on; a resumed run compares it."""
        found = {
            "source": source.name,
            "faces": len(source.keys),
            "source_sha256": source.digest(),
            "seed": self.seed,
            "num_shards": self.num_shards,
            "detector": self.detector,
            "upsample": self.upsample,
            "max_pixels": self.max_pixels,
            "opencv": cv2.__version__,
        }
        if self.landmarks is None:
            return found | {"dlib": importlib.metadata.version("dlib-bin")}
        # What the detector would be is of no matter; the digest covers the landmarks.
        return found | {"detector": "given", "upsample": 0}

    def load_detector(self, fallback_box: Box) -> FindFace | None:
        """Loads dlib's models, which each process needs for itself; None with given landmarks."""
        if self.landmarks is not None:
            return None
        # Imported here: with given landmarks no process loads dlib.
        from landmarks.detector import Detector

        return Detector(self.detector, fallback_box, self.upsample)
