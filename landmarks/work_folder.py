"""Ownership of an output folder: the settings of its run, and a lock against a second run."""

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
    """Locks a folder for one run, or for several array jobs of one run.

    The kernel releases the lock when the process ends for any reason. A folder behind a URL, or on
    a file system without locks, is not locked: there the user must not start two runs.

    Args:
      out_dir: The folder; created if missing.
      settings: See `begin`.
      shared: If True, other processes may hold shared claims at the same time.

    Yields:
      True if the folder already holds the finished data set with these settings.

    Raises:
      ValueError: If another process holds the folder, or as `begin` does.
    """
    done = begin(out_dir, settings)
    with contextlib.ExitStack() as stack:
        while not done and storage.is_local(out_dir):
            try:
                lock = stack.enter_context(open(epath.Path(out_dir) / WORK_FOLDER / LOCK, "ab"))
            except FileNotFoundError:  # The run that held it has finished in the meantime.
                done = begin(out_dir, settings)
                continue
            held = _lock(lock, out_dir, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            done = begin(out_dir, settings)  # It may have finished just before releasing the lock.
            if held and not shared:
                _remove_partial_files(out_dir)
            break
        yield done


def _lock(file: BinaryIO, out_dir: epath.PathLike, operation: int) -> bool:
    """Locks a file. Returns False if its file system has no locks."""
    try:
        fcntl.flock(file, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"another run is writing into {out_dir}: wait until it ends or choose another --out_dir"
        ) from None
    except OSError as error:
        logging.warning(
            "cannot lock %s (%s): do not start two runs that write into it", out_dir, error
        )
        return False
    return True


def begin(out_dir: epath.PathLike, settings: Mapping[str, Any]) -> bool:
    """Begins a run in a folder, or resumes one. Several processes may do so at once.

    Args:
      out_dir: The folder; created if missing.
      settings: Everything that the bytes of the data set depend on.

    Returns:
      True if the folder already holds the finished data set with these settings.

    Raises:
      ValueError: If the folder holds a run with other settings, naming them, or other files.
    """
    folder = epath.Path(out_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, but --out_dir must be a folder")
    while True:
        done = (folder / "dataset_info.json").exists()
        path = folder / SUMMARY if done else folder / WORK_FOLDER / SETTINGS
        with contextlib.suppress(FileNotFoundError):
            found = json.loads(path.read_text())
            break
        entries = list(folder.iterdir()) if folder.exists() else []
        if not done and (folder / "dataset_info.json").exists():
            continue  # Another run has finished in the meantime.
        if not all(_is_ours(entry.name) for entry in entries):
            raise ValueError(
                f"{folder} is not empty and holds no unfinished data set of this program: choose a "
                "new or empty --out_dir"
            )
        _create_work_folder(folder, settings)
    _compare(folder, found["settings"] if done else found, settings)
    return done


def check(out_dir: epath.PathLike, settings: Mapping[str, Any]) -> None:
    """Checks, on a worker's machine, that the folder belongs to a run with these settings.

    Raises:
      ValueError: If no run was begun there, or one with other settings.
    """
    path = epath.Path(out_dir) / WORK_FOLDER / SETTINGS
    if not path.exists():
        raise ValueError(
            f"this worker sees no unfinished data set in {out_dir}: --out_dir must name the same "
            "folder on every machine"
        )
    _compare(epath.Path(out_dir), json.loads(path.read_text()), settings)


def _is_ours(name: str) -> bool:
    return name == WORK_FOLDER or (name.startswith(".") and name.endswith(".partial"))


def _create_work_folder(folder: epath.Path, settings: Mapping[str, Any]) -> None:
    """Creates the work folder and its settings, unless another process has just done so."""
    path = folder / WORK_FOLDER
    # A rename does not replace a folder that is not empty, so the first of several processes wins.
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
    """Removes the work folder of a finished data set. Several processes may do so at once."""
    _remove_partial_files(out_dir)
    with contextlib.suppress(FileNotFoundError):
        (epath.Path(out_dir) / WORK_FOLDER).rmtree()


def _remove_partial_files(out_dir: epath.PathLike) -> None:
    """Removes the partial files of killed processes, which take space on a full disk."""
    for leftover in epath.Path(out_dir).glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):
            leftover.rmtree() if leftover.is_dir() else leftover.unlink()
