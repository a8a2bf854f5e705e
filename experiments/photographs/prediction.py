"""Prediction over many image files: one JSON line and one overlay per face, in file order."""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from absl import logging

from experiments.photographs.faces import DetectedFace, FindFaces, initialize_worker, write_overlay
from landmarks import workers
from mgmtn_jax.data.images import SUFFIXES, ImageError
from mgmtn_jax.evaluation.metrics import THRESHOLD
from mgmtn_jax.evaluation.predictor import Predictor

_PREDICTIONS, _OVERLAYS = "predictions.jsonl", "overlays"  # names in the output folder
_MAX_PENDING = 64  # files read ahead of the network


def predict(
    predictor: Predictor,
    pool: Executor,
    files: Sequence[Path],
    find_faces: FindFaces,
    out_dir: Path,
    *,
    batch_size: int,
) -> None:
    """Predicts the faces of image files, and writes results as they become available.

    Args:
      predictor: The trained network.
      pool: Executor that reads files, finds faces and draws overlays; see `executor`.
      files: Image files, as returned by `find_images`.
      find_faces: Function from a file to its faces.
      out_dir: Output folder; created if missing.
      batch_size: Number of faces per batch.

    Raises:
      ValueError: After all files, if any could not be read.
    """
    size = predictor.config.data.image_size
    (out_dir / _OVERLAYS).mkdir(parents=True, exist_ok=True)
    num_faces, num_unread, num_faceless = 0, 0, 0
    waiting: list[DetectedFace] = []
    drawing: list[Future[None]] = []
    with (
        (out_dir / _PREDICTIONS).open("w") as file,
        tqdm.tqdm(total=len(files), desc="predict", unit=" images", disable=None) as bar,
    ):

        def write(batch: Sequence[DetectedFace]) -> None:
            nonlocal num_faces
            masks, rows = _predict_batch(predictor, batch, num_faces)
            for future in drawing:  # Raises if an overlay of the previous batch failed.
                future.result()
            drawing[:] = [
                pool.submit(write_overlay, out_dir / row["overlay"], face.picture, masks[i])
                for i, (face, row) in enumerate(zip(batch, rows, strict=True))
                if masks is not None
            ]
            for line in map(json.dumps, rows):
                file.write(f"{line}\n")
                bar.write(line, sys.stdout)
            num_faces += len(batch)

        for path, result in _in_order(pool, functools.partial(find_faces, size=size), files):
            try:
                found = result()
            except (ImageError, OSError) as error:
                num_unread += 1
                bar.write(f"error: {path}: {error}", sys.stderr)
            else:
                num_faceless += not found
                waiting += found
            while len(waiting) >= batch_size:
                write(waiting[:batch_size])
                waiting = waiting[batch_size:]
            bar.update()
        if waiting:
            write(waiting)
        for future in drawing:
            future.result()
    logging.info(
        "%d faces in %d images; no face in %d of the images",
        num_faces,
        len(files) - num_unread,
        num_faceless,
    )
    if num_unread:
        raise ValueError(f"{num_unread} of {len(files)} images could not be read")


def find_images(paths: Sequence[str], out_dir: Path | None = None) -> list[Path]:
    """Lists the named files, and the images in and below the named folders in order of name.

    Folders are searched without hidden files and without overlays written by `predict`, whichever
    way the paths are spelled.

    Args:
      paths: Files and folders.
      out_dir: Output folder of this run; it may not exist yet.

    Raises:
      FileNotFoundError: If a path does not exist.
      ValueError: If there is no image.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(
                Path(folder, name)
                for folder, _, names in os.walk(path)
                if not _holds_overlays(Path(folder), out_dir)
                for name in names
                if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
            )
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"there is no file or folder {path}")
    if not paths:
        raise ValueError("no input: name image files or folders")
    if not files:
        raise ValueError(f"no image in {', '.join(paths)}, overlays of earlier runs aside")
    return list(dict.fromkeys(files))


def _holds_overlays(folder: Path, out_dir: Path | None) -> bool:
    """True for the overlays of `out_dir` and for those of any earlier run's output folder."""
    folder = folder.resolve()
    if out_dir is not None and folder == (out_dir / _OVERLAYS).resolve():
        return True
    return folder.name == _OVERLAYS and (folder.parent / _PREDICTIONS).exists()


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
        with workers.inherited_by_workers():
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
    files: Sequence[Path],
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
    predictor: Predictor, batch: Sequence[DetectedFace], first: int
) -> tuple[np.ndarray | None, list[dict[str, Any]]]:
    """Predicts a batch of faces.

    Args:
      predictor: The trained network.
      batch: The faces.
      first: Number of faces before this batch; it numbers the overlays.

    Returns:
      The predicted masks (None for networks without masks), and one output row per face.
    """
    landmarks = [face.landmarks for face in batch if face.landmarks is not None]
    probabilities, masks = predictor(
        np.stack([face.image for face in batch]), np.stack(landmarks) if landmarks else None
    )
    attribute_set = predictor.attribute_set
    rows = []
    for i, face in enumerate(batch):
        by_name = dict(zip(attribute_set.names, probabilities[i].tolist(), strict=True))
        overlay = None if masks is None else f"{_OVERLAYS}/{first + i:06d}_{face.file.stem}.png"
        rows.append(
            {
                "file": str(face.file),
                "face": face.number,
                "box": face.box,
                "attributes": {name: round(value, 6) for name, value in by_name.items()},
                "groups": {
                    group: [name for name in members if by_name[name] >= THRESHOLD]
                    for group, members in attribute_set.groups.items()
                },
                "overlay": overlay,
            }
        )
    return masks, rows
