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


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Reads images from files; `SourceFace.image` is the path, from `folder` if it is relative."""

    folder: str

    def __call__(self, face: SourceFace) -> tuple[bytes, Labels]:
        assert face.labels is not None
        return (epath.Path(self.folder) / face.image).read_bytes(), face.labels


@dataclasses.dataclass(frozen=True)
class ZipReader:
    """Reads images straight out of a zip file; `SourceFace.image` is the path from `folder` in it.

    A process opens the file at its first image, which reads the list of what is in it.
    """

    path: str
    folder: str

    def __call__(self, face: SourceFace) -> tuple[bytes, Labels]:
        assert face.labels is not None
        member = _member(self.folder, face.image)
        with _lock:
            # By process, because a forked one would share its parent's position in the file.
            opened = (os.getpid(), self.path)
            if opened not in _open_files:
                _open_files[opened] = _as_zip(epath.Path(self.path).open("rb"), self.path)
            try:
                return _open_files[opened].read(member), face.labels
            except Exception as error:  # A damaged member raises whatever its bytes lead to.
                problem = "it is not there" if isinstance(error, KeyError) else str(error)
                raise ValueError(f"{member} in {os.path.basename(self.path)}: {problem}") from error


_lock = threading.Lock()
_open_files: dict[tuple[int, str], zipfile.ZipFile] = {}


def zip_folder(path: epath.Path, images: Sequence[str]) -> str:
    """The folder of a zip file that holds the images, judged by the first hundred of them.

    Raises:
      ValueError: if it is no zip file.
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
    except Exception as error:  # As above.
        raise ValueError(f"{path} is not a zip file that can be read: {error}") from error


def _member(folder: str, image: str) -> str:
    return f"{folder}/{image}" if folder else image
