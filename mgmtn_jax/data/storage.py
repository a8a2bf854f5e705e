"""Reads and writes files, local or behind a URL such as gs://.

A file is written completely or not at all, and read at random offsets. Local paths go straight to
the operating system, all others through etils.epath.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import secrets
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from typing import IO, Any

from etils import epath

_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMOTE_BLOCK = 8 << 20


def is_local(path: epath.PathLike) -> bool:
    """Returns True for a path of this machine, False for a URL."""
    return "://" not in os.fspath(path)


def stat(path: epath.PathLike) -> tuple[int, int]:
    """Returns the size in bytes and the modification time in nanoseconds.

    The time is 0 where the storage has none.

    Raises:
      FileNotFoundError: if there is no such file.
    """
    if is_local(path):
        # epath's stat also looks up the owner's name, and fails for a user id without one.
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    found = epath.Path(path).stat()
    return found.length, found.mtime * 10**9


@contextlib.contextmanager
def atomic_file(path: epath.PathLike, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Opens a binary file for writing that appears under `path` only when it is complete.

    A local file is written as `.NAME.TOKEN.partial` in the same folder and then renamed. The token
    is random, so concurrent writers never share a partial file, and a killed process leaves nothing
    that could be mistaken for the file. A remote file is collected locally and uploaded in one
    piece, because object stores can neither append nor rename.

    Args:
      path: The file's final path; its folder must exist. An existing file is replaced.
      durable: Also sync the file and its folder, so that the file survives a power failure. Costs
        milliseconds.

    Raises:
      OSError: if the file cannot be written, with its path. No new file is left behind.
    """
    path = epath.Path(path)
    try:
        if is_local(path):
            with _renamed_when_complete(path, durable) as file:
                yield file
        else:
            with tempfile.SpooledTemporaryFile(_REMOTE_BLOCK) as collected:
                yield collected
                collected.seek(0)
                with path.open("wb") as file:
                    shutil.copyfileobj(collected, file, _REMOTE_BLOCK)
    except OSError as error:
        if error.errno in _DISK_IS_FULL and not error.filename:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


@contextlib.contextmanager
def _renamed_when_complete(path: epath.Path, durable: bool) -> Iterator[IO[bytes]]:
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"
    try:
        with partial.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
        if durable:
            _sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # The first error is the one to report.
            partial.unlink()
        raise


def _sync_folder(folder: epath.PathLike) -> None:
    """Makes a rename in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RandomAccessFile:
    """A file that any number of threads can read at once: reads share no file position.

    Attributes:
      path: The file's path or URL.
      size: Size in bytes when the file was opened.
      mtime_ns: Modification time, see `stat`.
      block: Number of bytes that cost no more to read at once than a few of them.

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
        """Returns `size` bytes from offset `begin`, fewer only at the end of the file.

        Raises:
          OSError: if they cannot be read, with the file's path.
        """
        try:
            return self._read(size, begin)
        except OSError as error:
            if error.errno is None or error.filename:
                raise
            raise OSError(error.errno, error.strerror, self.path) from error


def _range_reader(path: epath.Path) -> Callable[[int, int], bytes]:
    """Returns a function of size and begin that reads a byte range of a remote file."""
    with path.open("rb") as file:
        # Seeking in an fsspec file reads megabytes ahead; its file system reads exactly the range.
        # Files of other backends, such as TensorFlow's, have no file system.
        file_system: Any = getattr(file, "fs", None)
        name: Any = getattr(file, "path", None)

    def read(size: int, begin: int) -> bytes:
        if file_system is not None:
            return file_system.cat_file(name, start=begin, end=begin + size)
        with path.open("rb") as file:  # One per read, because an open file has one position.
            file.seek(begin)
            return file.read(size)

    return read


def error_sentence(error: Exception) -> str:
    """Describes an error in one line; an `OSError` names its file first."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)
