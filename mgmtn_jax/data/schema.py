"""One face as it is stored, and the folder the faces are stored in.

The folder is a TensorFlow Datasets data set: `tfds.builder_from_directory(folder)` opens it.

    features.json, dataset_info.json             what TFDS reads
    faces-SPLIT.tfrecord-00000-of-000NN          the shards of each split
    attributes.json                              attribute names and groups
    .faces-SPLIT.tfrecord-00000-of-000NN.index   where records begin, kept by who reads them
    rejected.csv, summary.json                   what was left out and why; counts

A record is a `tf.train.Example`. It is packed and unpacked here through the protocol buffer that
TFDS brings along, which takes a fifth of the time of TFDS's own parser and no TensorFlow.
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
from mgmtn_jax.data.storage import atomic_file
from mgmtn_jax.data.tfrecord import TFRecordSource
from mgmtn_jax.data.tfrecord_index import FRAME_BYTES, CorruptRecordError

DATASET_NAME = "faces"
NUM_LANDMARKS = 68

HOG, CNN, FALLBACK, GIVEN = 0, 1, 2, 3
"""`landmark_source`: dlib's HOG or CNN detector found the face; nothing did, and the landmarks are
a guess inside a fixed box; or the source of the data set says where the face is."""
LANDMARK_SOURCES: tuple[str, ...] = ("hog", "cnn", "fallback", "given")

YES, NO, UNKNOWN = 1, 0, -1
"""Values of an attribute. Unknown ones count in no loss and no metric."""

OnCorrupt = Literal["raise", "skip"]
"""What a damaged record is: an error, or left out and counted."""


class Record(NamedTuple):
    """One face.

    Coordinates are pixels of the image that `images.decode_image` returns, x then y; a pixel's
    center has whole coordinates.

    Attributes:
      key: names the face, unique in its data set.
      image: the source's own JPEG or PNG bytes.
      landmarks: the 68 points of the iBUG 300-W scheme.
      face_box: left, top, right, bottom of the detection.
      landmark_source: `HOG`, `CNN`, `FALLBACK` or `GIVEN`.
      labels: `YES`, `NO` or `UNKNOWN` for each of the data set's A attributes.
    """

    key: str
    image: bytes
    landmarks: Float32[np.ndarray, "68 2"]
    face_box: Float32[np.ndarray, "4"]
    landmark_source: int
    labels: Int64[np.ndarray, " attributes"]


def features(num_attributes: int) -> tfds.features.FeaturesDict:
    """What TFDS calls the schema of a record."""
    return tfds.features.FeaturesDict(
        {
            "key": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            "landmarks": tfds.features.Tensor(shape=(NUM_LANDMARKS, 2), dtype=np.float32),
            "face_box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
            "landmark_source": tfds.features.Scalar(dtype=np.int64),
            "attributes": tfds.features.Tensor(shape=(num_attributes,), dtype=np.int64),
        }
    )


def serialize(record: Record) -> bytes:
    """The record as a `tf.train.Example`; equal records give equal bytes."""
    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["key"].bytes_list.value.append(record.key.encode())
    feature["image"].bytes_list.value.append(record.image)
    feature["landmarks"].float_list.value.extend(record.landmarks.ravel().tolist())
    feature["face_box"].float_list.value.extend(record.face_box.tolist())
    feature["landmark_source"].int64_list.value.append(record.landmark_source)
    feature["attributes"].int64_list.value.extend(record.labels.tolist())
    return example.SerializeToString(deterministic=True)


def parse(data: bytes) -> Record:
    """The inverse of `serialize`.

    Raises:
      ValueError: if `data` is not a record of this schema.
    """
    try:
        feature = tf_example_pb2.Example.FromString(data).features.feature
        return Record(
            key=feature["key"].bytes_list.value[0].decode(),
            image=feature["image"].bytes_list.value[0],
            landmarks=np.array(feature["landmarks"].float_list.value, np.float32).reshape(
                NUM_LANDMARKS, 2
            ),
            # Four numbers are read faster through a list, many from the field itself.
            face_box=np.array(list(feature["face_box"].float_list.value), np.float32).reshape(4),
            landmark_source=feature["landmark_source"].int64_list.value[0],
            labels=np.fromiter(feature["attributes"].int64_list.value, np.int64),
        )
    except (DecodeError, IndexError, ValueError) as error:
        raise ValueError(f"not a record of a faces data set: {error}") from error


def shard_name(split: str, shard: int, num_shards: int) -> str:
    """The file name TFDS expects of a shard."""
    return f"{DATASET_NAME}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}"


def write_metadata(
    data_dir: epath.PathLike,
    attribute_set: AttributeSet,
    shard_lengths: Mapping[str, Sequence[int]],
) -> None:
    """Makes a folder of finished shards a data set. What TFDS looks for first comes last.

    Args:
      data_dir: the folder with the shards.
      attribute_set: names and groups of the labels.
      shard_lengths: for each split, the number of records in each of its shards.
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
        features=features(len(attribute_set.names)),
        split_infos=split_infos,
        version="1.0.0",
        # The check would read the data with TensorFlow.
        check_data=False,
    )


