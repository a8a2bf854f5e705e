"""Prediction over many image files: one JSON line and one overlay per face, in file order."""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import tqdm
from absl import logging

from experiments.photographs.faces import DetectedFace, FindFaces, initialize_worker, write_overlay
from experiments.photographs.files import OVERLAYS, PREDICTIONS, Progress
from landmarks import processes
from mgmtn_jax.attributes import THRESHOLD, did_you_mean
from mgmtn_jax.data.images import ImageError

if TYPE_CHECKING:  # Worker processes import this module with `experiments.predict`, without JAX.
    from mgmtn_jax.evaluation.predictor import Predictor

_MAX_PENDING = 64  # files read ahead of the network
_PART = 256  # files after which progress is saved


def predict(
    predictor: Predictor,
    pool: Executor,
    files: Iterable[Path],
    find_faces: FindFaces,
    out_dir: Path,
    *,
    batch_size: int,
    total: int | None = None,
    settings: Mapping[str, Any] | None = None,
    attributes: Sequence[str] = (),
) -> None:
    """Predicts the faces of image files, and writes results as they become available.

    An interrupted run goes on where it stopped, and its output is that of an undisturbed one, to
    the byte: no batch of faces reaches beyond a part of `_PART` files, after which the progress is
    saved.

    Args:
      predictor: The trained network.
      pool: Executor that reads files, finds faces and draws overlays; see `executor`.
      files: Image files, as returned by `find_images`.
      find_faces: Function from a file to its faces.
      out_dir: Output folder; created if missing.
      batch_size: Number of faces per batch.
      total: Number of files, for the progress bar.
      settings: What else the predictions depend on. An interrupted run with other settings is
        started anew.
      attributes: Names of the attributes to predict, in this order; by default all.

    Raises:
      ValueError: Before anything is written, if an attribute is unknown or an interrupted run had
        other files; after all files, if any could not be read.
    """
    asked = _known(attributes, predictor.attribute_set.names)
    (out_dir / OVERLAYS).mkdir(parents=True, exist_ok=True)
    settings = {**(settings or {}), "batch_size": batch_size, "attributes": asked}
    done = Progress.begin(out_dir, settings)
    remaining = iter(files)
    names = done.skip(remaining)
    path = out_dir / PREDICTIONS
    with (
        path.open("r+b" if done.files else "wb") as file,
        tqdm.tqdm(
            total=total, initial=done.files, desc="predict", unit=" images", disable=None
        ) as bar,
    ):
        file.truncate(done.bytes)
        file.seek(done.bytes)
        work = functools.partial(find_faces, size=predictor.config.data.image_size)
        writer = _Writer(predictor, pool, out_dir, file, bar, batch_size, done.faces, asked)

        def save() -> None:
            writer.flush()
            file.flush()
            os.fsync(file.fileno())
            done.faces, done.bytes, done.names = writer.num_faces, file.tell(), names.digest()
            done.save(out_dir)

        for name, result in _in_order(pool, work, remaining):
            names.add(name)
            done.files += 1
            try:
                found = result()
            except (ImageError, OSError) as error:
                done.unread += 1
                bar.write(f"error: {name}: {error}", sys.stderr)
            else:
                done.faceless += not found
                writer.add(found)
            bar.update()
            if done.files % _PART == 0:
                save()
        save()
    Progress.finish(out_dir)
    _report(done)


def _report(done: Progress) -> None:
    """Logs the counts of a finished run; raises a ValueError if files could not be read."""
    logging.info(
        "%d faces in %d images; no face in %d of the images",
        done.faces,
        done.files - done.unread,
        done.faceless,
    )
    if done.unread:
        raise ValueError(f"{done.unread} of {done.files} images could not be read")


def _known(attributes: Sequence[str], names: Sequence[str]) -> Sequence[str]:
    """The attributes, or all names if there are none; raises a ValueError at an unknown one."""
    for name in attributes:
        if name not in names:
            raise ValueError(
                f"this network predicts no attribute {name!r}{did_you_mean(name, names)}"
            )
    return attributes or names


