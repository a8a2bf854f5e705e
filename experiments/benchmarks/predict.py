"""Throughput of prediction on photographs, beside its two halves measured separately."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.photographs.faces import DetectedFace, FaceFinder
from experiments.photographs.files import find_images
from experiments.photographs.prediction import executor, predict
from mgmtn_jax.data.images import MAX_PIXELS
from mgmtn_jax.evaluation.predictor import Predictor


def measure_prediction(
    predictor: Predictor,
    paths: Sequence[str],
    limit: int,
    batch_size: int,
    num_workers: int,
    rounds: int,
) -> dict[str, Any]:
    """Measures `experiments.predict` on photographs.

    Args:
      predictor: The trained network.
      paths: Image files and folders.
      limit: Maximum number of images, the first in order of name.
      batch_size: Faces per batch.
      num_workers: Number of worker processes.
      rounds: Number of measurements; medians are returned.

    Returns:
      One row: seconds to read the images and to find and align the faces, by this process and by
      `num_workers` processes; seconds of the network alone; seconds of the complete command,
      overlays included; and `ratio` and `ratio_by_workers`, the seconds of finding (by each way)
      plus the network's over those of the complete command.

    Raises:
      FileNotFoundError: If an image or folder does not exist.
      ValueError: If there is no image, or one cannot be read.
    """
    size = predictor.config.data.image_size
    find = functools.partial(FaceFinder(0, MAX_PIXELS), size=size)
    files = list(itertools.islice(find_images(paths), limit))
    found = _find(map, find, files)  # loads dlib's models
    _run_network(predictor, found, batch_size)  # compiles the network
    seconds = []
    for _ in range(rounds):
        with executor(num_workers) as pool:
            _find(pool.map, find, files[: 8 * num_workers])  # loads every worker's models
            times = [
                _seconds(_find, map, find, files),
                _seconds(_find, pool.map, find, files),
                _seconds(_run_network, predictor, found, batch_size),
                _seconds(_predict, predictor, pool, files, batch_size),
            ]
        seconds.append(times)
    ratios = [((one + net) / whole, (many + net) / whole) for one, many, net, whole in seconds]
    one, many, network, whole = map(statistics.median, zip(*seconds, strict=True))
    return {
        "figure": "predict",
        "images": len(files),
        "faces": len(found),
        "num_workers": num_workers,
        "find_seconds": one,
        "find_seconds_by_workers": many,
        "network_seconds": network,
        "seconds": whole,
        "images_per_second": len(files) / whole,
        "ratio": statistics.median(ratio for ratio, _ in ratios),
        "ratio_by_workers": statistics.median(ratio for _, ratio in ratios),
    }


def _find(
    run: Callable[..., Iterable[list[DetectedFace]]],
    find: Callable[[Path], list[DetectedFace]],
    files: Sequence[Path],
) -> list[DetectedFace]:
    return [face for faces in run(find, files) for face in faces]


def _run_network(predictor: Predictor, found: Sequence[DetectedFace], batch_size: int) -> None:
    for first in range(0, len(found), batch_size):
        batch = found[first : first + batch_size]
        predictor(np.stack([face.image for face in batch]))


def _predict(predictor: Predictor, pool: Executor, files: Sequence[Path], batch_size: int) -> None:
    with (
        tempfile.TemporaryDirectory() as out_dir,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        predict(
            predictor,
            pool,
            files,
            FaceFinder(0, MAX_PIXELS),
            Path(out_dir),
            batch_size=batch_size,
        )


def _seconds(call: Callable[..., Any], *arguments: Any) -> float:
    begin = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - begin
