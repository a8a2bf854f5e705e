"""The types that every source is made of: a face, a reader and the list of all faces."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Float32, Int8, Int64

from landmarks.plausibility import Box
from mgmtn_jax.attributes import AttributeSet

_LINES = 1 << 16

Labels = Int8[np.ndarray, " attributes"]


class SourceFace(NamedTuple):
    """One face of a source.

    Attributes:
      key: Name of the face, unique in the data set.
      labels: Its labels; None if the reader provides them.
      image: Path of the image in the source, equal to the key unless an image has several faces.
      box: Left, top, right, bottom of the labelled face in pixels of the upright image, where pixel
        centers have integer coordinates; None if the source has no box.
      landmarks: The 68 points, x then y, in pixels of the upright image, NaN if they are missing;
        None if they are to be found in the image.
      person: The person's hash, see `Source.persons`; None if the source names no persons.
    """

    key: str
    labels: Labels | None
    image: str
    box: Box | None
    landmarks: Float32[np.ndarray, "68 2"] | None = None
    person: int | None = None


class Reader(Protocol):
    """Reads the image bytes and the labels of a face; picklable, to be sent to worker processes.

    Raises:
      OSError: If the file cannot be read.
      ValueError: If the file is damaged.
    """

    def __call__(self, face: SourceFace) -> tuple[bytes, Labels]: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """All faces of a source.

    Attributes:
      name: Name of the source, the value of `--source`.
      attribute_set: Names and groups of the A attributes.
      keys: The N keys.
      labels: 1 positive, 0 negative, -1 unknown; None if the reader provides the labels.
      splits: Split name -> indices into `keys`, ascending; no split is empty.
      reader: Reads the image and the labels of a face.
      fallback_box: Where a face is taken to be if none is found, in fractions of the image.
      images: The image of each of the N faces; None if the keys name the images.
      boxes: Left, top, right, bottom of each face in pixels of its image, NaN where unknown; None
        if the source has no boxes.
      landmarks: The 68 points of each face, NaN where unknown; None if they are to be found.
      persons: `folds.person_hash` of the name of each person, 0 for a face without a name; None if
        the source names no persons.
      made_from: Text or hash that determines the labels the reader provides, for `digest`.
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
    landmarks: Float32[np.ndarray, "faces 68 2"] | None = None
    persons: Int64[np.ndarray, " faces"] | None = None
    made_from: str = ""

    def faces(self, indices: Int64[np.ndarray, " chosen"]) -> list[SourceFace]:
        """The faces at the given positions in `keys`."""
        return [
            SourceFace(
                key=self.keys[i],
                labels=None if self.labels is None else self.labels[i],
                image=self.keys[i] if self.images is None else self.images[i],
                box=self._box(i),
                landmarks=None if self.landmarks is None else self.landmarks[i],
                person=None if self.persons is None else int(self.persons[i]),
            )
            for i in indices
        ]

    def _box(self, index: int) -> Box | None:
        if self.boxes is None or np.isnan(self.boxes[index]).any():
            return None
        left, top, right, bottom = self.boxes[index].tolist()
        return left, top, right, bottom

    def digest(self) -> str:
        """SHA-256 over everything except the image bytes; equal label files have equal digests."""
        digest = hashlib.sha256(self.attribute_set.to_json().encode())
        _update(digest, self.keys)
        digest.update(self.made_from.encode())
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).data)
        if self.images is not None:
            _update(digest, self.images)
        if self.boxes is not None:
            digest.update(np.ascontiguousarray(self.boxes).data)
        if self.landmarks is not None:
            digest.update(np.ascontiguousarray(self.landmarks).data)
        if self.persons is not None:
            digest.update(np.ascontiguousarray(self.persons).data)
        for split, indices in self.splits.items():
            digest.update(split.encode())
            digest.update(np.ascontiguousarray(indices).data)
        return digest.hexdigest()

    def limited(self, limit: int) -> Source:
        """This source reduced to at most `limit` faces, spread evenly over all of them."""
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
            landmarks=None if self.landmarks is None else self.landmarks[chosen],
            persons=None if self.persons is None else self.persons[chosen],
        )


def _update(digest: hashlib._Hash, texts: Sequence[str]) -> None:
    """Adds the lines of a text to a hash, a part at a time."""
    for start in range(0, len(texts), _LINES):
        digest.update("\n".join(texts[start : start + _LINES]).encode())
        if start + _LINES < len(texts):
            digest.update(b"\n")


def existing_folder(data_dir: epath.Path | None, source: str) -> epath.Path:
    """Checks that `--data_dir` names a folder and returns it."""
    if data_dir is None:
        raise ValueError(f"--source={source} needs --data_dir, the folder of its files")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"there is no folder {data_dir}: check --data_dir")
    return data_dir


def find(folder: epath.Path, source: str, *names: str) -> epath.Path:
    """The first of several files or folders that exists; the log names the others that exist."""
    there = [folder / name for name in names if (folder / name).exists()]
    if not there:
        raise FileNotFoundError(
            f"--source={source} needs {' or '.join(names)}, which is not in {folder}"
        )
    for ignored in there[1:]:
        logging.info("using %s and ignoring %s", there[0], ignored)
    return there[0]


def by_code(
    names: Sequence[str], codes: np.ndarray
) -> dict[str, Int64[np.ndarray, " faces_of_split"]]:
    """Split name -> positions, in the order train, validation, test, then others by name.

    Args:
      names: The names of the splits; those without a face are left out.
      codes: For each face, the position of its split in `names`.
    """
    usual = ["train", "validation", "test"]
    places = {name: np.flatnonzero(codes == code) for code, name in enumerate(names)}
    ordered = sorted(places, key=lambda name: (*(name != u for u in usual), name))
    return {name: places[name] for name in ordered if len(places[name])}


def by_split(parts: Sequence[str]) -> dict[str, Int64[np.ndarray, " faces_of_split"]]:
    """`by_code`, of the name of each face's split."""
    names, codes = np.unique(parts, return_inverse=True)
    return by_code(names.tolist(), codes)
