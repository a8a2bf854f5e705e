"""A data set folder, shard by shard: what each shard holds, how one is made, and how finished ones
become a data set.

A shard is a contiguous range of the faces of one split. Its bytes are a function of those faces and
of the settings, and it appears under its name only when it is whole. Beside it, in a work folder
that is gone when the data set is done, stands a sidecar with its counts and rejected faces. A
shard with a sidecar is finished, whoever made it and however often the run was killed since.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from landmarks.detector import Detector
from landmarks.sources import Face, Reader, Source
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import schema
from mgmtn_jax.data.images import ImageError, decode_image
from mgmtn_jax.data.tfrecord import atomic_file, write_tfrecord

WORK_FOLDER = ".precompute"
SETTINGS = "settings.json"
SUMMARY = "summary.json"
REJECTED = "rejected.csv"

COUNTS = ("records", "rejected", *schema.LANDMARK_SOURCES)
"""What the summary counts, for every split and in all."""

FACES_PER_SHARD = 500
MAX_SHARDS = 128


@dataclasses.dataclass(frozen=True)
class Shard:
    """One unit of work: the shard's place in the data set, and its faces."""

    split: str
    shard: int
    num_shards: int
    faces: Sequence[Face]

    @property
    def name(self) -> str:
        return schema.shard_name(self.split, self.shard, self.num_shards)


def plan_shards(source: Source, num_shards: int | None) -> list[Shard]:
    """Deals the faces of every split to shards, in order.

    Args:
      source: the faces.
      num_shards: about how many shards to make in all; every split gets at least one and no more
        than it has faces. None is one for every 500 faces, 128 at most.
    """
    total = sum(len(indices) for indices in source.splits.values())
    if num_shards is None:
        num_shards = min(MAX_SHARDS, -(-total // FACES_PER_SHARD))
    shards = []
    for split, indices in source.splits.items():
        count = min(len(indices), max(1, round(num_shards * len(indices) / total)))
        for shard, chosen in enumerate(np.array_split(indices, count)):
            shards.append(Shard(split, shard, count, source.faces(chosen)))
    return shards


def make_record(face: Face, reader: Reader, detector: Detector, max_pixels: int) -> schema.Record:
    """One face, from its source to its record.

    Raises:
      ImageError: if there is no image that could be trained on.
    """
    try:
        data, labels = reader(face)
    except OSError as error:  # Less the path, which differs from machine to machine.
        raise ImageError(f"the image cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ImageError(f"the image cannot be read: {error}") from error
    box, landmarks, landmark_source = detector(decode_image(data, max_pixels))
    return schema.Record(
        key=face.key,
        image=data,
        landmarks=landmarks,
        face_box=box,
        landmark_source=landmark_source,
        attributes=np.asarray(labels, np.int64),
    )


def write_shard(
    out_dir: epath.PathLike,
    shard: Shard,
    reader: Reader,
    detector: Detector,
    max_pixels: int,
    on_face: Callable[[], None],
) -> None:
    """Makes one shard, then its sidecar. `on_face` is called after every face."""
    rejected: list[tuple[str, str]] = []
    sources = [0] * len(schema.LANDMARK_SOURCES)

    def records() -> Iterator[bytes]:
        for face in shard.faces:
            try:
                record = make_record(face, reader, detector, max_pixels)
            except ImageError as error:
                rejected.append((face.key, str(error)))
            else:
                sources[record.landmark_source] += 1
                yield schema.serialize(record)
            on_face()

    path = epath.Path(out_dir) / shard.name
    count = write_tfrecord(path, records())
    sidecar = {
        "records": count,
        "bytes": path.stat().length,
        "landmark_sources": sources,
        "rejected": rejected,
    }
    with atomic_file(_sidecar_path(out_dir, shard)) as file:
        file.write(json.dumps(sidecar).encode())


def read_sidecar(out_dir: epath.PathLike, shard: Shard) -> dict[str, Any] | None:
    """The sidecar of a finished shard, or None if the shard is still to be made."""
    path, sidecar_path = epath.Path(out_dir) / shard.name, _sidecar_path(out_dir, shard)
    if not (sidecar_path.exists() and path.exists()):
        return None
    sidecar = json.loads(sidecar_path.read_text())
    return sidecar if sidecar["bytes"] == path.stat().length else None


def begin(out_dir: epath.PathLike, settings: Mapping[str, Any]) -> bool:
    """Claims a folder for a run, new or resumed.

    Args:
      out_dir: the folder; made if missing.
      settings: everything that the bytes of the data set depend on.

    Returns:
      Whether the folder already holds the finished data set of these settings.

    Raises:
      ValueError: if the folder holds a run of other settings, naming them, or something else.
    """
    folder = epath.Path(out_dir)
    done = (folder / "dataset_info.json").exists()
    path = folder / SUMMARY if done else folder / WORK_FOLDER / SETTINGS
    if path.exists():
        found = json.loads(path.read_text())
        _compare(folder, found["settings"] if done else found, settings)
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no unfinished data set of this program")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write(json.dumps(settings).encode())
    return done


def _compare(folder: epath.Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differing = [
        f"{name}={old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name)
    ]
    if differing:
        raise ValueError(
            f"{folder} was begun with other settings: {', '.join(differing)}. "
            "Choose another --out_dir or delete this one"
        )


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
    for shard in shards:
        sidecar = read_sidecar(out_dir, shard)
        if sidecar is None:
            raise RuntimeError(f"{shard.name} was finished and is gone from {out_dir}")
        writer.writerows(sidecar["rejected"])
        counts = splits.setdefault(shard.split, {})
        numbers = dict(zip(schema.LANDMARK_SOURCES, sidecar["landmark_sources"], strict=True))
        numbers |= {"records": sidecar["records"], "rejected": len(sidecar["rejected"])}
        for name in COUNTS:
            counts[name] = counts.get(name, 0) + numbers[name]
    total = {name: sum(counts[name] for counts in splits.values()) for name in COUNTS}
    summary = {"total": total, "splits": splits, "settings": dict(settings)}
    folder = epath.Path(out_dir)
    with atomic_file(folder / REJECTED) as file:
        file.write(rejected.getvalue().encode())
    with atomic_file(folder / SUMMARY) as file:
        file.write(json.dumps(summary, indent=1).encode() + b"\n")
    return summary


def finish(out_dir: epath.PathLike, shards: Sequence[Shard], attribute_set: AttributeSet) -> None:
    """Turns a folder of finished shards into a data set and removes the work folder."""
    folder = epath.Path(out_dir)
    lengths: dict[str, list[int]] = {}
    for shard in shards:
        sidecar = read_sidecar(folder, shard)
        assert sidecar is not None
        lengths.setdefault(shard.split, []).append(sidecar["records"])
    schema.write_metadata(folder, attribute_set, lengths)
    clean(folder)


def clean(out_dir: epath.PathLike) -> None:
    """Removes what only an unfinished data set needs, half-written files of killed runs too."""
    folder = epath.Path(out_dir)
    for partial in folder.glob(".*.partial"):
        partial.unlink()
    if (folder / WORK_FOLDER).exists():
        shutil.rmtree(folder / WORK_FOLDER)


def _sidecar_path(out_dir: epath.PathLike, shard: Shard) -> epath.Path:
    return epath.Path(out_dir) / WORK_FOLDER / f"{shard.name}.json"
