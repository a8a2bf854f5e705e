"""Files on this machine or behind a URL such as gs://: written whole or not at all, read at random.

Local paths go straight to the operating system, everything else through etils.epath.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import weakref
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from etils import epath

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMOTE_BLOCK = 8 << 20


def is_local(path: epath.PathLike) -> bool:
    """Whether the path is one of this machine's own."""
    return "://" not in os.fspath(path)


def stat(path: epath.PathLike) -> tuple[int, int]:
    """Size in bytes, and time of the last change in nanoseconds (0 where the storage has none).

    Raises:
      FileNotFoundError: if there is no such file.
    """
    if is_local(path):
        # Not epath's: it looks up the owner's name, and fails for a user without one.
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    found = epath.Path(path).stat()
    return found.length, found.mtime * 10**9


@contextlib.contextmanager
def atomic_file(path: epath.PathLike, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Opens a binary file for writing that takes the name `path` only when all of it is written.

    Until then it is `.NAME.TOKEN.partial` in the same folder, with a token of its own: writers of
    the same file, on whatever machine, never share one, and a killed process leaves nothing that
    could be taken for the file.

    Args:
      path: where the file goes; its folder must exist. A file of this name is replaced.
      durable: whether the file has to survive a power failure as well. It costs milliseconds.

    Raises:
      OSError: if the file cannot be written, naming it. Nothing new is left behind.
    """
    path = epath.Path(path)
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        with partial.open("wb") as file:
            yield file
            if durable and is_local(path):
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # The first error is the one to report.
            partial.unlink()
        if isinstance(error, OSError) and error.errno in _DISK_IS_FULL and not error.filename:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


class RandomAccessFile:
    """One file that any number of threads may read at once: a read has no position to share.

    Attributes:
      path: where it is.
      size: its bytes when it was opened.
      mtime_ns: see `stat`.
      block: bytes that are as cheap to read at once as a few of them.

    Raises:
      FileNotFoundError: if there is no such file.
    """

    def __init__(self, path: epath.PathLike) -> None:
        self.path = os.fspath(path)
        if is_local(path):
            descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, descriptor)
            found = os.fstat(descriptor)
            self.size, self.mtime_ns, self.block = found.st_size, found.st_mtime_ns, 1
            self._read: Callable[[int, int], bytes] = functools.partial(os.pread, descriptor)
        else:
            self.size, self.mtime_ns = stat(path)
            self.block = _REMOTE_BLOCK
            self._read = _range_reader(epath.Path(path))

    def read(self, size: int, begin: int) -> bytes:
        """The bytes from `begin` on, fewer than `size` only where the file ends.

        Raises:
          OSError: if they cannot be read, naming the file.
        """
        try:
            return self._read(size, begin)
        except OSError as error:
            if error.errno is None or error.filename:
                raise
            raise OSError(error.errno, error.strerror, self.path) from error


def _range_reader(path: epath.Path) -> Callable[[int, int], bytes]:
    """A function of size and begin that reads a part of a file behind a URL."""
    with path.open("rb") as file:
        # Seeking in a file of fsspec's reads megabytes ahead; its file system reads just a range.
        # Files of other backends, TensorFlow's for one, have no file system.
        file_system: Any = getattr(file, "fs", None)
        name: Any = getattr(file, "path", None)

    def read(size: int, begin: int) -> bytes:
        if file_system is not None:
            return file_system.cat_file(name, start=begin, end=begin + size)
        with path.open("rb") as file:  # One for every read, because a file has one position.
            file.seek(begin)
            return file.read(size)

    return read


def error_sentence(error: Exception) -> str:
    """An error as one line for a person; an `OSError` names its file first."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)