def load_attribute_set(data_dir: epath.PathLike) -> AttributeSet:
    """The attribute names and groups of a data set.

    Raises:
      FileNotFoundError: if the folder or its `attributes.json` is missing.
    """
    path = _existing_folder(data_dir) / "attributes.json"
    if not path.exists():
        raise FileNotFoundError(f"{path.parent} is not a finished data set: no {path.name} in it")
    return AttributeSet.from_dict(json.loads(path.read_text()))


def split_shard_lengths(data_dir: epath.PathLike) -> dict[str, list[int]]:
    """For each split of a data set, the number of records in each of its shards.

    Raises:
      FileNotFoundError: if the folder or its `dataset_info.json` is missing.
    """
    return {name: _shard_lengths(split) for name, split in _splits(data_dir).items()}


def shard_paths(data_dir: epath.PathLike, split: str) -> list[epath.Path]:
    """The shards of a split, in order.

    Raises:
      FileNotFoundError: if the folder is missing or holds no finished data set.
      ValueError: if the data set has no such split.
    """
    return _shard_paths(data_dir, split, len(_shard_lengths(_split(data_dir, split))))


def open_split(
    data_dir: epath.PathLike, split: str, on_corrupt: OnCorrupt = "raise"
) -> TFRecordSource:
    """Opens a split as `dataset_info.json` describes it; its length is the number given there.

    Nothing but the sizes of the shards is looked at, unless their sum is not the one given there.

    Args:
      data_dir: the data set folder, local or a URL that epath knows.
      split: its split.
      on_corrupt: `raise` makes a shard that is too short or too long an error here. `skip` opens
        it; every record that is lost with it is an error where it is read. A record is itself
        whatever its place, so the first ones of a file with too many or too few are taken.

    Raises:
      FileNotFoundError: if the folder or a shard is missing.
      ValueError: if the data set has no such split.
      CorruptRecordError: if a shard is too short or too long, naming where it is damaged.
    """
    if on_corrupt not in get_args(OnCorrupt):
        raise ValueError(f"on_corrupt must be 'raise' or 'skip', not {on_corrupt!r}")
    info = _split(data_dir, split)
    lengths = _shard_lengths(info)
    paths = _shard_paths(data_dir, split, len(lengths))
    if storage.is_local(data_dir):
        sizes = list(map(_shard_size, paths))
    else:
        with ThreadPoolExecutor(32) as pool:  # Each waits for an answer from far away.
            sizes = list(pool.map(_shard_size, paths))
    source = TFRecordSource(paths, lengths)
    found, stated = sum(sizes), int(info.get("numBytes", 0))
    if on_corrupt == "raise" and stated != found:
        source.verify()
        # Older folders say nothing, and TFDS's own writers count the payloads alone.
        if stated not in (0, found - FRAME_BYTES * len(source)):
            raise CorruptRecordError(
                f"{os.fspath(data_dir)}, split {split!r}",
                len(source),
                found,
                f"the shards end here, dataset_info.json says at byte {stated}",
            )
    return source


def _splits(data_dir: epath.PathLike) -> dict[str, dict[str, Any]]:
    path = _existing_folder(data_dir) / "dataset_info.json"
    if not path.exists():
        raise FileNotFoundError(f"{path.parent} is not a finished data set: no {path.name} in it")
    return {split["name"]: split for split in json.loads(path.read_text())["splits"]}


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


def _existing_folder(data_dir: epath.PathLike) -> epath.Path:
    folder = epath.Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(folder)}")
    return folder
