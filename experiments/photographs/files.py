"""The image files that a prediction reads, walked lazily, and how far a run has come with them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from mgmtn_jax.data.images import SUFFIXES
from mgmtn_jax.data.storage import atomic_file

PREDICTIONS, OVERLAYS = "predictions.jsonl", "overlays"
"""Names in the output folder."""

_PROGRESS = ".progress.json"


@dataclasses.dataclass(frozen=True)
class Images:
    """The named files, and the images in and below the named folders, in order of their paths.

    Each iteration walks the folders anew and holds the names of one folder at a time. Hidden files
    and overlays written by `predict` are left out, whichever way the paths are spelled.

    Attributes:
      paths: Files and folders.
      out_dir: Output folder of this run; it may not exist yet.
      part: Index and number of the array jobs that the files are dealt to.
    """

    paths: Sequence[Path]
    out_dir: Path | None = None
    part: tuple[int, int] = (0, 1)

    def __iter__(self) -> Iterator[Path]:
        index, count = self.part
        for number, path in enumerate(self._all()):
            if number % count == index:
                yield path

    def _all(self) -> Iterator[Path]:
        for place, path in enumerate(self.paths):
            earlier = self.paths[:place]
            for found in self._walk(path) if path.is_dir() else [path]:
                if not any(named == found or named in found.parents for named in earlier):
                    yield found

    def _walk(self, folder: Path) -> Iterator[Path]:
        if self._holds_overlays(folder):
            return
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        for name, is_folder in found:
            if is_folder:
                yield from self._walk(folder / name)
            elif os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield folder / name

    def _holds_overlays(self, folder: Path) -> bool:
        """True for the overlays of `out_dir` and for those of any earlier run's output folder."""
        folder = folder.resolve()
        if self.out_dir is not None and folder == (self.out_dir / OVERLAYS).resolve():
            return True
        return folder.name == OVERLAYS and (folder.parent / PREDICTIONS).exists()


def find_images(
    paths: Sequence[str], out_dir: Path | None = None, part: tuple[int, int] = (0, 1)
) -> Images:
    """The images in files and folders; see `Images` for the arguments.

    Raises:
      FileNotFoundError: If a path does not exist.
      ValueError: If there is no image.
    """
    if not paths:
        raise ValueError("no input: name image files or folders")
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
    images = Images([Path(path) for path in paths], out_dir)
    if next(iter(images), None) is None:
        raise ValueError(f"no image in {', '.join(paths)}, overlays of earlier runs aside")
    return dataclasses.replace(images, part=part)


@dataclasses.dataclass
class Progress:
    """The progress of a run, which an interrupted one leaves and the next goes on from.

    Attributes:
      settings: Everything that the predictions depend on besides the images.
      files: Number of files done.
      names: SHA-256 over the paths of these files.
      bytes: Size of `predictions.jsonl` that belongs to them.
      faces: Number of faces in them.
      unread: Number of them that could not be read.
      faceless: Number of them without a face.
    """

    settings: Mapping[str, Any]
    files: int = 0
    names: str = ""
    bytes: int = 0
    faces: int = 0
    unread: int = 0
    faceless: int = 0

    @classmethod
    def begin(cls, out_dir: Path, settings: Mapping[str, Any]) -> Progress:
        """The progress of an interrupted run with the same settings, or none."""
        settings = json.loads(json.dumps(settings))
        path = out_dir / _PROGRESS
        try:
            found = cls(**json.loads(path.read_text()))
            kept = (out_dir / PREDICTIONS).stat().st_size
        except (FileNotFoundError, json.JSONDecodeError, TypeError):
            return cls(settings)
        differing = [name for name in settings if found.settings.get(name) != settings[name]]
        if differing or kept < found.bytes:
            why = f"had another {', '.join(differing)}" if differing else "lost its predictions"
            logging.warning("the run interrupted in %s %s: starting anew", out_dir, why)
            return cls(settings)
        logging.info("resuming: %d files are done", found.files)
        return found

    def skip(self, files: Iterator[Path]) -> Names:
        """Skips the files that are done.

        Raises:
          ValueError: If they are others than those of the interrupted run.
        """
        names = Names()
        for _ in range(self.files):
            path = next(files, None)
            if path is not None:
                names.add(path)
        if self.files and names.digest() != self.names:
            raise ValueError(
                "files were added or removed since the run was interrupted, among those that it "
                f"had done: delete {_PROGRESS} in the output folder to start anew"
            )
        return names

    def save(self, out_dir: Path) -> None:
        with atomic_file(out_dir / _PROGRESS) as file:
            file.write(json.dumps(dataclasses.asdict(self)).encode())

    @staticmethod
    def finish(out_dir: Path) -> None:
        (out_dir / _PROGRESS).unlink(missing_ok=True)


class Names:
    """A running SHA-256 over paths."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, path: Path) -> None:
        self._hash.update(os.fsencode(path) + b"\0")

    def digest(self) -> str:
        return self._hash.hexdigest()
