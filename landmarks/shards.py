"""The shards of a data set: planning them, making one, and turning all of them into a data set.

A shard is a contiguous range of the faces of one split. Its bytes are a function of those faces and
of the settings, and it appears under its name only when it is complete. Its sidecar, a JSON file in
a work folder that is removed when the data set is finished, holds its counts and rejected faces. A
shard that has a sidecar is finished, whichever process made it.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Int64, UInt8

from landmarks.detection import Detection, FindFace
from landmarks.sources import Reader, Source, SourceFace
from landmarks.sources.splits import count_shared
from landmarks.work_folder import SUMMARY, WORK_FOLDER
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import schema, storage
from mgmtn_jax.data.images import ImageError, decode_image, stored_image
from mgmtn_jax.data.storage import atomic_file
from mgmtn_jax.data.tfrecord import write_tfrecord

REJECTED = "rejected.csv"

LEAKS = "leaks"
"""Count in the summary: the images, compared by their pixels, that are in more than one split."""

COUNTS = ("records", "rejected", *schema.LANDMARK_SOURCES, "implausible")
"""Counts in the summary, for every split and in total. `implausible` counts the records, of any
landmark source, whose first prediction was implausible and was replaced."""

FACES_PER_SHARD = 500
MAX_SHARDS = 128


@dataclasses.dataclass(frozen=True)
class Shard:
    """One unit of work: a shard and the faces it holds.

    Attributes:
      split: Name of the split.
      shard: Index of the shard in its split.
      num_shards: Number of shards of the split.
      indices: Positions of the faces in the source.
    """

    split: str
    shard: int
    num_shards: int
    indices: Int64[np.ndarray, " faces"]

    @property
    def name(self) -> str:
        return schema.shard_name(self.split, self.shard, self.num_shards)


def plan_shards(source: Source, num_shards: int | None) -> list[Shard]:
    """Divides the faces of every split into shards, in order.

    Args:
      source: The faces.
      num_shards: Approximate number of shards over all splits; every split gets at least one and at
        most one per face. None means one per 500 faces, at most 128.
    """
    total = sum(len(indices) for indices in source.splits.values())
    if num_shards is None:
        num_shards = min(MAX_SHARDS, -(-total // FACES_PER_SHARD))
    shards = []
    for split, indices in source.splits.items():
        count = min(len(indices), max(1, round(num_shards * len(indices) / total)))
        for shard, chosen in enumerate(np.array_split(indices, count)):
            shards.append(Shard(split, shard, count, chosen))
    return shards


class MadeRecord(NamedTuple):
    """The record of one face.

    Attributes:
      record: The record.
      implausible: True if the first prediction of the landmarks was implausible.
      pixels: Hash of the decoded image.
    """

    record: schema.Record
    implausible: bool
    pixels: str


def make_record(
    face: SourceFace, reader: Reader, detector: FindFace | None, max_pixels: int
) -> MadeRecord:
    """Makes the record of one face.

    Args:
      face: The face.
      reader: Reads its image and labels.
      detector: Finds its landmarks; None if every face has landmarks of its own.
      max_pixels: Largest image accepted, width times height.

    Raises:
      ImageError: If the image is unreadable, the face's box lies outside it, or its landmarks are
        missing or outside.
    """
    try:
        data, labels = reader(face)
    except OSError as error:  # Without the path, which differs between machines.
        raise ImageError(f"the image cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ImageError(f"the image cannot be read: {error}") from error
    image = decode_image(data, max_pixels)
    if face.box is not None:
        _check_inside(face.box, *image.shape[:2])
    found = _given(face, image) if detector is None else detector(image, face.box)
    record = schema.Record(
        key=face.key,
        image=stored_image(data, image),
        landmarks=found.landmarks,
        face_box=found.box,
        landmark_source=found.landmark_source,
        labels=np.asarray(labels, np.int64),
        person=face.person,
    )
    return MadeRecord(record, found.implausible, _hash(image))


def _hash(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """64 bits in hexadecimal: among ten million images, two share them with probability 3e-6."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()[:16]


def _given(face: SourceFace, image: np.ndarray) -> Detection:
    """The face's own landmarks, in its own box or else in the one around them."""
    points = face.landmarks
    if points is None or np.isnan(points).any():
        raise ImageError("no landmarks are given for this face")
    around = (*points.min(0).tolist(), *points.max(0).tolist())
    _check_inside(around, *image.shape[:2])
    box = np.array(face.box or around, np.float32)
    return Detection(box, points, schema.GIVEN, implausible=False)


def _check_inside(box: tuple[float, float, float, float], height: int, width: int) -> None:
    left, top, right, bottom = box
    if right <= 0 or bottom <= 0 or left >= width - 1 or top >= height - 1:
        raise ImageError(
            f"the face's box {left:g}, {top:g}, {right:g}, {bottom:g} lies outside the image of "
            f"{width}x{height} pixels"
        )


