"""What a source is."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Float32, Int8, Int64

from landmarks.detector import Box
from mgmtn_jax.attributes import AttributeSet

Labels = Int8[np.ndarray, " attributes"]


class SourceFace(NamedTuple):
    """One face of a source.

    Attributes:
      key: names the face, unique in the data set.
      labels: what is known about it; None if the reader makes them.
      image: what the reader fetches: a path in the source, equal to the key unless an image has
        several faces.
      box: where the labelled face is, in pixels of the upright image, a pixel's center having whole
        coordinates; None if the source does not say.
    """

    key: str
    labels: Labels | None
    image: str
    box: Box | None


class Reader(Protocol):
    """Fetches a face; picklable, so that worker processes can hold it.

    Raises OSError or ValueError if the file cannot be read.
    """

    def __call__(self, face: SourceFace) -> tuple[bytes, Labels]: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """All faces of a source.

    Attributes:
      name: what `--source` calls it.
      attribute_set: names and groups of the A attributes.
      keys: the N keys.
      labels: 1 yes, 0 no, -1 unknown; None if the reader makes them.
      splits: split name -> indices into `keys`, ascending; no split is empty.
      reader: fetches the image and the labels of a face.
      fallback_box: where a face is taken to be when none is found, in fractions of the image.
      images: the image each of the N faces is in; None if the keys name the images.
      boxes: left, top, right, bottom of each face in pixels of its image, NaN where not known; None
        if the source has no boxes.
      made_from: what the reader makes labels from, or a hash of it, for `digest`.
    """

    name: str
    attribute_set: AttributeSet
    keys: Sequence[str]
    labels: Int8[np.ndarray, "faces attributes"] | None
    splits: Mapping[str, Int64[np.ndarray, " faces_of_split"]]
    reader: Reader
    fallback_box: Box
    images: Sequence[str] | None = None
    boxes: Float32[np.ndarray, "faces 4"] | None = None
    made_from: str = ""

    def faces(self, indices: Int64[np.ndarray, " chosen"]) -> list[SourceFace]:
        """The faces at some positions in `keys`."""
        return [
            SourceFace(
                key=self.keys[i],
                labels=None if self.labels is None else self.labels[i],
                image=self.keys[i] if self.images is None else self.images[i],
                box=self._box(i),
            )
            for i in indices
        ]

    def _box(self, index: int) -> Box | None:
        if self.boxes is None or np.isnan(self.boxes[index]).any():
            return None
        left, top, right, bottom = self.boxes[index].tolist()
        return left, top, right, bottom

    def digest(self) -> str:
        """A SHA-256 over all of it but the images' bytes: equal for equal label files."""
        digest = hashlib.sha256(self.attribute_set.to_json().encode())
        digest.update("\n".join(self.keys).encode())
        digest.update(self.made_from.encode())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        if self.images is not None:
            digest.update("\n".join(self.images).encode())
        if self.boxes is not None:
            digest.update(self.boxes.tobytes())
        for split, indices in self.splits.items():
            digest.update(split.encode() + indices.tobytes())
        return digest.hexdigest()

    def limited(self, limit: int) -> Source:
        """A source of at most `limit` of the faces, spread evenly over all of them."""
        total = len(self.keys)
        if limit >= total:
            return self
        chosen = [i * total // limit for i in range(limit)]
        splits = {
            split: np.flatnonzero(np.isin(chosen, indices, assume_unique=True))
            for split, indices in self.splits.items()
        }
        return dataclasses.replace(
            self,
            keys=[self.keys[i] for i in chosen],
            labels=None if self.labels is None else self.labels[chosen],
            splits={split: indices for split, indices in splits.items() if len(indices)},
            images=None if self.images is None else [self.images[i] for i in chosen],
            boxes=None if self.boxes is None else self.boxes[chosen],
        )


def existing_folder(data_dir: epath.Path | None, source: str) -> epath.Path:
    """The folder that `--data_dir` must name."""
    if data_dir is None:
        raise ValueError(f"--source={source} needs --data_dir, the folder it is in")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"there is no folder {data_dir}")
    return data_dir


def find(folder: epath.Path, source: str, *names: str) -> epath.Path:
    """The first of several files or folders that is there; the log names the others that are."""
    there = [folder / name for name in names if (folder / name).exists()]
    if not there:
        raise FileNotFoundError(
            f"--source={source} needs {' or '.join(names)}, which is not in {folder}"
        )
    for ignored in there[1:]:
        logging.info("%s is read, and %s is not", there[0], ignored)
    return there[0]


def by_split(parts: Sequence[str]) -> dict[str, Int64[np.ndarray, " faces_of_split"]]:
    """Split name -> positions, in the order train, validation, test, then others by name."""
    usual = ["train", "validation", "test"]
    names = sorted(set(parts), key=lambda name: (*(name != u for u in usual), name))
    where = np.array(parts)
    return {name: np.flatnonzero(where == name) for name in names}
