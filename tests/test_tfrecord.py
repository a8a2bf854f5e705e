"""Undamaged TFRecord files: framing, order, and the cached index."""

import errno
import logging
import os
import pickle
import resource
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgmtn_jax.data import tfrecord_index
from mgmtn_jax.data.storage import RandomAccessFile
from mgmtn_jax.data.tfrecord import (
    CorruptRecordError,
    TFRecordSource,
    masked_crc32c,
    write_tfrecord,
)
from mgmtn_jax.data.tfrecord_index import FRAME_BYTES, index_path

PAYLOADS = [b"first", b"", b"\x00" * 33, bytes(range(256)), b"last"]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.tfrecord"
    assert write_tfrecord(path, PAYLOADS) == len(PAYLOADS)
    return path


@pytest.fixture
def passes(monkeypatch):
    """The paths of the files that were indexed by a pass, in order."""
    done = []

    def build_index(file):
        done.append(file.path)
        return original(file)

    original = tfrecord_index.build_index
    monkeypatch.setattr(tfrecord_index, "build_index", build_index)
    return done


def test_masked_crc_and_frame_match_the_specification(tmp_path):
    # CRC-32C of nine digits is the check value of the algorithm's specification.
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == ((crc >> 15) | (crc << 17)) + 0xA282EAD8 & 0xFFFFFFFF
    write_tfrecord(tmp_path / "f", [b"123456789"])
    data = (tmp_path / "f").read_bytes()
    assert struct.unpack("<Q", data[:8]) == (9,)
    assert data[12:21] == b"123456789"
    assert len(data) == 9 + FRAME_BYTES


@given(st.lists(st.lists(st.binary(max_size=300), max_size=6), max_size=4), st.booleans())
@settings(deadline=None, max_examples=30)
def test_several_files_read_back_as_one_sequence(tmp_path_factory, files, lengths_known):
    folder = tmp_path_factory.mktemp("shards")
    paths = [folder / str(i) for i in range(len(files))]
    for path, payloads in zip(paths, files, strict=True):
        write_tfrecord(path, payloads)
    source = TFRecordSource(paths, list(map(len, files)) if lengths_known else None)
    expected = [payload for payloads in files for payload in payloads]
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


def test_every_file_needs_a_length(path):
    with pytest.raises(ValueError, match="longer"):
        TFRecordSource([path], [len(PAYLOADS), 2])


def test_damage_is_found_at_construction_without_lengths(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptRecordError, match="record 4 at byte"):
        TFRecordSource([path])


def test_pickled_source_reads_the_same(path):
    copy = pickle.loads(pickle.dumps(TFRecordSource([path])))
    assert list(copy) == PAYLOADS


def test_a_source_leaves_no_file_open(path):
    before = len(os.listdir("/proc/self/fd"))
    source = TFRecordSource([path])
    assert source[0] == PAYLOADS[0]
    del source
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_is_opened_when_it_is_read(path, passes):
    source = TFRecordSource([path, path.with_name("not yet")], [len(PAYLOADS), 2])
    assert len(source) == len(PAYLOADS) + 2
    assert passes == []
    assert [source[i] for i in range(len(PAYLOADS))] == PAYLOADS
    assert passes == [str(path)]
    with pytest.raises(FileNotFoundError, match="not yet"):
        source[-1]


