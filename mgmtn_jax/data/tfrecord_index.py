"""Where the records of a TFRecord file begin: found by one pass, kept in a hidden file beside it.

A record is framed as `length u64 | masked crc32c of length u32 | payload | masked crc32c of payload
u32`, all little-endian: https://www.tensorflow.org/tutorials/load_data/tfrecord. The format has no
index, but one pass over the length headers gives one.

The kept index is never trusted further than to save that pass: it counts only for a file of the
size and time it was made for, and whoever reads a record checks that it is there.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import google_crc32c
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import Int64

from mgmtn_jax.data.storage import RandomAccessFile, atomic_file

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
FRAME_BYTES = HEADER.size + FOOTER.size
"""What the framing adds to every payload."""

INDEX_SUFFIX = ".index"
# Format and version; size and mtime_ns of the indexed file; number of offsets.
_CACHE_HEADER = struct.Struct("<8sQqQ")
_MAGIC = b"TFRindx1"


class CorruptRecordError(ValueError):
    """A TFRecord file is damaged.

    Attributes:
      path: the file.
      record: position of the damaged record in the file, from 0.
      offset: byte at which that record begins.
      reason: what is wrong with it.
    """

    def __init__(self, path: str, record: int, offset: int, reason: str) -> None:
        # All four are passed on as arguments, or the error could not cross a process boundary.
        super().__init__(path, record, offset, reason)
        self.path, self.record, self.offset, self.reason = path, record, offset, reason

    def __str__(self) -> str:
        return f"{self.path}: record {self.record} at byte {self.offset}: {self.reason}"


class Index(NamedTuple):
    """Where records are.

    Attributes:
      offsets: the byte at which each record begins, and last the byte at which the last one ends.
      damage: why the pass ended before the file did, if it did. Nothing behind can be found.
    """

    offsets: Int64[np.ndarray, " records_plus_1"]
    damage: CorruptRecordError | None


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated by 15 bits plus a constant, so that a checksum of data that holds checksums
    stays meaningful."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def checked_length(path: str, record: int, offset: int, header: bytes) -> int:
    """The payload length in a record's 12-byte header.

    Raises:
      CorruptRecordError: if it does not match its checksum.
    """
    if len(header) < HEADER.size:
        raise CorruptRecordError(path, record, offset, "the file ends inside the record's length")
    length, crc = HEADER.unpack(header)
    if masked_crc32c(header[:8]) != crc:
        raise CorruptRecordError(path, record, offset, "the length does not match its checksum")
    return length


def read_index(file: RandomAccessFile) -> Index:
    """The index of a file: the one kept beside it, or else a new one, which is then kept.

    Only that of an undamaged file is kept. Where nothing can be written, nothing is.
    """
    path = index_path(file.path)
    offsets = _load(path, file)
    if offsets is not None:
        return Index(offsets, None)
    index = build_index(file)
    if index.damage is None:
        try:
            # A power failure may take it: the checksum tells.
            with atomic_file(path, durable=False) as cache:
                cache.write(_pack(file, index.offsets))
        except Exception as error:  # The libraries of remote storages raise what they like.
            logging.log_first_n(logging.INFO, "no index is kept beside %s: %s", 1, file.path, error)
    return index


def index_path(path: epath.PathLike) -> epath.Path:
    """Where the index of a TFRecord file is kept."""
    path = epath.Path(path)
    return path.parent / f".{path.name}{INDEX_SUFFIX}"


def build_index(file: RandomAccessFile) -> Index:
    """Indexes a file by one pass over the length headers.

    Payload checksums are left to the read of the record.
    """
    offsets = [0]
    block, start = b"", 0
    damage = None
    try:
        while (offset := offsets[-1]) < file.size:
            begin = offset - start
            if begin + HEADER.size > len(block):
                block, start, begin = file.read(max(file.block, HEADER.size), offset), offset, 0
            record = len(offsets) - 1
            header = block[begin : begin + HEADER.size]
            end = offset + FRAME_BYTES + checked_length(file.path, record, offset, header)
            if end > file.size:
                reason = f"the file ends {end - file.size} bytes before the record does"
                raise CorruptRecordError(file.path, record, offset, reason)
            offsets.append(end)
    except CorruptRecordError as error:
        damage = error.with_traceback(None)  # It would keep the block.
    return Index(np.array(offsets, np.int64), damage)


def _pack(file: RandomAccessFile, offsets: Int64[np.ndarray, " records_plus_1"]) -> bytes:
    header = _CACHE_HEADER.pack(_MAGIC, file.size, file.mtime_ns, len(offsets))
    data = header + offsets.astype("<i8").tobytes()
    return data + FOOTER.pack(masked_crc32c(data))


def _load(path: epath.Path, file: RandomAccessFile) -> Int64[np.ndarray, " records_plus_1"] | None:
    """The offsets kept at `path`, or None if they are missing, damaged or of another file."""
    try:
        data = path.read_bytes()
    except Exception as error:  # As in `read_index`; mostly, that it is missing.
        logging.debug("no index in %s: %s", path, error)
        return None
    if len(data) < _CACHE_HEADER.size + FOOTER.size:
        return None
    magic, size, mtime_ns, count = _CACHE_HEADER.unpack_from(data)
    if (
        (magic, size, mtime_ns) != (_MAGIC, file.size, file.mtime_ns)
        or len(data) != _CACHE_HEADER.size + 8 * count + FOOTER.size
        or FOOTER.unpack(data[-FOOTER.size :])[0] != masked_crc32c(data[: -FOOTER.size])
    ):
        logging.debug("%s is damaged or of another file", path)
        return None
    return np.frombuffer(data, "<i8", count, _CACHE_HEADER.size).astype(np.int64)
