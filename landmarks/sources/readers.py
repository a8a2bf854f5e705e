"""Readers that several sources share."""

from __future__ import annotations

import dataclasses
import os
import threading
import zipfile
from collections.abc import Sequence
from typing import BinaryIO

from etils import epath

from landmarks.sources.base import Labels, SourceFace
from mgmtn_jax.data.images import MAX_BYTES, ImageError, read_image


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Reads images from files; `SourceFace.image` is the path, relative to `folder` or absolute."""

    folder: str

    def __call__(self, face: SourceFace) -> tuple[bytes, Labels]:
        assert face.labels is not None
        return read_image(epath.Path(self.folder) / face.image), face.labels


@dataclasses.dataclass(frozen=True)
class ZipReader:
    """Reads images out of a zip file without unpacking it.

    Each process opens the file at its first image, which reads the table of contents.

    Attributes:
      path: The zip file.
      folder: Folder in the zip file that `SourceFace.image` is relative to.
    """

    path: str
    folder: str

    def __call__(self, face: SourceFace) -> tuple[bytes, Labels]:
        assert face.labels is not None
        member = _member(self.folder, face.image)
        with _lock:
            # One per process: a forked process would share its parent's position in the file.
            opened = (os.getpid(), self.path)
            if opened not in _open_files:
                _open_files[opened] = _as_zip(epath.Path(self.path).open("rb"), self.path)
            try:
                found = _open_files[opened].getinfo(member)
                if found.file_size > MAX_BYTES:  # Of the unpacked file.
                    raise ImageError(f"more than the {MAX_BYTES} bytes allowed")
                return _open_files[opened].read(found), face.labels
            except Exception as error:  # A damaged member raises errors of any type.
                problem = "not in the zip file" if isinstance(error, KeyError) else str(error)
                raise ValueError(f"{member} in {os.path.basename(self.path)}: {problem}") from error


_lock = threading.Lock()
_open_files: dict[tuple[int, str], zipfile.ZipFile] = {}


def zip_folder(path: epath.Path, images: Sequence[str]) -> str:
    """The folder in a zip file that holds most of the first hundred images.

    Raises:
      ValueError: If the zip file cannot be read.
    """
    with path.open("rb") as file:
        names = set(_as_zip(file, str(path)).namelist())
    folders = sorted({name.rpartition("/")[0] for name in names})

    def found(folder: str) -> int:
        return sum(_member(folder, image) in names for image in images[:100])

    return max(folders, key=found, default="")


def _as_zip(file: BinaryIO, path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except Exception as error:  # A damaged file raises errors of any type.
        raise ValueError(f"{path} is not a zip file that can be read: {error}") from error


def _member(folder: str, image: str) -> str:
    return f"{folder}/{image}" if folder else image
