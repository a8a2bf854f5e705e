"""One face as it is stored, and the folder the faces are stored in.

The folder is a TensorFlow Datasets data set: `tfds.builder_from_directory(folder)` opens it.

    features.json, dataset_info.json             what TFDS reads
    faces-SPLIT.tfrecord-00000-of-000NN          the shards of each split
    attributes.json                              attribute names and groups
    rejected.csv, summary.json                   what was left out and why; counts

A record is a `tf.train.Example`. It is packed and unpacked here through the protocol buffer that
TFDS brings along, which takes a fifth of the time of TFDS's own parser and no TensorFlow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from google.protobuf.message import DecodeError
from jaxtyping import Float32, Int64
from tensorflow_datasets.proto import tf_example_pb2

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data.tfrecord import CorruptRecordError, TFRecordSource, atomic_file

DATASET_NAME = "faces"
NUM_LANDMARKS = 68

HOG, CNN, FALLBACK, GIVEN = 0, 1, 2, 3
"""`landmark_source`: dlib's HOG or CNN detector found the face; nothing did, and the landmarks are
a guess inside a fixed box; or the source of the data set says where the face is."""
LANDMARK_SOURCES: tuple[str, ...] = ("hog", "cnn", "fallback", "given")

YES, NO, UNKNOWN = 1, 0, -1
"""Values of an attribute. Unknown ones count in no loss and no metric."""


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
      attributes: `YES`, `NO` or `UNKNOWN` for each of the data set's A attributes.
    """

    key: str
    image: bytes
    landmarks: Float32[np.ndarray, "68 2"]
    face_box: Float32[np.ndarray, "4"]
    landmark_source: int
    attributes: Int64[np.ndarray, " attributes"]


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
    feature["attributes"].int64_list.value.extend(record.attributes.tolist())
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
            face_box=np.array(feature["face_box"].float_list.value, np.float32).reshape(4),
            landmark_source=feature["landmark_source"].int64_list.value[0],
            attributes=np.array(feature["attributes"].int64_list.value, np.int64),
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
                (folder / shard_name(split, shard, len(lengths))).stat().length
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
    path = _existing_folder(data_dir) / "dataset_info.json"
    if not path.exists():
        raise FileNotFoundError(f"{path.parent} is not a finished data set: no {path.name} in it")
    splits = json.loads(path.read_text())["splits"]
    return {split["name"]: [int(n) for n in split["shardLengths"]] for split in splits}


def shard_paths(data_dir: epath.PathLike, split: str) -> list[epath.Path]:
    """The shards of a split, in order.

    Raises:
      FileNotFoundError: if the folder is missing or holds no finished data set.
      ValueError: if the data set has no such split.
    """
    lengths = split_shard_lengths(data_dir)
    if split not in lengths:
        raise ValueError(f"{data_dir} has no split {split!r}: it has {', '.join(sorted(lengths))}")
    count = len(lengths[split])
    return [epath.Path(data_dir) / shard_name(split, shard, count) for shard in range(count)]


def open_split(data_dir: epath.PathLike, split: str) -> TFRecordSource:
    """Opens a split and compares every shard's number of records with `dataset_info.json`: a file
    cut between two records is a sound TFRecord file and shows in no other way.

    Raises:
      FileNotFoundError: if the folder or a shard is missing.
      ValueError: if the data set has no such split.
      CorruptRecordError: if a shard is damaged or has too few or too many records.
    """
    paths = shard_paths(data_dir, split)
    source = TFRecordSource(paths)
    expected = split_shard_lengths(data_dir)[split]
    for path, found, wanted in zip(paths, source.shard_lengths, expected, strict=True):
        if found != wanted:
            raise CorruptRecordError(
                os.fspath(path),
                min(found, wanted),
                path.stat().length,
                f"the file holds {found} records, dataset_info.json says {wanted}",
            )
    return source


def _existing_folder(data_dir: epath.PathLike) -> epath.Path:
    folder = epath.Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {os.fspath(folder)}")
    return folder
