"""Readers that several sources share."""

from __future__ import annotations

import dataclasses

from etils import epath

from landmarks.sources.base import Face, Labels


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Reads images from files under one folder; `Face.image` is the path."""

    folder: str

    def __call__(self, face: Face) -> tuple[bytes, Labels]:
        assert face.labels is not None
        return (epath.Path(self.folder) / face.image).read_bytes(), face.labels
