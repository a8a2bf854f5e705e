"""TFRecord files: written atomically, read at random, both checksums checked on every read.

A record is framed as `length u64 | masked crc32c of length u32 | payload | masked crc32c of payload
u32`, all little-endian: https://www.tensorflow.org/tutorials/load_data/tfrecord. The format has no
index, but one pass over the length headers gives one, and with it record i is one `pread`.
"""

from __future__ import annotations

import contextlib
import os
import struct
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from jaxtyping import Int64

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
FRAME_BYTES = _HEADER.size + _FOOTER.size
"""What the framing adds to every payload."""


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


def masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated by 15 bits plus a constant, so that a checksum of data that holds checksums
    stays meaningful."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_tfrecord(path: str | os.PathLike[str], records: Iterable[bytes]) -> int:
    """Writes one file that either appears whole under `path` or not at all.

    Args:
      path: where the file goes; its folder must exist.
      records: the payloads, consumed once and never held together.

    Returns:
      The number of records written.
    """
    path = os.fspath(path)
    count = 0
    with atomic_file(path) as file:
        for payload in records:
            count += 1
            length = struct.pack("<Q", len(payload))
            file.write(length + _FOOTER.pack(masked_crc32c(length)))
            file.write(payload)
            file.write(_FOOTER.pack(masked_crc32c(payload)))
    return count


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a binary file for writing that takes the name `path` only when all of it is on disk.

    Until then it is `.NAME.PID.partial` in the same folder: two processes never write into the same
    one, and a killed process leaves nothing that could be taken for the file.
    """
    folder, name = os.path.split(os.fspath(path))
    partial = os.path.join(folder, f".{name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def index_tfrecord(path: str | os.PathLike[str]) -> Int64[np.ndarray, " records_plus_1"]:
    """The byte at which each record begins, and last the size of the file.

    Reads 12 bytes a record. Payload checksums are left to the read of the record.

    Raises:
      CorruptRecordError: if a length does not match its checksum or the file ends inside a record.
    """
    path = os.fspath(path)
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        offsets = [0]
        while (offset := offsets[-1]) < size:
            length = _checked_length(path, len(offsets) - 1, offset, os.pread(file, 12, offset))
            end = offset + FRAME_BYTES + length
            if end > size:
                raise CorruptRecordError(
                    path,
                    len(offsets) - 1,
                    offset,
                    f"the file ends {end - size} bytes before the record does",
                )
            offsets.append(end)
    finally:
        os.close(file)
    return np.array(offsets, np.int64)


class TFRecordSource:
    """The records of several TFRecord files as one random-access sequence of payloads.

    Safe to read from many threads at once (`pread` has no file position) and to pickle: a copy
    takes the index along and opens the files anew.

    Args:
      paths: the files, in order.

    Raises:
      FileNotFoundError: if a file is missing.
      CorruptRecordError: at construction for a file cut short or a damaged length, at `[i]` for
        anything else. No damaged payload is ever returned.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self._paths = [os.fspath(path) for path in paths]
        self._offsets = [index_tfrecord(path) for path in self._paths]
        # _first[f] is the position of file f's first record in the whole sequence.
        self._first = np.cumsum([0] + [len(offsets) - 1 for offsets in self._offsets])
        self._open_files()

    def _open_files(self) -> None:
        self._files: list[int] = []
        # Set before the first file is opened, so that a missing second one leaves none open.
        self._finalizer = weakref.finalize(self, _close, self._files)
        for path in self._paths:
            self._files.append(os.open(path, os.O_RDONLY))

    @property
    def shard_lengths(self) -> list[int]:
        """The number of records of each file."""
        return np.diff(self._first).tolist()

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, i: int) -> bytes:
        length = len(self)
        if not -length <= i < length:
            raise IndexError(f"record {i} of {length}")
        i = int(i) % length
        f = int(np.searchsorted(self._first, i, side="right")) - 1
        record = i - int(self._first[f])
        path = self._paths[f]
        begin, end = (int(offset) for offset in self._offsets[f][record : record + 2])
        frame = os.pread(self._files[f], end - begin, begin)
        if len(frame) != end - begin:
            raise CorruptRecordError(path, record, begin, "the file became shorter while open")
        if _checked_length(path, record, begin, frame[:12]) != len(frame) - FRAME_BYTES:
            raise CorruptRecordError(path, record, begin, "the file changed while open")
        payload = frame[_HEADER.size : -_FOOTER.size]
        if masked_crc32c(payload) != _FOOTER.unpack(frame[-_FOOTER.size :])[0]:
            raise CorruptRecordError(path, record, begin, "the payload does not match its checksum")
        return payload

    def __getstate__(self) -> dict[str, Any]:
        not_pickled = ("_files", "_finalizer")
        return {name: value for name, value in vars(self).items() if name not in not_pickled}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_files()

    def __repr__(self) -> str:
        return f"TFRecordSource({len(self)} records in {len(self._paths)} files)"


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _checked_length(path: str, record: int, offset: int, header: bytes) -> int:
    """The payload length in a 12-byte header, once its checksum is found right."""
    if len(header) < _HEADER.size:
        raise CorruptRecordError(path, record, offset, "the file ends inside the record's length")
    length, crc = _HEADER.unpack(header)
    if masked_crc32c(header[:8]) != crc:
        raise CorruptRecordError(path, record, offset, "the length does not match its checksum")
    return length
