"""Which run an output folder belongs to: the settings it was begun with, and who may write now."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from absl import logging
from etils import epath

from mgmtn_jax.data import storage

WORK_FOLDER = ".precompute"
SETTINGS = "settings.json"
LOCK = "lock"
SUMMARY = "summary.json"


@contextlib.contextmanager
def claimed(
    out_dir: epath.PathLike, settings: Mapping[str, Any], *, shared: bool = False
) -> Iterator[bool]:
    """Holds a folder for one run, or for several jobs of one run.

    The kernel lets go of the folder when the process ends, however it ends. A folder behind a URL,
    and one on a file system without locks, is not held: there one has to see to it oneself.

    Args:
      out_dir: the folder; made if missing.
      settings: see `begin`.
      shared: whether other shared claims may be held at the same time.

    Yields:
      Whether the folder already holds the finished data set of these settings.

    Raises:
      ValueError: if another process holds the folder, or as `begin` does.
    """
    done = begin(out_dir, settings)
    with contextlib.ExitStack() as stack:
        while not done and storage.is_local(out_dir):
            try:
                lock = stack.enter_context(open(epath.Path(out_dir) / WORK_FOLDER / LOCK, "ab"))
            except FileNotFoundError:  # The run that held it has finished meanwhile.
                done = begin(out_dir, settings)
                continue
            held = _lock(lock, out_dir, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            done = begin(out_dir, settings)  # Or it has finished just before it let go.
            if held and not shared:
                _remove_half_written(out_dir)
            break
        yield done


def _lock(file: BinaryIO, out_dir: epath.PathLike, operation: int) -> bool:
    """Whether the file could be locked: not every file system can."""
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"another run is writing into {out_dir}: let it end or choose another --out_dir"
        ) from None
    except OSError as error:
        logging.warning("%s has no locks (%s): let no two runs write into it", out_dir, error)
        return False
    return True


def begin(out_dir: epath.PathLike, settings: Mapping[str, Any]) -> bool:
    """Makes a folder the place of a run, new or resumed. Several processes may do so at once.

    Args:
      out_dir: the folder; made if missing.
      settings: everything that the bytes of the data set depend on.

    Returns:
      Whether the folder already holds the finished data set of these settings.

    Raises:
      ValueError: if the folder holds a run of other settings, naming them, or something else.
    """
    folder = epath.Path(out_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and --out_dir has to be a folder")
    while True:
        done = (folder / "dataset_info.json").exists()
        path = folder / SUMMARY if done else folder / WORK_FOLDER / SETTINGS
        with contextlib.suppress(FileNotFoundError):
            found = json.loads(path.read_text())
            break
        entries = list(folder.iterdir()) if folder.exists() else []
        if not done and (folder / "dataset_info.json").exists():
            continue  # Another run has finished meanwhile.
        if not all(_is_ours(entry.name) for entry in entries):
            raise ValueError(
                f"{folder} is not empty and holds no unfinished data set of this program"
            )
        _create_work_folder(folder, settings)
    _compare(folder, found["settings"] if done else found, settings)
    return done


def check(out_dir: epath.PathLike, settings: Mapping[str, Any]) -> None:
    """Makes sure, on another machine, that this is the folder of a run of these settings.

    Raises:
      ValueError: if nothing was begun there, or with other settings.
    """
    path = epath.Path(out_dir) / WORK_FOLDER / SETTINGS
    if not path.exists():
        raise ValueError(f"this worker sees no unfinished data set in {out_dir}")
    _compare(epath.Path(out_dir), json.loads(path.read_text()), settings)


def _is_ours(name: str) -> bool:
    return name == WORK_FOLDER or (name.startswith(".") and name.endswith(".partial"))


def _create_work_folder(folder: epath.Path, settings: Mapping[str, Any]) -> None:
    """Creates the work folder with the settings in it, unless another process has just done so."""
    path = folder / WORK_FOLDER
    # A folder with something in it is not replaced, so the first of several stays.
    prepared = folder / f"{WORK_FOLDER}.{secrets.token_hex(4)}.partial"
    place = prepared if storage.is_local(folder) else path
    place.mkdir(parents=True, exist_ok=True)
    with storage.atomic_file(place / SETTINGS) as file:
        file.write(json.dumps(settings).encode())
    if place == prepared:
        try:
            os.rename(prepared, path)
        except OSError:
            shutil.rmtree(prepared, ignore_errors=True)
            if not path.exists():
                raise


def _compare(folder: epath.Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differing = [
        f"{name}={old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name)
    ]
    if differing:
        raise ValueError(
            f"{folder} was begun with other settings: {', '.join(differing)}. "
            "Choose another --out_dir or delete this one"
        )


def clean(out_dir: epath.PathLike) -> None:
    """Removes what only an unfinished data set needs. Several processes may do so at once."""
    _remove_half_written(out_dir)
    with contextlib.suppress(FileNotFoundError):
        (epath.Path(out_dir) / WORK_FOLDER).rmtree()


def _remove_half_written(out_dir: epath.PathLike) -> None:
    """Removes what killed processes have left, which on a full disk could be in the way."""
    for leftover in epath.Path(out_dir).glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):
            leftover.rmtree() if leftover.is_dir() else leftover.unlink()
