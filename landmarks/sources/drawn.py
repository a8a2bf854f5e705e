"""Faces drawn by a program, so that everything runs without a download."""

from __future__ import annotations

import dataclasses
import hashlib

from etils import epath

from landmarks.detection import CELEBA_BOX
from landmarks.drawing.faces import face_jpeg, file_name, split_of
from landmarks.sources.base import Labels, Source, SourceFace, by_split
from mgmtn_jax.attributes import CELEBA


@dataclasses.dataclass(frozen=True)
class DrawnReader:
    """Draws the face whose number is its key, as `drawing.faces.write_celeba_layout` writes it."""

    seed: int

    def __call__(self, face: SourceFace) -> tuple[bytes, Labels]:
        index = int(face.key.removesuffix(".jpg")) - 1
        return face_jpeg(self.seed, index)


def read_drawn(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """Lists faces 0 to `limit` - 1 of the drawn collection `seed`, by default 1,000."""
    if data_dir is not None:
        raise ValueError("--source=drawn reads no folder: leave --data_dir out")
    count = 1000 if limit is None else limit
    # The first face identifies the version of the drawing program.
    image, labels = face_jpeg(seed, 0)
    return Source(
        name="drawn",
        attribute_set=CELEBA,
        keys=[file_name(index) for index in range(count)],
        labels=None,
        splits=by_split([split_of(index) for index in range(count)]),
        reader=DrawnReader(seed),
        fallback_box=CELEBA_BOX,
        made_from=hashlib.sha256(image + labels.tobytes()).hexdigest(),
    )