class _Writer:
    """Predicts faces in batches, and writes one line and one overlay for each."""

    def __init__(
        self,
        predictor: Predictor,
        pool: Executor,
        out_dir: Path,
        file: BinaryIO,
        bar: tqdm.tqdm,
        batch_size: int,
        num_faces: int,
        asked: Sequence[str],
    ) -> None:
        self._predictor, self._pool, self._out_dir = predictor, pool, out_dir
        self._file, self._bar, self._asked = file, bar, asked
        self._batch_size, self.num_faces = batch_size, num_faces
        self._waiting: list[DetectedFace] = []
        self._drawing: list[Future[None]] = []

    def add(self, faces: Sequence[DetectedFace]) -> None:
        self._waiting += faces
        while len(self._waiting) >= self._batch_size:
            self._write(self._waiting[: self._batch_size])
            self._waiting = self._waiting[self._batch_size :]

    def flush(self) -> None:
        """Writes the remaining faces and waits for the overlays."""
        if self._waiting:
            self._write(self._waiting)
        self._waiting = []
        for future in self._drawing:
            future.result()

    def _write(self, batch: Sequence[DetectedFace]) -> None:
        masks, rows = _predict_batch(self._predictor, batch, self.num_faces, self._asked)
        for future in self._drawing:  # Raises if an overlay of the previous batch failed.
            future.result()
        self._drawing = [
            self._pool.submit(write_overlay, self._out_dir / row["overlay"], face.picture, masks[i])
            for i, (face, row) in enumerate(zip(batch, rows, strict=True))
            if masks is not None
        ]
        for line in map(json.dumps, rows):
            self._file.write(f"{line}\n".encode())
            self._bar.write(line, sys.stdout)
        self.num_faces += len(batch)


@contextlib.contextmanager
def executor(num_workers: int) -> Iterator[Executor]:
    """A pool of worker processes, or a single thread if `num_workers` is 0.

    One thread suffices: dlib's Python binding lets only one thread at a time detect faces.

    Raises:
      ChildProcessError: If a worker process is killed.
    """
    if num_workers == 0:
        pool: Executor = ThreadPoolExecutor(1)
    else:
        # Spawned, not forked: a fork could inherit a lock held by another thread.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(num_workers, context, initialize_worker)
        with processes.inherited_by_workers():
            for _ in range(num_workers):
                pool.submit(os.getpid)  # A pool starts a process only when work finds none idle.
    try:
        yield pool
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process was killed; if memory ran out, lower --num_workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: Executor,
    work: Callable[[Path], list[DetectedFace]],
    files: Iterable[Path],
) -> Iterator[tuple[Path, Callable[[], list[DetectedFace]]]]:
    """Yields each file with a function that waits for its result.

    Up to `_MAX_PENDING` later files are processed meanwhile.
    """
    pending: collections.deque[tuple[Path, Future[list[DetectedFace]]]] = collections.deque()
    for path in files:
        pending.append((path, pool.submit(work, path)))
        if len(pending) > _MAX_PENDING:
            path, future = pending.popleft()
            yield path, future.result
    for path, future in pending:
        yield path, future.result


def _predict_batch(
    predictor: Predictor, batch: Sequence[DetectedFace], first: int, asked: Sequence[str]
) -> tuple[np.ndarray | None, list[dict[str, Any]]]:
    """Predicts a batch of faces.

    Args:
      predictor: The trained network.
      batch: The faces.
      first: Number of faces before this batch; it numbers the overlays.
      asked: Names of the attributes in the rows.

    Returns:
      The predicted masks (None for networks without masks), and one output row per face.
    """
    landmarks = [face.landmarks for face in batch if face.landmarks is not None]
    probabilities, masks = predictor(
        np.stack([face.image for face in batch]), np.stack(landmarks) if landmarks else None
    )
    groups = {
        group: [name for name in members if name in asked]
        for group, members in predictor.attribute_set.groups.items()
    }
    rows = []
    for i, face in enumerate(batch):
        by_name = dict(zip(predictor.attribute_set.names, probabilities[i].tolist(), strict=True))
        overlay = None if masks is None else f"{OVERLAYS}/{first + i:06d}_{face.file.stem}.png"
        rows.append(
            {
                "file": str(face.file),
                "face": face.number,
                "box": face.box,
                "score": None if face.score is None else round(face.score, 4),
                "attributes": {name: round(by_name[name], 6) for name in asked},
                "groups": {
                    group: [name for name in members if by_name[name] >= THRESHOLD]
                    for group, members in groups.items()
                    if members
                },
                "overlay": overlay,
            }
        )
    return masks, rows
