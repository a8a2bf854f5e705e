"""TFRecord files: atomic writes, random-access reads, both checksums verified on every read."""

from __future__ import annotations

import bisect
import itertools
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Int64

from mgmtn_jax.data.storage import RandomAccessFile, atomic_file
from mgmtn_jax.data.tfrecord_index import (
    FOOTER,
    FRAME_BYTES,
    HEADER,
    CorruptRecordError,
    checked_length,
    masked_crc32c,
    read_index,
)


def write_tfrecord(path: epath.PathLike, records: Iterable[bytes]) -> int:
    """Writes a TFRecord file atomically.

    Args:
      path: Path of the file, in an existing folder.
      records: The payloads, consumed one at a time.

    Returns:
      The number of records written.
    """
    count = 0
    with atomic_file(path) as file:
        for payload in records:
            count += 1
            length = len(payload).to_bytes(8, "little")
            file.write(length + FOOTER.pack(masked_crc32c(length)))
            file.write(payload)
            file.write(FOOTER.pack(masked_crc32c(payload)))
    return count


class TFRecordSource:
    """The records of several TFRecord files as one random-access sequence of payloads.

    Thread-safe and picklable; a copy opens the files again.

    Args:
      paths: Paths of the files in order, local or URLs that epath supports.
      lengths: Number of records of each file. If given, each file is opened only when one of its
        records is first read, and missing records are reported only then. None opens all files.

    Raises:
      FileNotFoundError: A file is missing.
      CorruptRecordError: Raised by `[i]` for a damaged record and for every record behind a damaged
        length, which cannot be located. Without `lengths`, also raised at construction for a
        truncated file or a damaged length. A damaged payload is never returned.
    """

    def __init__(
        self, paths: Sequence[epath.PathLike], lengths: Sequence[int] | None = None
    ) -> None:
        self._paths = [os.fspath(path) for path in paths]
        known = [None] * len(paths) if lengths is None else lengths
        self._shards = list(itertools.starmap(_Shard, zip(self._paths, known, strict=True)))
        if lengths is None:
            self.verify()
            lengths = [len(shard.open().offsets) - 1 for shard in self._shards]
        self._lengths = list(lengths)
        # The position of each file's first record in the sequence, followed by the total length.
        self._first = list(itertools.accumulate(self._lengths, initial=0))

    def verify(self) -> None:
        """Locates the records of every file, without reading payloads.

        Raises:
          CorruptRecordError: The framing of a file is damaged, or its number of records is wrong.
        """
        for shard in self._shards:
            if (damage := shard.open().damage) is not None:
                raise damage

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, i: int) -> bytes:
        length = self._first[-1]
        if not -length <= i < length:
            raise IndexError(f"there is no record {i}: the source has {length} records")
        i = int(i) % length
        shard = bisect.bisect_right(self._first, i) - 1
        return self._shards[shard].read(i - self._first[shard])

    def __reduce__(self) -> tuple[Any, ...]:
        return TFRecordSource, (self._paths, self._lengths)


class _OpenShard(NamedTuple):
    file: RandomAccessFile
    offsets: Int64[np.ndarray, " records_plus_1"]
    damage: CorruptRecordError | None


class _Shard:
    """One file, opened at the first read."""

    def __init__(self, path: str, length: int | None) -> None:
        self._path, self._length = path, length
        self._opened: _OpenShard | None = None
        self._lock = threading.Lock()

    def open(self) -> _OpenShard:
        if self._opened is None:
            with self._lock:  # Index the file only once.
                if self._opened is None:
                    self._opened = self._open()
        return self._opened

    def _open(self) -> _OpenShard:
        file = RandomAccessFile(self._path)
        offsets, damage = read_index(file)
        found = len(offsets) - 1
        # A file truncated between two records is a valid TFRecord file; only its length tells.
        if damage is None and self._length is not None and self._length != found:
            record = min(found, self._length)
            reason = f"the file holds {found} records, not {self._length}"
            damage = CorruptRecordError(self._path, record, int(offsets[record]), reason)
        return _OpenShard(file, offsets, damage)

    def read(self, record: int) -> bytes:
        file, offsets, damage = self._opened or self.open()
        path = self._path
        if record >= len(offsets) - 1:
            assert damage is not None
            raise _behind(damage, record)
        begin, end = offsets[record : record + 2].tolist()
        frame = file.read(end - begin, begin)
        if len(frame) != end - begin:
            raise CorruptRecordError(path, record, begin, "the file became shorter while open")
        if checked_length(path, record, begin, frame[: HEADER.size]) != len(frame) - FRAME_BYTES:
            raise CorruptRecordError(path, record, begin, "the record is not as long as indexed")
        payload = frame[HEADER.size : -FOOTER.size]
        if masked_crc32c(payload) != FOOTER.unpack(frame[-FOOTER.size :])[0]:
            raise CorruptRecordError(path, record, begin, "the payload does not match its checksum")
        return payload


def _behind(damage: CorruptRecordError, record: int) -> CorruptRecordError:
    """The error for a record that cannot be located; a new object, as many threads raise it."""
    reason = damage.reason
    if record != damage.record:
        reason += f", and record {record} lies behind it"
    return CorruptRecordError(damage.path, damage.record, damage.offset, reason)
