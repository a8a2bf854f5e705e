"""From photographs to answers: every face of every file, one line each."""

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

from experiments.photographs.faces import DetectedFace, Find, begin_worker, write_overlay
from landmarks import workers
from mgmtn_jax.data.images import ImageError
from mgmtn_jax.evaluation.metrics import THRESHOLD
from mgmtn_jax.evaluation.predictor import Predictor

# Those that cannot be decoded are named too: a person would miss their answers.
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")
)
_AHEAD = 64  # files that may be read before the network is asked


def predict(
    predictor: Predictor,
    pool: Executor,
    files: Sequence[Path],
    find: Find,
    out_dir: Path,
    *,
    batch_size: int,
) -> None:
    """Predicts the faces of files, and writes as it goes.

    Args:
      predictor: the network.
      pool: reads files, finds faces and draws overlays: see `executor`.
      files: as `find_images` found them.
      find: what finds faces in a file.
      out_dir: made if missing.
      batch_size: faces at a time.

    Raises:
      ValueError: at the end, if a file could not be read.
    """
    size = predictor.config.data.image_size
    (out_dir / "overlays").mkdir(parents=True, exist_ok=True)
    num_faces, unread, faceless = 0, 0, 0
    waiting: list[DetectedFace] = []
    drawing: list[Future[None]] = []
    with (
        (out_dir / "predictions.jsonl").open("w") as file,
        tqdm.tqdm(total=len(files), desc="predict", unit=" images", disable=None) as bar,
    ):

        def write(batch: Sequence[DetectedFace]) -> None:
            nonlocal num_faces
            masks, lines = _answers(predictor, batch, num_faces)
            for future in drawing:  # Those of the batch before: done, or failed.
                future.result()
            drawing[:] = [
                pool.submit(write_overlay, out_dir / line["overlay"], face.picture, masks[row])
                for row, (face, line) in enumerate(zip(batch, lines, strict=True))
                if masks is not None
            ]
            for line in map(json.dumps, lines):
                file.write(f"{line}\n")
                bar.write(line, sys.stdout)
            num_faces += len(batch)

        for path, result in _in_order(pool, functools.partial(find, size=size), files):
            try:
                found = result()
            except (ImageError, OSError) as error:
                unread += 1
                bar.write(f"error: {path}: {error}", sys.stderr)
            else:
                faceless += not found
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
        "%d faces in %d images, %d of them without a face",
        num_faces,
        len(files) - unread,
        faceless,
    )
    if unread:
        raise ValueError(f"{unread} of {len(files)} images could not be read")


def find_images(paths: Sequence[str], out_dir: Path | None = None) -> list[Path]:
    """The files named, and the images in the folders named and those below, in order of name.

    Raises:
      FileNotFoundError: if a path is not there.
      ValueError: if there is no image.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(
                found
                for found in path.rglob("*")
                if found.suffix.lower() in IMAGE_SUFFIXES
                and out_dir not in found.parents  # What an earlier run wrote.
                and not found.name.startswith(".")
            )
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"there is no file or folder {path}")
    if not files:
        raise ValueError(f"no image in {', '.join(paths)}" if paths else "name images or folders")
    return list(dict.fromkeys(files))


@contextlib.contextmanager
def executor(num_workers: int) -> Iterator[Executor]:
    """Worker processes, or a single thread if they are to be none.

    dlib's Python half lets only one thread at a time find a face.

    Raises:
      ChildProcessError: if a worker dies.
    """
    if num_workers == 0:
        pool: Executor = ThreadPoolExecutor(1)
    else:
        # Spawned workers have not inherited a half-held lock or this process's threads.
        pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), begin_worker)
        with workers.inherited_by_workers():
            for _ in range(num_workers):
                pool.submit(os.getpid)  # A worker starts for work that finds none idle.
    try:
        yield pool
    except BrokenProcessPool:
        raise ChildProcessError(
            "a process that finds faces was killed; if memory ran out, try fewer --num_workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: Executor,
    work: Callable[[Path], list[DetectedFace]],
    files: Sequence[Path],
) -> Iterator[tuple[Path, Callable[[], list[DetectedFace]]]]:
    """Each file with the means to get its result, `_AHEAD` of them being worked on meanwhile."""
    pending: collections.deque[tuple[Path, Future[list[DetectedFace]]]] = collections.deque()
    for path in files:
        pending.append((path, pool.submit(work, path)))
        if len(pending) > _AHEAD:
            path, future = pending.popleft()
            yield path, future.result
    for path, future in pending:
        yield path, future.result


def _answers(
    predictor: Predictor, batch: Sequence[DetectedFace], first: int
) -> tuple[np.ndarray | None, list[dict[str, Any]]]:
    """The masks of a batch, and what its lines say; `first` is the number of its first face among
    all."""
    landmarks = [face.landmarks for face in batch if face.landmarks is not None]
    probabilities, masks = predictor(
        np.stack([face.image for face in batch]), np.stack(landmarks) if landmarks else None
    )
    attribute_set = predictor.attribute_set
    lines = []
    for row, face in enumerate(batch):
        answers = dict(zip(attribute_set.names, probabilities[row].tolist(), strict=True))
        overlay = None if masks is None else f"overlays/{first + row:06d}_{face.file.stem}.png"
        lines.append(
            {
                "file": str(face.file),
                "face": face.number,
                "box": face.box,
                "attributes": {name: round(answer, 6) for name, answer in answers.items()},
                "groups": {
                    group: [name for name in members if answers[name] >= THRESHOLD]
                    for group, members in attribute_set.groups.items()
                },
                "overlay": overlay,
            }
        )
    return masks, lines
