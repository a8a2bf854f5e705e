"""TensorFlow reads our data sets. Skipped unless TensorFlow is installed.

    FACES_DATA_DIR=DIR python -m pytest tests/test_tensorflow_interop.py

reads an existing data set instead of a small one that the test creates.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mgmtn_jax.data import schema
from mgmtn_jax.data.images import decode_image

tensorflow = pytest.importorskip("tensorflow")

# TensorFlow and Keras warn about their own code.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if "FACES_DATA_DIR" in os.environ:
        return Path(os.environ["FACES_DATA_DIR"])
    folder = tmp_path_factory.mktemp("drawn") / "faces"
    command = [sys.executable, "-m", "landmarks.precompute", "--source=drawn", "--limit=20"]
    command += [f"--out_dir={folder}", "--num_shards=4"]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
    return folder


def ours(folder, split):
    return [schema.parse(data) for data in schema.open_split(folder, split)]


def assert_equal(record, example):
    """Compares all fields of a record but the image with TensorFlow's tensors."""
    assert example["key"].decode() == record.key
    assert example["landmark_source"] == record.landmark_source
    for name in ("landmarks", "face_box", "attributes"):
        value = record.labels if name == "attributes" else getattr(record, name)
        assert example[name].dtype == value.dtype
        np.testing.assert_array_equal(example[name], value)


def test_tf_data_reads_every_record(folder):
    count = len(schema.load_attribute_set(folder).names)
    description = {
        "key": tensorflow.io.FixedLenFeature([], tensorflow.string),
        "image": tensorflow.io.FixedLenFeature([], tensorflow.string),
        "landmarks": tensorflow.io.FixedLenFeature([68, 2], tensorflow.float32),
        "face_box": tensorflow.io.FixedLenFeature([4], tensorflow.float32),
        "landmark_source": tensorflow.io.FixedLenFeature([], tensorflow.int64),
        "attributes": tensorflow.io.FixedLenFeature([count], tensorflow.int64),
    }
    for split in schema.split_shard_lengths(folder):
        paths = [os.fspath(path) for path in schema.shard_paths(folder, split)]
        examples = tensorflow.data.TFRecordDataset(paths).map(
            lambda data: tensorflow.io.parse_single_example(data, description)
        )
        for record, example in zip(ours(folder, split), examples.as_numpy_iterator(), strict=True):
            assert_equal(record, example)
            assert example["image"] == record.image


def test_tfds_reads_every_record(folder):
    builder = tfds.builder_from_directory(folder)
    in_order = tfds.ReadConfig(interleave_cycle_length=1)
    for split in schema.split_shard_lengths(folder):
        examples = builder.as_dataset(split=split, read_config=in_order, shuffle_files=False)
        for record, example in zip(ours(folder, split), examples.as_numpy_iterator(), strict=True):
            assert_equal(record, example)
            # TensorFlow rounds differently in the inverse DCT and in chroma upsampling.
            image = decode_image(record.image)
            assert example["image"].shape == image.shape
            assert np.abs(example["image"].astype(int) - image).mean() < 2
