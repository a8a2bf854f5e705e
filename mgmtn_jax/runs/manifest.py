"""The SHA-256 of every file of a folder, kept in the folder.

A checkpoint's arrays carry no checksum of their own: a flipped bit in a weight restores without a
word. The manifest is what `sha256sum` writes, so that `sha256sum -c SHA256SUMS` checks it too.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from absl import logging
from etils import epath

FILE_NAME = "SHA256SUMS"


def write(folder: epath.Path) -> None:
    """Writes the manifest of a folder that is finished: its presence says so."""
    (folder / FILE_NAME).write_bytes(_manifest(folder))


def verify(folder: epath.Path) -> None:
    """Reads every file and compares.

    Raises:
      ValueError: if there is no manifest, or a file is altered, missing or additional.
    """
    path = folder / FILE_NAME
    if not path.exists():
        raise ValueError(f"{folder} is damaged or was never finished: it has no {FILE_NAME}")
    # The text is compared, not what it says, so that no byte of it is without meaning.
    expected, found = path.read_bytes(), _manifest(folder)
    if found != expected:
        differing = set(expected.splitlines()) ^ set(found.splitlines())
        names = {line.partition(b"  ")[2].decode(errors="replace") for line in differing}
        raise ValueError(f"{folder} is damaged: not as written are {', '.join(sorted(names))}")


def _manifest(folder: epath.Path) -> bytes:
    """One line a file: digest, two spaces, the path inside the folder."""
    start = time.perf_counter()
    names = sorted(
        os.fspath(path.relative_to(folder)) for path in _files(folder) if path.name != FILE_NAME
    )
    with ThreadPoolExecutor() as threads:  # Hashing releases Python's lock.
        digests = list(threads.map(lambda name: _digest(folder / name), names))
    size = sum((folder / name).stat().length for name in names)
    logging.info(
        "SHA-256 of %s: %d files, %.1f MB, %.2f s",
        folder,
        len(names),
        size / 1e6,
        time.perf_counter() - start,
    )
    lines = (f"{digest}  {name}\n" for digest, name in zip(digests, names, strict=True))
    return "".join(lines).encode()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _digest(path: epath.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
