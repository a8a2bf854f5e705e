"""The schema of a stored face, and the layout of a data set folder.

A data set folder is a TensorFlow Datasets (TFDS) data set, readable by
`tfds.builder_from_directory(folder)`:

    features.json, dataset_info.json             metadata of TFDS
    faces-SPLIT.tfrecord-00000-of-000NN          the shards of each split
    attributes.json                              attribute names and groups
    .faces-SPLIT.tfrecord-00000-of-000NN.index   record offsets, cached by readers
    rejected.csv, summary.json                   rejected images with reasons; counts

A record is a `tf.train.Example`. This module serializes and parses it with the protocol buffer
included in TFDS, which takes a fifth of the time of TFDS's parser and needs no TensorFlow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from google.protobuf.message import DecodeError
from jaxtyping import Float32, Int64
from tensorflow_datasets.proto import tf_example_pb2

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import storage
from mgmtn_jax.data.landmark_sources import CNN as CNN
from mgmtn_jax.data.landmark_sources import FALLBACK as FALLBACK
from mgmtn_jax.data.landmark_sources import GIVEN as GIVEN
from mgmtn_jax.data.landmark_sources import HOG as HOG
from mgmtn_jax.data.landmark_sources import LANDMARK_SOURCES as LANDMARK_SOURCES
from mgmtn_jax.data.storage import atomic_file
from mgmtn_jax.data.tfrecord import TFRecordSource
from mgmtn_jax.data.tfrecord_index import FRAME_BYTES, CorruptRecordError

DATASET_NAME = "faces"
NUM_LANDMARKS = 68

YES, NO, UNKNOWN = 1, 0, -1
"""Values of a label. Unknown labels are excluded from losses and metrics."""

OnCorrupt = Literal["raise", "skip"]
"""Treatment of damaged records: raise an error, or skip and count them."""


class Record(NamedTuple):
    """One stored face.

    Coordinates are pixels of the image that `images.decode_image` returns, x then y, with integers
    at pixel centers.

    Attributes:
      key: Name of the face, unique in its data set.
      image: The source's JPEG or PNG bytes, or a PNG of an image in another format.
      landmarks: The 68 points of the iBUG 300-W scheme.
      face_box: Left, top, right, bottom of the detection.
      landmark_source: `HOG`, `CNN`, `FALLBACK` or `GIVEN`.
      labels: `YES`, `NO` or `UNKNOWN` for each of the data set's A attributes. The stored feature
        is called `attributes`.
      person: 64 bits that stand for the person, 0 for a face without a name; None, and not stored,
        if the source names no persons.
    """

    key: str
    image: bytes
    landmarks: Float32[np.ndarray, "68 2"]
    face_box: Float32[np.ndarray, "4"]
    landmark_source: int
    labels: Int64[np.ndarray, " attributes"]
    person: int | None = None


def features(num_attributes: int, *, persons: bool = False) -> tfds.features.FeaturesDict:
    """The schema of a record in TFDS's terms, with or without persons."""
    person = {"person": tfds.features.Scalar(dtype=np.int64)} if persons else {}
    return tfds.features.FeaturesDict(
        {
            "key": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "landmarks": tfds.features.Tensor(shape=(NUM_LANDMARKS, 2), dtype=np.float32),
            "face_box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "landmark_source": tfds.features.Scalar(dtype=np.int64),
            "attributes": tfds.features.Tensor(shape=(num_attributes,), dtype=np.int64),
            **person,
        }
    )


def serialize(record: Record) -> bytes:
    """Serializes a record as a `tf.train.Example`. Equal records give equal bytes."""
    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["key"].bytes_list.value.append(record.key.encode())
    feature["image"].bytes_list.value.append(record.image)
    feature["landmarks"].float_list.value.extend(record.landmarks.ravel().tolist())
    feature["face_box"].float_list.value.extend(record.face_box.tolist())
    feature["landmark_source"].int64_list.value.append(record.landmark_source)
    feature["attributes"].int64_list.value.extend(record.labels.tolist())
    if record.person is not None:
        feature["person"].int64_list.value.append(record.person)
    return example.SerializeToString(deterministic=True)


def parse(data: bytes) -> Record:
    """Parses a record; the inverse of `serialize`.

    Raises:
      ValueError: `data` is not a record of this schema.
    """
    try:
        feature = tf_example_pb2.Example.FromString(data).features.feature
        return Record(
            key=feature["key"].bytes_list.value[0].decode(),
            image=feature["image"].bytes_list.value[0],
            landmarks=np.array(feature["landmarks"].float_list.value, np.float32).reshape(
                NUM_LANDMARKS, 2
            ),
            # NumPy reads few numbers faster from a list, and many from the field itself.
            face_box=np.array(list(feature["face_box"].float_list.value), np.float32).reshape(4),
            landmark_source=feature["landmark_source"].int64_list.value[0],
            labels=np.fromiter(feature["attributes"].int64_list.value, np.int64),
            person=next(iter(feature["person"].int64_list.value), None),
        )
    except (DecodeError, IndexError, ValueError) as error:
        raise ValueError(f"not a record of a faces data set: {error}") from error


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """The file name of a shard, as TFDS expects it."""
    return f"{DATASET_NAME}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"


