"""Damaged shards: each read returns the written payload or an error with its place."""

import errno
import os
import struct

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import schema, tfrecord_index
from mgmtn_jax.data.tfrecord import CorruptRecordError, TFRecordSource, write_tfrecord
from mgmtn_jax.data.tfrecord_index import FRAME_BYTES, index_path

PAYLOADS = [b"first", b"\x00" * 20, b"", b"the fourth", b"last"]
BEGINS = np.cumsum([0] + [len(payload) + FRAME_BYTES for payload in PAYLOADS]).tolist()
OTHERS = [b"of another shard", b"which is sound"]


@pytest.fixture
def folder(tmp_path):
    for shard, payloads in enumerate((PAYLOADS, OTHERS)):
        write_tfrecord(tmp_path / schema.shard_name("train", shard, 2), payloads)
    names = AttributeSet.create(["Smiling"])
    schema.write_metadata(tmp_path, names, {"train": [len(PAYLOADS), len(OTHERS)]})
    return tmp_path


@pytest.fixture
def shard(folder):
    """The path of the first shard, which the tests damage."""
    return folder / schema.shard_name("train", 0, 2)


def read(source):
    """The payload of each record, or the error that reading it raises."""
    found = []
    for i in range(len(source)):
        try:
            found.append(source[i])
        except CorruptRecordError as error:
            found.append(error)
    return found


def check(folder, shard, record, lost, reason):
    """Asserts that damage to one record is named and that all other records can be read."""
    found = read(schema.open_split(folder, "train", on_corrupt="skip"))
    assert len(found) == len(PAYLOADS) + len(OTHERS)
    assert found[len(PAYLOADS) :] == OTHERS
    for i, (payload, written) in enumerate(zip(found, PAYLOADS, strict=False)):
        if i not in lost:
            assert payload == written
        else:
            assert (payload.path, payload.record) == (str(shard), record)
            assert payload.offset == BEGINS[record]
            assert f"{shard}: record {record} at byte {BEGINS[record]}: " in str(payload)
            assert reason in str(payload)
            assert (f"record {i} lies behind it" in str(payload)) == (i != record)
    with pytest.raises(CorruptRecordError, match=f"record {record} at byte {BEGINS[record]}: "):
        list(schema.open_split(folder, "train"))


def test_every_truncation_is_found_at_opening(folder, shard):
    content = shard.read_bytes()
    for size in range(len(content)):
        shard.write_bytes(content[:size])
        record = int(np.searchsorted(BEGINS, size, side="right")) - 1
        cut = size - BEGINS[record]
        if cut == 0:  # A valid TFRecord file, only too short.
            reason = f"the file holds {record} records, not 5"
        elif cut < 12:
            reason = "the file ends inside the record's length"
        else:
            reason = f"the file ends {BEGINS[record + 1] - size} bytes before the record does"
        check(folder, shard, record, range(record, 5), reason)
        with pytest.raises(CorruptRecordError):
            schema.open_split(folder, "train")


@pytest.mark.parametrize("kept", [False, True])
def test_every_flipped_bit_is_found_by_the_read(folder, shard, kept):
    content = shard.read_bytes()
    times = shard.stat().st_mtime_ns
    for bit in range(8 * BEGINS[3], 8 * BEGINS[4]):
        begin = bit // 8 - BEGINS[3]
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        if kept:  # Disk decay does not change the time, so the cached index is used.
            shard.write_bytes(content)
            os.utime(shard, ns=(times, times))
            assert read(schema.open_split(folder, "train")) == PAYLOADS + OTHERS
        shard.write_bytes(flipped)
        os.utime(shard, ns=(times, times + (not kept)))
        schema.open_split(folder, "train")  # The size is unchanged.
        if begin < 12 and not kept:
            check(folder, shard, 3, [3, 4], "the length does not match its checksum")
        elif begin < 12:
            check(folder, shard, 3, [3], "the length does not match its checksum")
        else:
            check(folder, shard, 3, [3], "the payload does not match its checksum")


