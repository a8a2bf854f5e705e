import errno
import os
import pickle
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgmtn_jax.data import tfrecord
from mgmtn_jax.data.tfrecord import CorruptRecordError, TFRecordSource, write_tfrecord

PAYLOADS = [b"first", b"", b"\x00" * 33, bytes(range(256)), b"last"]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.tfrecord"
    assert write_tfrecord(path, PAYLOADS) == len(PAYLOADS)
    return path


@pytest.fixture
def whole(path):
    return path.read_bytes()


def test_masked_crc_and_frame_are_the_published_ones(tmp_path):
    # CRC-32C of nine digits is the check value of the algorithm's specification.
    crc = 0xE3069283
    assert tfrecord.masked_crc32c(b"123456789") == (
        ((crc >> 15) | (crc << 17)) + 0xA282EAD8 & 0xFFFFFFFF
    )
    write_tfrecord(tmp_path / "f", [b"123456789"])
    data = (tmp_path / "f").read_bytes()
    assert struct.unpack("<Q", data[:8]) == (9,)
    assert data[12:21] == b"123456789"
    assert len(data) == 9 + tfrecord.FRAME_BYTES


@given(st.lists(st.lists(st.binary(max_size=300), max_size=6), max_size=4))
@settings(deadline=None, max_examples=30)
def test_several_files_read_back_as_one_sequence(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("shards")
    paths = [folder / str(i) for i in range(len(files))]
    for path, payloads in zip(paths, files, strict=True):
        write_tfrecord(path, payloads)
    source = TFRecordSource(paths)
    expected = [payload for payloads in files for payload in payloads]
    assert source.shard_lengths == [len(payloads) for payloads in files]
    assert len(source) == len(expected)
    assert [source[i] for i in range(len(source))] == expected
    assert [source[i - len(source)] for i in range(len(source))] == expected


def test_an_index_out_of_range_is_an_index_error(path):
    source = TFRecordSource([path])
    for i in (len(PAYLOADS), -len(PAYLOADS) - 1):
        with pytest.raises(IndexError):
            source[i]
    assert list(source) == PAYLOADS


def test_a_missing_file_is_named(tmp_path, path):
    with pytest.raises(FileNotFoundError, match="gone"):
        TFRecordSource([path, tmp_path / "gone"])


def test_pickled_source_reads_the_same(path):
    copy = pickle.loads(pickle.dumps(TFRecordSource([path])))
    assert list(copy) == PAYLOADS


def test_threads_share_a_source(tmp_path):
    payloads = [os.urandom(200) for _ in range(300)]
    write_tfrecord(tmp_path / "f", payloads)
    source = TFRecordSource([tmp_path / "f"])
    start = threading.Barrier(8)

    def read(seed):
        order = np.random.default_rng(seed).permutation(300)
        start.wait()
        return all(source[i] == payloads[i] for i in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


@given(st.data())
@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # Each example writes all of it.
)
def test_every_flipped_bit_is_found_where_it_is(path, whole, data):
    content = bytearray(whole)
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    begins = np.cumsum([0] + [len(payload) + tfrecord.FRAME_BYTES for payload in PAYLOADS])
    damaged = int(np.searchsorted(begins, position, side="right")) - 1
    with pytest.raises(CorruptRecordError) as caught:
        list(TFRecordSource([path]))
    error = caught.value
    assert (error.path, error.record, error.offset) == (str(path), damaged, begins[damaged])
    assert str(path) in str(error)
    assert f"record {damaged} at byte {begins[damaged]}" in str(error)


def test_every_cut_inside_a_record_is_found(path):
    content = path.read_bytes()
    begins = tfrecord.index_tfrecord(path).tolist()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        if size in begins:  # A sound, shorter file: schema.open_split compares the counts.
            assert list(TFRecordSource([path])) == PAYLOADS[: begins.index(size)]
        else:
            with pytest.raises(CorruptRecordError, match="ends"):
                TFRecordSource([path])


def test_a_file_cut_while_open_is_found(path):
    source = TFRecordSource([path])
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(CorruptRecordError, match="shorter"):
        source[-1]


def test_a_corrupt_record_error_crosses_processes():
    error = pickle.loads(pickle.dumps(CorruptRecordError("f", 3, 40, "bad")))
    assert str(error) == "f: record 3 at byte 40: bad"


def test_a_failed_write_leaves_nothing(tmp_path):
    def records():
        yield b"one"
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "f").write_bytes(b"older")
    with pytest.raises(OSError, match="No space"):
        write_tfrecord(tmp_path / "f", records())
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"older"


def test_indexing_is_one_light_pass(tmp_path):
    write_tfrecord(tmp_path / "f", [b"x" * 1000] * 4000)
    begin = time.thread_time()
    source = TFRecordSource([tmp_path / "f"])
    # CPU time, about 0.01 s: other programs may be running.
    assert time.thread_time() - begin < 0.5
    assert len(source) == 4000
