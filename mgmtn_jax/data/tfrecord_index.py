"""Record offsets of a TFRecord file: found in one pass, cached in a hidden file beside it.

A record is framed as `length u64 | masked crc32c of length u32 | payload | masked crc32c of payload
u32`, all little-endian: https://www.tensorflow.org/tutorials/load_data/tfrecord. The format has no
index, but one pass over the length headers yields one.

The cached index only saves that pass. It is used only for a file of the size and modification time
that it was created for, and each read verifies that the record lies at its offset.
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
"""Bytes that the framing adds to each payload."""

INDEX_SUFFIX = ".index"
# Format and version; size and mtime_ns of the indexed file; number of offsets.
_CACHE_HEADER = struct.Struct("<8sQqQ")
_MAGIC = b"TFRindx1"


class CorruptRecordError(ValueError):
    """A damaged record of a TFRecord file.

    Attributes:
      path: Path of the file.
      record: Position of the damaged record in the file, from 0.
      offset: Byte offset of that record.
      reason: Description of the damage.
    """

    def __init__(self, path: str, record: int, offset: int, reason: str) -> None:
        # Pickling recreates the error from these arguments.
        super().__init__(path, record, offset, reason)
        self.path, self.record, self.offset, self.reason = path, record, offset, reason

    def __str__(self) -> str:
        return f"{self.path}: record {self.record} at byte {self.offset}: {self.reason}"


class Index(NamedTuple):
    """Record offsets of a file.

    Attributes:
      offsets: Byte offset of each record, followed by the end of the last one.
      damage: The damage that ended the pass before the end of the file, or None. Records behind it
        cannot be located.
    """

    offsets: Int64[np.ndarray, " records_plus_1"]
    damage: CorruptRecordError | None


def masked_crc32c(data: bytes) -> int:
    """CRC-32C in TFRecord's masked form: rotated right by 15 bits, plus a constant. The mask keeps
    checksums meaningful for data that contains checksums itself."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def checked_length(path: str, record: int, offset: int, header: bytes) -> int:
    """Reads the payload length from a record's 12-byte header.

    Args:
      path: Path of the file, for the error.
      record: Position of the record in the file, for the error.
      offset: Byte offset of the record, for the error.
      header: The first 12 bytes of the record.

    Raises:
      CorruptRecordError: The header is incomplete or does not match its checksum.
    """
    if len(header) < HEADER.size:
        raise CorruptRecordError(path, record, offset, "the file ends inside the record's length")
    length, crc = HEADER.unpack(header)
    if masked_crc32c(header[:8]) != crc:
        raise CorruptRecordError(path, record, offset, "the length does not match its checksum")
    return length


def read_index(file: RandomAccessFile) -> Index:
    """Loads the cached index of a file, or builds one and caches it.

    Only the index of an undamaged file is cached. Failure to write the cache is logged once.
    """
    path = index_path(file.path)
    offsets = _load(path, file)
    if offsets is not None:
        return Index(offsets, None)
    index = build_index(file)
    if index.damage is None:
        try:
            # Loss of the cache in a power failure is harmless, and its checksum reveals damage.
            with atomic_file(path, durable=False) as cache:
                cache.write(_pack(file, index.offsets))
        except Exception as error:  # Libraries of remote storage raise errors of any type.
            logging.log_first_n(
                logging.INFO, "could not cache the index of %s: %s", 1, file.path, error
            )
    return index


def index_path(path: epath.PathLike) -> epath.Path:
    """The path of a TFRecord file's cached index."""
    path = epath.Path(path)
    return path.parent / f".{path.name}{INDEX_SUFFIX}"


def build_index(file: RandomAccessFile) -> Index:
    """Indexes a file in one pass over its length headers.

    Payload checksums are verified only when a record is read.
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
        damage = error.with_traceback(None)  # The traceback would keep the block in memory.
    return Index(np.array(offsets, np.int64), damage)


def _pack(file: RandomAccessFile, offsets: Int64[np.ndarray, " records_plus_1"]) -> bytes:
    header = _CACHE_HEADER.pack(_MAGIC, file.size, file.mtime_ns, len(offsets))
    data = header + offsets.astype("<i8").tobytes()
    return data + FOOTER.pack(masked_crc32c(data))


def _load(path: epath.Path, file: RandomAccessFile) -> Int64[np.ndarray, " records_plus_1"] | None:
    """Loads cached offsets. None if they are missing, damaged or belong to another file."""
    try:
        data = path.read_bytes()
    except Exception as error:  # Usually that it is missing; of any type, as in `read_index`.
        logging.debug("no cached index in %s: %s", path, error)
        return None
    if len(data) < _CACHE_HEADER.size + FOOTER.size:
        return None
    magic, size, mtime_ns, count = _CACHE_HEADER.unpack_from(data)
    if (
        (magic, size, mtime_ns) != (_MAGIC, file.size, file.mtime_ns)
        or len(data) != _CACHE_HEADER.size + 8 * count + FOOTER.size
        or FOOTER.unpack(data[-FOOTER.size :])[0] != masked_crc32c(data[: -FOOTER.size])
    ):
        logging.debug("%s is damaged or belongs to another file", path)
        return None
    return np.frombuffer(data, "<i8", count, _CACHE_HEADER.size).astype(np.int64)