def write_metadata(
    data_dir: epath.PathLike,
    attribute_set: AttributeSet,
    shard_lengths: Mapping[str, Sequence[int]],
    *,
    persons: bool = False,
) -> None:
    """Writes the metadata that turns a folder of finished shards into a data set.

    The metadata of TFDS are written last: it does not open the folder of an interrupted call.

    Args:
      data_dir: The folder with the shards.
      attribute_set: Names and groups of the labels.
      shard_lengths: Number of records in each shard, by split.
      persons: The records name persons.
    """
    folder = epath.Path(data_dir)
    with atomic_file(folder / "attributes.json") as file:
        file.write(attribute_set.to_json().encode() + b"\n")
    split_infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(lengths),
            num_bytes=sum(
                storage.stat(folder / shard_name(split, shard, len(lengths)))[0]
                for shard in range(len(lengths))
            ),
        )
        for split, lengths in shard_lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=os.fspath(folder),
        features=features(len(attribute_set.names), persons=persons),
        split_infos=split_infos,
        version="1.0.0",
        # The check would read the data through TensorFlow.
        check_data=False,
    )


def load_attribute_set(data_dir: epath.PathLike) -> AttributeSet:
    """Loads the attribute names and groups; raises FileNotFoundError if there is no data set."""
    return AttributeSet.from_dict(_read_json(data_dir, "attributes.json"))


def split_shard_lengths(data_dir: epath.PathLike) -> dict[str, list[int]]:
    """The number of records in each shard, by split; raises FileNotFoundError if there is none."""
    return {name: _shard_lengths(split) for name, split in _splits(data_dir).items()}


def shard_paths(data_dir: epath.PathLike, split: str) -> list[epath.Path]:
    """The paths of a split's shards, in order.

    Raises:
      FileNotFoundError: The folder is missing or holds no finished data set.
      ValueError: The data set has no such split.
    """
    return _shard_paths(data_dir, split, len(_shard_lengths(_split(data_dir, split))))


def open_split(
    data_dir: epath.PathLike, split: str, on_corrupt: OnCorrupt = "raise"
) -> TFRecordSource:
    """Opens a split, or a union of splits, with as many records as `dataset_info.json` states.

    Only the sizes of the shards are read, unless their sum differs from the stated one.

    Args:
      data_dir: The data set folder, local or a URL that epath supports.
      split: Name of the split, or names joined by `+`, whose records follow each other.
      on_corrupt: `raise` fails here if a shard is too short or too long. `skip` opens such a shard,
        whose first records keep their positions; reading a lost one raises.

    Raises:
      FileNotFoundError: The folder or a shard is missing.
      ValueError: The data set has no such split, or a union names a split twice.
      CorruptRecordError: A shard is too short or too long; the message says where it is damaged.
    """
    if on_corrupt not in get_args(OnCorrupt):
        raise ValueError(f"on_corrupt must be 'raise' or 'skip', not {on_corrupt!r}")
    paths: list[epath.Path] = []
    lengths: list[int] = []
    for name in split_names(split):
        found_paths, found_lengths = _open_split(data_dir, name, on_corrupt)
        paths += found_paths
        lengths += found_lengths
    return TFRecordSource(paths, lengths)


def split_names(split: str) -> list[str]:
    """The names in a union of splits, `a+b`. Raises ValueError if one appears twice."""
    names = [name.strip() for name in split.split("+")]
    if len(set(names)) < len(names):
        raise ValueError(f"split {split!r} names a split twice, and so each of its examples")
    return names


def _open_split(
    data_dir: epath.PathLike, split: str, on_corrupt: OnCorrupt
) -> tuple[list[epath.Path], list[int]]:
    """The shards of one split and their lengths, checked as `open_split` says."""
    info = _split(data_dir, split)
    lengths = _shard_lengths(info)
    paths = _shard_paths(data_dir, split, len(lengths))
    if storage.is_local(data_dir):
        sizes = list(map(_shard_size, paths))
    else:
        with ThreadPoolExecutor(32) as pool:  # Each request waits for the network.
            sizes = list(pool.map(_shard_size, paths))
    found, stated = sum(sizes), int(info.get("numBytes", 0))
    if on_corrupt == "raise" and stated != found:
        source = TFRecordSource(paths, lengths)
        source.verify()
        # Older folders state no size, and TFDS's writers count payloads without framing.
        if stated not in (0, found - FRAME_BYTES * len(source)):
            raise CorruptRecordError(
                f"{os.fspath(data_dir)}, split {split!r}",
                len(source),
                found,
                f"the shards end here, but dataset_info.json states {stated} bytes",
            )
    return paths, lengths


def _splits(data_dir: epath.PathLike) -> dict[str, dict[str, Any]]:
    return {split["name"]: split for split in _read_json(data_dir, "dataset_info.json")["splits"]}


def _split(data_dir: epath.PathLike, split: str) -> dict[str, Any]:
    splits = _splits(data_dir)
    if split not in splits:
        raise ValueError(f"{data_dir} has no split {split!r}: it has {', '.join(sorted(splits))}")
    return splits[split]


def _shard_lengths(split: Mapping[str, Any]) -> list[int]:
    return [int(length) for length in split["shardLengths"]]


def _shard_paths(data_dir: epath.PathLike, split: str, count: int) -> list[epath.Path]:
    return [epath.Path(data_dir) / shard_name(split, shard, count) for shard in range(count)]


def _shard_size(path: epath.Path) -> int:
    try:
        return storage.stat(path)[0]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"a shard is missing: there is no file {path}") from error


def _read_json(data_dir: epath.PathLike, name: str) -> dict[str, Any]:
    folder = epath.Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(folder)}")
    path = folder / name
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} is not a finished data set: it has no {name}; run landmarks.precompute again"
        )
    return json.loads(path.read_text())