def framed(length, payload=b""):
    """A frame with valid checksums and any stated length."""
    header = struct.pack("<Q", length)
    return b"".join(
        data + struct.pack("<I", tfrecord_index.masked_crc32c(data)) for data in (header, payload)
    )


@pytest.mark.parametrize(
    ("content", "record", "reason"),
    [
        (b"", 0, "the file holds 0 records, not 5"),
        (b"key,image\n1.jpg,images/1.jpg\n", 0, "the length does not match its checksum"),
        (framed(2**63), 0, f"the file ends {2**63} bytes before the record does"),
        (framed(2**64 - 1), 0, "bytes before the record does"),
        (framed(5, b"first") + b"\0" * 500, 1, "the length does not match its checksum"),
    ],
    ids=["empty", "text", "2^63 bytes", "2^64 bytes", "zeros"],
)
def test_other_files_are_named(folder, shard, content, record, reason):
    shard.write_bytes(content)
    check(folder, shard, record, range(record, 5), reason)


@pytest.mark.parametrize(
    "tail", [b"\0", b"garbage that is longer than a frame's header", framed(0)]
)
def test_trailing_bytes_are_found_at_opening_and_lose_no_record(folder, shard, tail):
    shard.write_bytes(shard.read_bytes() + tail)
    check(folder, shard, 5, [], "")
    with pytest.raises(CorruptRecordError):
        schema.open_split(folder, "train")


def test_truncation_of_an_open_file_is_found(folder, shard):
    source = schema.open_split(folder, "train")
    assert source[0] == PAYLOADS[0]
    os.truncate(shard, BEGINS[-1] - 1)
    with pytest.raises(CorruptRecordError, match=r"record 4 .* became shorter while open"):
        source[4]


@pytest.mark.parametrize("on_corrupt", ["raise", "skip"])
def test_a_missing_shard_is_named_at_opening(folder, shard, on_corrupt):
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"a shard is missing: .*{shard.name}"):
        schema.open_split(folder, "train", on_corrupt)


def test_a_replaced_record_is_found_at_opening(folder, shard):
    write_tfrecord(shard, [*PAYLOADS[:4], b"longer than the last"])
    with pytest.raises(CorruptRecordError, match=r"split 'train': record 7 .* states"):
        schema.open_split(folder, "train")


def test_byte_counts_of_tfds_exclude_the_framing(folder):
    info = folder / "dataset_info.json"
    num_bytes = BEGINS[-1] + sum(len(payload) + FRAME_BYTES for payload in OTHERS)
    payload_bytes = sum(map(len, PAYLOADS + OTHERS))
    assert f'"numBytes": "{num_bytes}"' in info.read_text()
    info.write_text(info.read_text().replace(f'"{num_bytes}"', f'"{payload_bytes}"'))
    assert list(schema.open_split(folder, "train")) == PAYLOADS + OTHERS


def test_an_older_folder_without_sizes_is_checked_record_by_record(folder, shard):
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace('"numBytes"', '"numOther"'))
    assert list(schema.open_split(folder, "train")) == PAYLOADS + OTHERS
    write_tfrecord(shard, PAYLOADS[:4])
    with pytest.raises(CorruptRecordError, match="4 records, not 5"):
        schema.open_split(folder, "train")


