"""SHA-256 checksums of every file in a folder, stored in the folder as `SHA256SUMS`.

Checkpoint arrays carry no checksum of their own: a flipped bit in a weight restores silently. The
manifest has the format of `sha256sum`, so `sha256sum -c SHA256SUMS` checks it as well.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from absl import logging
from etils import epath

from mgmtn_jax.data.storage import atomic_file

FILE_NAME = "SHA256SUMS"


class UnfinishedError(ValueError):
    """The folder was never finished: it has no manifest, or only the beginning of one."""


def write(folder: epath.Path) -> None:
    """Writes the manifest of a folder, whose presence marks the folder as finished."""
    content = _manifest(folder)  # before the partial file lies in the folder
    with atomic_file(folder / FILE_NAME) as file:
        file.write(content)


def verify(folder: epath.Path) -> None:
    """Reads every file and compares it with the manifest.

    Raises:
      UnfinishedError: if there is no manifest, or it is incomplete.
      ValueError: if a file was changed, is missing, or was added, with the names of such files.
    """
    try:
        expected = (folder / FILE_NAME).read_bytes()
    except FileNotFoundError:
        raise UnfinishedError(f"{folder} was never finished: it has no {FILE_NAME}") from None
    # The bytes are compared, not the parsed lines, so that every byte of the manifest counts.
    found = _manifest(folder)
    if found == expected:
        return
    if found.startswith(expected):  # Versions before the atomic write left these when killed.
        raise UnfinishedError(f"{folder} was never finished: its {FILE_NAME} is incomplete")
    differing = set(expected.splitlines()) ^ set(found.splitlines())
    names = {line.partition(b"  ")[2].decode(errors="replace") for line in differing}
    raise ValueError(f"{folder} is damaged: these files differ: {', '.join(sorted(names))}")


def _manifest(folder: epath.Path) -> bytes:
    """One line per file: digest, two spaces, path relative to the folder."""
    start = time.perf_counter()
    names = sorted(
        os.fspath(path.relative_to(folder)) for path in _files(folder) if path.name != FILE_NAME
    )
    with ThreadPoolExecutor() as threads:  # Hashing and reading release Python's lock.
        digests_and_sizes = list(threads.map(lambda name: _digest(folder / name), names))
    logging.info(
        "SHA-256 of %s: %d files, %.1f MB, %.2f s",
        folder,
        len(names),
        sum(size for _, size in digests_and_sizes) / 1e6,
        time.perf_counter() - start,
    )
    lines = (
        f"{digest}  {name}\n" for (digest, _), name in zip(digests_and_sizes, names, strict=True)
    )
    return "".join(lines).encode()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _digest(path: epath.Path) -> tuple[str, int]:
    """The SHA-256 of a file, and its size in bytes."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()