def write_shard(
    out_dir: epath.PathLike,
    shard: Shard,
    faces: Sequence[SourceFace],
    reader: Reader,
    detector: FindFace | None,
    max_pixels: int,
    on_face: Callable[[], None],
) -> None:
    """Writes one shard and then its sidecar.

    Args:
      out_dir: Folder of the data set.
      shard: The shard.
      faces: Its faces.
      reader: Reads their images and labels.
      detector: Finds their landmarks; None if the faces have landmarks of their own.
      max_pixels: Largest image accepted, width times height.
      on_face: Called after every face.
    """
    counts = dict.fromkeys(COUNTS, 0)
    rejected: list[tuple[str, str]] = []
    pixels: list[str] = []

    def records() -> Iterator[bytes]:
        for face in faces:
            try:
                made = make_record(face, reader, detector, max_pixels)
            except ImageError as error:
                counts["rejected"] += 1
                rejected.append((face.key, str(error)))
            else:
                counts["records"] += 1
                counts[schema.LANDMARK_SOURCES[made.record.landmark_source]] += 1
                counts["implausible"] += made.implausible
                pixels.append(made.pixels)
                yield schema.serialize(made.record)
            on_face()

    path = epath.Path(out_dir) / shard.name
    write_tfrecord(path, records())
    size, _ = storage.stat(path)
    sidecar = {"counts": counts, "bytes": size, "rejected": rejected, "pixels": pixels}
    # Need not survive a power failure: without its sidecar, the shard is made again.
    with atomic_file(_sidecar_path(out_dir, shard), durable=False) as file:
        file.write(json.dumps(sidecar).encode())


def read_sidecar(out_dir: epath.PathLike, shard: Shard) -> dict[str, Any] | None:
    """The sidecar of a finished shard; None if the shard is missing."""
    try:
        sidecar = json.loads(_sidecar_path(out_dir, shard).read_text())
        size, _ = storage.stat(epath.Path(out_dir) / shard.name)
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    # A sidecar of an older version has other counts or no pixels, and its shard is made again.
    current = set(sidecar.get("counts", ())) == set(COUNTS) and "pixels" in sidecar
    return sidecar if current and sidecar["bytes"] == size else None


def merge(
    out_dir: epath.PathLike, shards: Sequence[Shard], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes `rejected.csv` and `summary.json` from the sidecars of all shards.

    Returns:
      The summary.
    """
    rejected = io.StringIO()
    writer = csv.writer(rejected, lineterminator="\n")
    writer.writerow(["key", "reason"])
    splits: dict[str, dict[str, int]] = {}
    pixels: dict[str, list[np.ndarray]] = {}
    for shard, sidecar in zip(shards, _sidecars(out_dir, shards), strict=True):
        writer.writerows(sidecar["rejected"])
        counts = splits.setdefault(shard.split, dict.fromkeys(COUNTS, 0))
        for name in COUNTS:
            counts[name] += sidecar["counts"][name]
        hashes = np.array([int(text, 16) for text in sidecar["pixels"]], np.uint64)
        pixels.setdefault(shard.split, []).append(hashes)
    leaks = count_shared([np.concatenate(hashes) for hashes in pixels.values()])
    if leaks:
        logging.warning(
            "images in more than one split: %d, so evaluation meets training images", leaks
        )
    total = {name: sum(counts[name] for counts in splits.values()) for name in COUNTS}
    summary = {"total": total, "splits": splits, LEAKS: leaks, "settings": dict(settings)}
    folder = epath.Path(out_dir)
    with atomic_file(folder / REJECTED) as file:
        file.write(rejected.getvalue().encode())
    with atomic_file(folder / SUMMARY) as file:
        file.write(json.dumps(summary, indent=1).encode() + b"\n")
    return summary


def finish(
    out_dir: epath.PathLike,
    shards: Sequence[Shard],
    attribute_set: AttributeSet,
    *,
    persons: bool = False,
) -> None:
    """Turns a folder of finished shards into a data set by writing its metadata."""
    lengths: dict[str, list[int]] = {}
    for shard, sidecar in zip(shards, _sidecars(out_dir, shards), strict=True):
        lengths.setdefault(shard.split, []).append(sidecar["counts"]["records"])
    schema.write_metadata(out_dir, attribute_set, lengths, persons=persons)


def _sidecars(out_dir: epath.PathLike, shards: Sequence[Shard]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        sidecar = read_sidecar(out_dir, shard)
        if sidecar is None:
            raise FileNotFoundError(f"{shard.name} is missing from {out_dir}")
        yield sidecar


def _sidecar_path(out_dir: epath.PathLike, shard: Shard) -> epath.Path:
    return epath.Path(out_dir) / WORK_FOLDER / f"{shard.name}.json"
