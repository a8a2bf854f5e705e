"""Where faces come from. A source lists its faces with their labels at once, which checks every
label before anything is written, and hands out the image bytes one face at a time, which the
worker processes do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Int8, Int64

from landmarks import drawn_faces, label_files
from landmarks.detector import CELEBA_BOX, LFW_BOX, Box
from mgmtn_jax.attributes import CELEBA, AttributeSet
from mgmtn_jax.data.schema import NO, UNKNOWN, YES

Labels = Int8[np.ndarray, " attributes"]

CELEBA_IMAGES = "img_align_celeba"
CELEBA_LABELS = "list_attr_celeba.txt"
CELEBA_PARTITION = "list_eval_partition.txt"
CELEBA_SPLITS: Mapping[str, str] = {"0": "train", "1": "validation", "2": "test"}
CSV_LABELS = "attributes.csv"
CSV_IMAGES = "images"

# What can stand in TFDS's file names and split arithmetic, in which `all` has a meaning of its own.
_SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class Face(NamedTuple):
    """One face of a source: its key, and its labels unless the reader makes them."""

    key: str
    labels: Labels | None


class Reader(Protocol):
    """Fetches a face; picklable, so that worker processes can hold it.

    Raises OSError or ValueError if the file cannot be read.
    """

    def __call__(self, face: Face) -> tuple[bytes, Labels]: ...


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
    """

    name: str
    attribute_set: AttributeSet
    keys: Sequence[str]
    labels: Int8[np.ndarray, "faces attributes"] | None
    splits: Mapping[str, Int64[np.ndarray, " faces_of_split"]]
    reader: Reader
    fallback_box: Box

    def faces(self, indices: Int64[np.ndarray, " chosen"]) -> list[Face]:
        """The faces at some positions in `keys`."""
        return [
            Face(self.keys[i], None if self.labels is None else self.labels[i]) for i in indices
        ]

    def digest(self) -> str:
        """A SHA-256 over keys, labels, attribute names and splits: equal for equal label files.

        Where the reader makes the faces, the first one stands for the program that draws them.
        """
        digest = hashlib.sha256(self.attribute_set.to_json().encode())
        digest.update("\n".join(self.keys).encode())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        else:
            image, labels = self.reader(self.faces(np.array([0]))[0])
            digest.update(image + labels.tobytes())
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
        )


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Reads images from files under one folder; the key is the path."""

    folder: str

    def __call__(self, face: Face) -> tuple[bytes, Labels]:
        assert face.labels is not None
        return (epath.Path(self.folder) / face.key).read_bytes(), face.labels


@dataclasses.dataclass(frozen=True)
class DrawnReader:
    """Draws the face the key numbers: the bytes `drawn_faces.write_celeba_layout` would write."""

    seed: int

    def __call__(self, face: Face) -> tuple[bytes, Labels]:
        index = int(face.key.removesuffix(".jpg")) - 1
        return drawn_faces.face_jpeg(self.seed, index)


def read_drawn(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """Faces 0 to `limit` - 1 of the drawn collection `seed`; nothing is read."""
    if data_dir is not None:
        raise ValueError("--source=drawn reads no folder: leave --data_dir out")
    count = 1000 if limit is None else limit
    return Source(
        name="drawn",
        attribute_set=CELEBA,
        keys=[drawn_faces.file_name(index) for index in range(count)],
        labels=None,
        splits=_by_split([drawn_faces.split_of(index) for index in range(count)]),
        reader=DrawnReader(seed),
        fallback_box=CELEBA_BOX,
    )


def read_celeba(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """CelebA as officially distributed.

    DIR/img_align_celeba/000001.jpg ...   the aligned images, of any size
    DIR/list_attr_celeba.txt              count, names, then a row of 1 and -1 for each image
    DIR/list_eval_partition.txt           a row with 0 train, 1 validation or 2 test for each

    CelebA never has a 0. A column that is 0 in every row is unknown throughout, as `drawn_faces`
    writes the attributes it does not draw; any other 0 is an error.

    Raises:
      FileNotFoundError: if one of the three is missing.
      LabelError: if the two files do not name the same images once each, or a row is malformed.
    """
    folder = _folder(data_dir, "celeba", CELEBA_IMAGES, CELEBA_LABELS, CELEBA_PARTITION)
    path = folder / CELEBA_LABELS
    lines = label_files.lines_of(path)
    if len(lines) < 2 or not lines[0].strip().isdecimal():
        raise label_files.LabelError(
            path, 1, "expected the number of images, and the attribute names below it"
        )
    names = lines[1].split()
    attribute_set = label_files.attribute_set_of(path, 2, names)
    first_line: dict[str, int] = {}
    labels = np.empty((len(lines) - 2, len(names)), np.int8)
    values = {"1": YES, "-1": NO, "0": UNKNOWN}
    for row, line in enumerate(lines[2:]):
        key, *fields = line.split() or [""]
        number = row + 3
        label_files.check_count(path, number, names, len(fields))
        label_files.check_unique(path, number, key, first_line)
        labels[row] = label_files.values_of(path, number, names, fields, values)
    if not len(labels):
        raise label_files.LabelError(path, 2, "no image follows the attribute names")
    unknown = labels == UNKNOWN
    stray = unknown & ~unknown.all(axis=0)
    if stray.any():
        row, column = np.argwhere(stray)[0]
        raise label_files.LabelError(path, int(row) + 3, "'0' is not one of 1, -1", names[column])
    if len(first_line) != int(lines[0]):
        raise label_files.LabelError(
            path, 1, f"says there are {int(lines[0])} images, but {len(first_line)} rows follow"
        )
    parts = _read_partition(folder / CELEBA_PARTITION, path, first_line)
    return Source(
        name="celeba",
        attribute_set=attribute_set,
        keys=list(first_line),
        labels=labels,
        splits=_by_split([parts[key] for key in first_line]),
        reader=FileReader(str(folder / CELEBA_IMAGES)),
        fallback_box=CELEBA_BOX,
    )


def _read_partition(
    path: epath.Path, labels_path: epath.Path, labelled: Mapping[str, int]
) -> dict[str, str]:
    """Image name -> split, for exactly the labelled images."""
    first_line: dict[str, int] = {}
    parts: dict[str, str] = {}
    for number, line in enumerate(label_files.lines_of(path), start=1):
        key, *fields = line.split() or [""]
        label_files.check_count(path, number, ["partition"], len(fields))
        label_files.check_unique(path, number, key, first_line)
        if fields[0] not in CELEBA_SPLITS:
            raise label_files.LabelError(
                path, number, f"{fields[0]!r} is not one of 0, 1, 2", "partition"
            )
        if key not in labelled:
            raise label_files.LabelError(path, number, f"{key} has no row in {labels_path.name}")
        parts[key] = CELEBA_SPLITS[fields[0]]
    for key, number in labelled.items():
        if key not in parts:
            raise label_files.LabelError(labels_path, number, f"{key} has no row in {path.name}")
    return parts


def read_csv(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """One's own faces.

    DIR/attributes.csv    columns image, split, then one column for each attribute
    DIR/images/           the images, at the paths in column image (without images/, in DIR)

    Attributes are 1 yes, 0 no, -1 unknown. A file without a single 0 is taken to say 1 yes, -1 no,
    as CelebA does; the log states which of the two it is.

    Raises:
      FileNotFoundError: if there is no `attributes.csv`.
      LabelError: if a row is malformed or an image comes twice.
    """
    folder = _folder(data_dir, "csv", CSV_LABELS)
    path = folder / CSV_LABELS
    rows = label_files.csv_rows(path)
    _, header = next(rows, (1, []))
    if header[:2] != ["image", "split"]:
        raise label_files.LabelError(
            path, 1, f"expected columns image, split, ..., found {', '.join(header)}"
        )
    names = header[2:]
    attribute_set = label_files.attribute_set_of(path, 1, names)
    first_line: dict[str, int] = {}
    parts: list[str] = []
    table: list[list[int]] = []
    values = {"1": 1, "0": 0, "-1": -1}
    for number, fields in rows:
        label_files.check_count(path, number, names, len(fields) - 2)
        key, split = fields[:2]
        label_files.check_unique(path, number, key, first_line)
        if not _SPLIT_NAME.fullmatch(split) or split == "all":
            raise label_files.LabelError(path, number, f"{split!r} cannot name a split", "split")
        parts.append(split)
        table.append(label_files.values_of(path, number, names, fields[2:], values))
    if not table:
        raise label_files.LabelError(path, 1, "no face follows the header")
    labels = np.array(table, np.int8)
    if (labels == 0).any():
        logging.info("%s: attributes are 1 yes, 0 no, -1 unknown", path)
    else:
        logging.info("%s: no 0 in it, so attributes are 1 yes, -1 no", path)
        labels[labels == -1] = NO
    images = folder / CSV_IMAGES
    return Source(
        name="csv",
        attribute_set=attribute_set,
        keys=list(first_line),
        labels=labels,
        splits=_by_split(parts),
        reader=FileReader(str(images if images.is_dir() else folder)),
        fallback_box=LFW_BOX,
    )


SOURCES: Mapping[str, Callable[[epath.Path | None, int | None, int], Source]] = {
    "drawn": read_drawn,
    "celeba": read_celeba,
    "csv": read_csv,
}
"""What `--source` chooses from. Called with the folder, `--limit` and `--seed`."""


def _folder(data_dir: epath.Path | None, source: str, *needed: str) -> epath.Path:
    if data_dir is None:
        raise ValueError(f"--source={source} needs --data_dir, the folder that holds {needed[0]}")
    if not data_dir.is_dir():
        raise FileNotFoundError(f"there is no folder {data_dir}")
    for name in needed:
        if not (data_dir / name).exists():
            raise FileNotFoundError(f"--source={source} needs {name}, which is not in {data_dir}")
    return data_dir


def _by_split(parts: Sequence[str]) -> dict[str, Int64[np.ndarray, " faces_of_split"]]:
    """Split name -> positions, in the order train, validation, test, then others by name."""
    usual = ["train", "validation", "test"]
    names = sorted(set(parts), key=lambda name: (*(name != u for u in usual), name))
    where = np.array(parts)
    return {name: np.flatnonzero(where == name) for name in names}
