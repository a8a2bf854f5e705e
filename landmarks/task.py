"""What the landmark stage is asked to do, apart from how it was asked."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from typing import Any

import cv2
from etils import epath

from landmarks import detector as detectors
from landmarks import sources
from landmarks.sources import Source

RUN_AGAIN = "the same command, run again, makes what is missing"


class StageError(RuntimeError):
    """Shards could not be made, for a reason that lies outside this program."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What the flags ask for; picklable, so that a worker on any machine can be told."""

    source: str
    data_dir: str | None
    out_dir: str
    limit: int | None
    seed: int
    num_shards: int | None
    detector: str
    upsample: int
    max_pixels: int

    def read_source(self) -> Source:
        """All faces; every label is checked."""
        data_dir = None if self.data_dir is None else epath.Path(self.data_dir)
        source = sources.SOURCES[self.source](data_dir, self.limit, self.seed)
        return source if self.limit is None else source.limited(self.limit)

    def fingerprint(self, source: Source) -> dict[str, Any]:
        """Everything the bytes of the data set depend on, for a resumed run to compare."""
        return {
            "source": source.name,
            "faces": len(source.keys),
            "source_sha256": source.digest(),
            "seed": self.seed,
            "num_shards": self.num_shards,
            "detector": self.detector,
            "upsample": self.upsample,
            "max_pixels": self.max_pixels,
            "dlib": importlib.metadata.version("dlib-bin"),
            "opencv": cv2.__version__,
        }

    def load_detector(self, fallback_box: detectors.Box) -> detectors.Detector:
        """dlib's models, for one process."""
        return detectors.Detector(self.detector, fallback_box, self.upsample)