def test_a_read_error_names_the_file(folder, shard, monkeypatch):
    source = schema.open_split(folder, "train")
    assert source[0] == PAYLOADS[0]

    def pread(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(source._shards[0]._opened.file, "_read", pread)
    with pytest.raises(OSError, match=f"Input/output error: .*{shard.name}"):
        source[1]


def reference(content):
    """The payloads of a file, None for a damaged one, up to the first damaged length."""

    def crc(data):
        value = google_crc32c.value(data)
        return (((value >> 15) | (value << 17 & 0xFFFFFFFF)) + 0xA282EAD8) % 2**32

    payloads = []
    while len(content) >= 12:
        length, length_crc = struct.unpack("<QI", content[:12])
        if crc(content[:8]) != length_crc or len(content) < length + 16:
            return payloads, False
        payload, (payload_crc,) = (
            content[12:][:length],
            struct.unpack_from("<I", content, 12 + length),
        )
        payloads.append(payload if crc(payload) == payload_crc else None)
        content = content[length + 16 :]
    return payloads, not content


@st.composite
def edited(draw, content):
    """Bytes after a few flips, cuts, insertions and duplications, often at frame boundaries."""
    for _ in range(draw(st.integers(1, 3))):
        places = st.integers(0, len(content)) | st.sampled_from(BEGINS)
        a, b = sorted((draw(places), draw(places)))
        kind = draw(st.sampled_from(["flip", "cut", "remove", "insert", "overwrite", "duplicate"]))
        if kind == "flip" and a < len(content):
            flipped = content[a] ^ 1 << draw(st.integers(0, 7))
            content = content[:a] + bytes([flipped]) + content[a + 1 :]
        elif kind == "cut":
            content = content[:a]
        elif kind == "remove":
            content = content[:a] + content[b:]
        elif kind in ("insert", "overwrite"):
            new = draw(st.binary(min_size=1, max_size=30))
            content = content[:a] + new + content[a + len(new) * (kind == "overwrite") :]
        elif kind == "duplicate":
            at = draw(places)
            content = content[:at] + content[a:b] + content[at:]
    return content


# Moved records of the same number of bytes are the one edit that opening does not find.
def test_a_shard_cut_within_a_moved_record_is_found_when_it_is_read(folder, shard):
    content = b"".join(map(framed, map(len, PAYLOADS), PAYLOADS))
    moved = content[: BEGINS[1]] + content
    shard.write_bytes(moved[: len(content)])
    source = schema.open_split(folder, "train")
    assert source[0] == source[1] == PAYLOADS[0]
    with pytest.raises(CorruptRecordError, match=r"record 4 .* the file ends 1 bytes before"):
        source[4]


@given(st.data())
@settings(
    deadline=None,
    max_examples=1000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # Each example writes all of it.
)
def test_no_edited_shard_is_taken_for_the_original(folder, shard, data):
    """Edits the shard, with a cached index that is valid, outdated or edited too."""
    kept = index_path(shard)
    shard.write_bytes(b"".join(map(framed, map(len, PAYLOADS), PAYLOADS)))
    kept.unlink(missing_ok=True)
    times = shard.stat().st_mtime_ns
    index = data.draw(st.sampled_from(["none", "sound", "edited"]))
    if index != "none":
        assert list(TFRecordSource([shard])) == PAYLOADS
    if index == "edited":
        kept.write_bytes(data.draw(edited(kept.read_bytes())))
    content = data.draw(edited(shard.read_bytes()))
    shard.write_bytes(content)
    if data.draw(st.booleans()):
        os.utime(shard, ns=(times, times))

    sound, whole = reference(content)
    moved = any(p not in (None, written) for p, written in zip(sound, PAYLOADS, strict=False))
    # The same number of records and bytes in another order is another valid shard.
    assume(not (moved and whole and len(sound) == 5 and len(content) == BEGINS[-1]))
    sound += [None] * (len(PAYLOADS) - len(sound))

    def unless_damaged(open_and_read):
        try:
            return open_and_read()
        except CorruptRecordError:
            return None

    skipping = TFRecordSource([shard], [len(PAYLOADS)])  # As open_split returns for "skip".
    for i, written in enumerate(PAYLOADS):
        found = unless_damaged(lambda i=i: skipping[i])
        # A valid index also locates records behind a damaged length.
        assert found == sound[i] or (index != "none" and found in (None, written))
    source = unless_damaged(lambda: schema.open_split(folder, "train"))
    # A shard of the stated size is not scanned when it is opened: if records have moved in it,
    # those before the first damaged length are valid, and the others are errors when read.
    if source is not None and not (moved and len(content) == BEGINS[-1]):
        for i, written in enumerate(PAYLOADS):
            assert unless_damaged(lambda i=i: source[i]) in (None, written)
    if len(content) != BEGINS[-1]:
        assert source is None