def test_threads_share_a_source(tmp_path, passes):
    payloads = [os.urandom(200) for _ in range(300)]
    write_tfrecord(tmp_path / "f", payloads)
    source = TFRecordSource([tmp_path / "f"], [300])
    start = threading.Barrier(8)

    def read(seed):
        order = np.random.default_rng(seed).permutation(300)
        start.wait()
        return all(source[i] == payloads[i] for i in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert len(passes) == 1


def test_a_cached_index_saves_the_pass(path, passes):
    for _ in range(2):
        assert list(TFRecordSource([path])) == PAYLOADS
    assert len(passes) == 1
    assert sorted(p.name for p in path.parent.iterdir()) == [".a.tfrecord.index", "a.tfrecord"]


def damaged(data):
    """Invalid contents of an index file, each with its defect."""
    yield "empty", b""
    yield "cut", data[:-1]
    yield "longer", data + b"\0"
    yield "text", b"faces\n" * 20
    for byte in range(len(data)):
        yield f"byte {byte}", data[:byte] + bytes([data[byte] ^ 0x10]) + data[byte + 1 :]


def test_a_damaged_index_is_rebuilt(path, passes):
    TFRecordSource([path])
    kept = index_path(path)
    sound = kept.read_bytes()
    for what, data in damaged(sound):
        kept.write_bytes(data)
        passes.clear()
        assert list(TFRecordSource([path])) == PAYLOADS, what
        assert passes, what
        assert kept.read_bytes() == sound, what


def test_the_index_of_another_file_is_not_used(path, passes):
    TFRecordSource([path])
    # The size is unchanged; only the time differs.
    write_tfrecord(path, PAYLOADS[::-1])
    os.utime(path, ns=(0, 0))
    assert list(TFRecordSource([path])) == PAYLOADS[::-1]
    # The time is unchanged; only the size differs.
    write_tfrecord(path, PAYLOADS[:3])
    os.utime(path, ns=(0, 0))
    assert list(TFRecordSource([path])) == PAYLOADS[:3]
    assert len(passes) == 3


def test_moved_records_are_not_mistaken_for_each_other(path):
    TFRecordSource([path])
    times = path.stat().st_mtime_ns
    write_tfrecord(path, [PAYLOADS[i] for i in (2, 1, 0, 3, 4)])  # Size and time are unchanged.
    os.utime(path, ns=(times, times))
    source = TFRecordSource([path])
    for i, reason in enumerate(("not as long as indexed", "length does not", "length does not")):
        with pytest.raises(CorruptRecordError, match=f"record {i} at .*{reason}"):
            source[i]
    assert [source[3], source[4]] == PAYLOADS[3:]


@pytest.mark.parametrize("obstacle", ["folder of that name", "full disk"])
def test_records_are_read_without_a_writable_cache(path, caplog, passes, monkeypatch, obstacle):
    monkeypatch.setattr("absl.logging._log_counter_per_token", {})  # Nothing was logged yet.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if obstacle == "full disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    else:
        index_path(path).mkdir()
    try:
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                assert list(TFRecordSource([path])) == PAYLOADS
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(passes) == 3
    assert not any(".partial" in name for name in os.listdir(path.parent))
    (message,) = [m for m in caplog.messages if "could not cache the index" in m]
    assert str(path) in message


def test_two_processes_index_the_same_file_at_once(tmp_path):
    payloads = [b"x" * (i % 50) for i in range(20_000)]
    write_tfrecord(tmp_path / "f", payloads)
    # Each waits for the other's file, so that they start together.
    program = """
import pathlib, sys
from mgmtn_jax.data.tfrecord import TFRecordSource
me, other = map(pathlib.Path, sys.argv[1:])
me.touch()
while not other.exists(): pass
source = TFRecordSource([me.with_name("f")], [20_000])
assert all(source[i] == b"x" * (i % 50) for i in range(0, 20_000, 7))
"""
    a, b = tmp_path / "a", tmp_path / "b"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, *names], cwd=Path(__file__).parents[1])
        for names in ((a, b), (b, a))
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".f.index", "a", "b", "f"]
    assert TFRecordSource([tmp_path / "f"])[-1] == payloads[-1]


def test_a_corrupt_record_error_crosses_processes():
    for error in (
        CorruptRecordError("f", 3, 40, "bad"),
        CorruptRecordError(path="f", record=3, offset=40, reason="bad"),
    ):
        assert str(pickle.loads(pickle.dumps(error))) == "f: record 3 at byte 40: bad"


def test_a_failed_write_leaves_nothing(tmp_path):
    def records():
        yield b"one"
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "f").write_bytes(b"older")
    with pytest.raises(OSError, match=r"No space left on device: .*/f'"):
        write_tfrecord(tmp_path / "f", records())
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"older"


def test_indexing_is_one_fast_pass(tmp_path):
    write_tfrecord(tmp_path / "f", [b"x" * 1000] * 4000)
    begin = time.thread_time()
    offsets = tfrecord_index.build_index(RandomAccessFile(tmp_path / "f")).offsets
    # CPU time, about 0.01 s: other programs may be running.
    assert time.thread_time() - begin < 0.5
    assert offsets.tolist() == list(range(0, 4001 * 1016, 1016))


def test_remote_files_are_indexed_block_by_block(tmp_path):
    write_tfrecord(tmp_path / "f", [b"x" * (i % 30) for i in range(100)])
    file = RandomAccessFile(tmp_path / "f")
    expected = tfrecord_index.build_index(file).offsets.tolist()
    file.block, read, reads = 300, file.read, []
    file.read = lambda size, begin: reads.append((size, begin)) or read(size, begin)
    assert tfrecord_index.build_index(file).offsets.tolist() == expected
    assert {size for size, _ in reads} == {300}
    # The next block begins at a header, so that up to a record and a header of one are unused.
    assert len(reads) <= file.size / (300 - 29 - FRAME_BYTES) + 1
