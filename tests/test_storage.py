"""Files are written completely or not at all, and read by ranges, locally and behind a URL."""

import errno
import os
import resource
import stat
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from etils.epath.testing import mock_epath

from mgmtn_jax.data import pipeline, schema, storage
from mgmtn_jax.data.storage import RandomAccessFile, atomic_file
from mgmtn_jax.data.tfrecord import CorruptRecordError, TFRecordSource, write_tfrecord
from tests.helpers.bucket import Bucket
from tests.helpers.dotted_faces import write_dataset


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path, bucket):
    """An empty folder of either kind."""
    return epath.Path(tmp_path) if request.param == "local" else bucket


def test_file_appears_only_when_complete(folder):
    (folder / "f").write_bytes(b"older")
    with pytest.raises(ZeroDivisionError), atomic_file(folder / "f") as file:
        file.write(b"half" * (1 // 0))
    assert names(folder) == ["f"]
    assert (folder / "f").read_bytes() == b"older"
    with atomic_file(folder / "f") as one, atomic_file(folder / "f") as other:
        one.write(b"this")
        other.write(b"that")
    assert names(folder) == ["f"]
    assert (folder / "f").read_bytes() == b"this"


def test_durable_file_syncs_its_folder(tmp_path, monkeypatch):
    """Only then does the rename survive a power failure."""
    synced = []
    monkeypatch.setattr("os.fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    with atomic_file(tmp_path / "f", durable=False) as file:
        file.write(b"x")
    assert synced == []
    with atomic_file(tmp_path / "f") as file:
        file.write(b"x")
    assert synced == [False, True]


def test_remote_file_is_written_in_one_piece(bucket, monkeypatch):
    """Nothing is renamed: an object store would copy every byte."""
    monkeypatch.setattr(Bucket, "mv", None)
    monkeypatch.setattr(Bucket, "rename", None)
    with atomic_file(bucket / "f") as file:
        file.write(b"this")
    assert (bucket / "f").read_bytes() == b"this"


def test_concurrent_reads_share_no_position(folder):
    data = bytes(range(256)) * 50
    (folder / "f").write_bytes(data)
    file = RandomAccessFile(folder / "f")
    assert file.size == len(data)

    def check(begin):
        return file.read(100, begin) == data[begin : begin + 100]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, np.random.default_rng(0).integers(0, len(data), 400).tolist()))
    assert file.read(100, len(data) - 3) == data[-3:]


def test_missing_file_is_not_found(folder):
    for use in (RandomAccessFile, storage.stat):
        with pytest.raises(FileNotFoundError, match="nothing"):
            use(folder / "nothing")


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        RandomAccessFile(tmp_path).read(10, 0)


@pytest.mark.parametrize("room", [0, 50, 4096])
def test_full_disk_is_an_error_that_names_the_file(tmp_path, room):
    (tmp_path / "f").write_bytes(b"older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OSError, match=r"too large: .*/f'") as caught:
            write_tfrecord(tmp_path / "f", [b"x" * 1000] * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert names(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"older"


def test_data_set_behind_a_url(bucket):
    write_dataset(bucket, 9)
    assert set(tfds.builder_from_directory(bucket).info.splits) == {"train"}
    source = schema.open_split(bucket, "train")
    assert Bucket.ranges == []
    assert [schema.parse(data).key for data in source] == [f"face-{i}" for i in range(9)]
    # One pass over each of the two shards, then exactly the bytes of each record.
    shards = schema.shard_paths(bucket, "train")
    assert len(Bucket.ranges) == 2 + 9
    assert sum(sorted(Bucket.ranges)[:9]) == sum(storage.stat(path)[0] for path in shards)

    Bucket.ranges.clear()
    batches = pipeline.evaluation_batches(
        str(bucket), split="train", batch_size=4, image_size=32, num_threads=2
    )
    index = np.concatenate([batch["index"] for batch in batches])
    assert index.tolist() == [*range(9), -1, -1, -1]
    assert max(Bucket.ranges) < 10_000  # The stored indexes are used.

    (bucket / shards[0].name).write_bytes(shards[0].read_bytes()[:-1])
    with pytest.raises(CorruptRecordError, match=r"gs://bucket/faces/faces-train.*: record 3 at"):
        schema.open_split(bucket, "train")
    shards[0].unlink()
    with pytest.raises(FileNotFoundError, match=shards[0].name):
        schema.open_split(bucket, "train")


def test_storage_without_fsspec(tmp_path):
    """As with TensorFlow installed: remote files offer only seek and read."""

    def local(path):
        return str(path).replace("gs://bucket", str(tmp_path))

    def moved(function, path, *args):
        return function(local(path), *map(local, args))

    functions = dict.fromkeys(("exists", "isdir", "listdir", "stat", "remove", "replace"), moved)
    payloads = [b"one", b"two" * 99, b""]
    with mock_epath(open=lambda function, path, mode: function(local(path), mode), **functions):
        write_tfrecord("gs://bucket/f", payloads)
        source = TFRecordSource(["gs://bucket/f"])
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(source.__getitem__, [0, 1, 2] * 20)) == payloads * 20
    assert names(tmp_path) == [".f.index", "f"]
