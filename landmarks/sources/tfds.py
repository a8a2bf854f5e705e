"""CelebA prepared by TensorFlow Datasets, read without TensorFlow."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_data_source import ArrayRecordDataSource
from etils import epath
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from landmarks.detection import CELEBA_BOX
from landmarks.sources.base import Labels, Source, SourceFace, by_split, existing_folder
from landmarks.sources.label_files import LabelError, bytes_of
from mgmtn_jax.attributes import CELEBA_ATTRIBUTES, AttributeSet
from mgmtn_jax.data.schema import NO, YES
from mgmtn_jax.data.tfrecord import CorruptRecordError, TFRecordSource

INFO, FEATURES = "dataset_info.json", "features.json"
# From DIR to a version's folder: DIR is that folder, its data set's folder, or one of two above.
_VERSIONS = (".", "*", "celeb_a/*", "*/celeb_a/*")


class _Records(Protocol):
    """Serialized `tf.train.Example`s by position; picklable, and safe to read from many threads."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> bytes: ...


_FORMATS: Mapping[str, Callable[[Sequence[str]], _Records]] = {
    "array_record": ArrayRecordDataSource,
    "tfrecord": TFRecordSource,
}


def read_tfds(data_dir: epath.Path | None, limit: int | None, seed: int) -> Source:
    """Reads `celeb_a` of TensorFlow Datasets, prepared as ArrayRecord or TFRecord files.

    DIR/dataset_info.json, DIR/features.json, DIR/celeb_a-train.array_record-00000-of-00016 ...

    DIR is the folder of a version, or a folder above that holds only one: `celeb_a/2.1.0`,
    `celeb_a`, `tensorflow_datasets` or its parent. Any data set works that has a feature `image`
    and booleans under `attributes`. The records hold no file names, so the keys are train-000000,
    train-000001 and so on, in the order of `train[0]`, `train[1]`.

    Raises:
      FileNotFoundError: If there is no prepared data set, or one of its files is missing.
      LabelError: If the metadata are not those of such a data set, a file is damaged, or the number
        of records is wrong.
    """
    folder = _version_folder(existing_folder(data_dir, "tfds"))
    logging.info("data set: %s", folder)
    metadata = bytes_of(folder / INFO) + bytes_of(folder / FEATURES)
    try:
        info = tfds.builder_from_directory(os.fspath(folder)).info
        names = _attribute_names(info.features)
        open_records = _FORMATS[info.file_format.value]
        splits = {name: split for name, split in info.splits.items() if split.num_examples}
    except Exception as error:  # Damaged metadata lead to errors of any type.
        problem = f"not the metadata of a prepared celeb_a: {error}"
        raise LabelError(folder / INFO, problem) from error
    records: dict[str, _Records] = {}
    for name, split in splits.items():
        try:
            records[name] = open_records([os.fspath(path) for path in split.filepaths])
        except (ValueError, RuntimeError) as error:
            raise LabelError(folder, f"a file is damaged: {error}", split=name) from error
        if len(records[name]) != split.num_examples:
            problem = f"{len(records[name])} records, but {INFO} says {split.num_examples}"
            raise LabelError(folder, problem, split=name)
    return Source(
        name="tfds",
        attribute_set=AttributeSet.create(names),
        keys=[f"{name}-{i:06d}" for name in records for i in range(len(records[name]))],
        labels=None,
        splits=by_split([name for name in records for _ in range(len(records[name]))]),
        reader=RecordReader(records, names),
        fallback_box=CELEBA_BOX,
        made_from=hashlib.sha256(metadata).hexdigest(),
    )


@dataclasses.dataclass(frozen=True)
class RecordReader:
    """Reads image and labels from the record whose split and index are the key."""

    records: Mapping[str, _Records]
    names: Sequence[str]

    def __call__(self, face: SourceFace) -> tuple[bytes, Labels]:
        split, _, index = face.key.rpartition("-")
        try:
            data = self.records[split][int(index)]
            feature = tf_example_pb2.Example.FromString(data).features.feature
            (image,) = feature["image"].bytes_list.value
            labels = [_label(feature[f"attributes/{name}"]) for name in self.names]
        except CorruptRecordError as error:  # Without the path, which differs between machines.
            raise ValueError(error.reason) from error
        except (RuntimeError, DecodeError) as error:
            raise ValueError(f"the record is damaged: {error}") from error
        return image, np.array(labels, np.int8)


def _label(feature: tf_example_pb2.Feature) -> int:
    (value,) = feature.int64_list.value
    return YES if value else NO


def _version_folder(folder: epath.Path) -> epath.Path:
    """The folder of the only prepared version in or below `folder`."""
    for pattern in _VERSIONS:
        found = sorted(path.parent for path in folder.glob(f"{pattern}/{INFO}"))
        if len(found) > 1:
            raise ValueError(
                f"{folder} holds several data sets: set --data_dir to one of "
                f"{', '.join(map(str, found))}"
            )
        if found:
            return found[0]
    raise FileNotFoundError(
        f"--source=tfds needs a prepared celeb_a, and there is no {INFO} in {folder} or below"
    )


def _attribute_names(features: tfds.features.FeaturesDict) -> list[str]:
    """The booleans under `attributes`, CelebA's first in CelebA's order, then others by name.

    TFDS itself sorts them by name.
    """
    if not isinstance(features["image"], tfds.features.Image):
        raise ValueError("feature image is not an image")
    for name, feature in sorted(features["attributes"].items()):
        if feature.np_dtype != np.bool_ or feature.shape:
            raise ValueError(f"feature attributes/{name} is not a boolean")
    names = sorted(features["attributes"])
    usual = [name for name in CELEBA_ATTRIBUTES if name in names]
    return usual + [name for name in names if name not in usual]
