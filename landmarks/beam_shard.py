"""Shards on a Beam worker, which imports this module by name; a pickled pipeline would copy it."""

from __future__ import annotations

import threading
from typing import NamedTuple

import apache_beam as beam
import cv2
from apache_beam.metrics import Metrics

from landmarks import shards, work_folder
from landmarks.detection import FindFace
from landmarks.shards import Shard
from landmarks.sources import Source
from landmarks.task import Task


class _Prepared(NamedTuple):
    """The source, the plan and the detector, which a thread keeps between shards."""

    task: Task
    source: Source
    shards: dict[str, Shard]
    detector: FindFace | None


_kept = threading.local()  # dlib's detector keeps an image pyramid, so threads share none.


def _prepared(task: Task) -> _Prepared:
    """Reads the label files and loads dlib, once in a thread: Dask sets up anew for each shard."""
    found: _Prepared | None = getattr(_kept, "prepared", None)
    if found is None or found.task != task:
        cv2.setNumThreads(0)  # The workers are the parallelism.
        source = task.read_source()
        # A worker that sees another folder, or has another version of dlib, makes no shard.
        work_folder.check(task.out_dir, task.fingerprint(source))
        plan = shards.plan_shards(source, task.num_shards)
        detector = task.load_detector(source.fallback_box)
        found = _Prepared(task, source, {shard.name: shard for shard in plan}, detector)
        _kept.prepared = found
    return found


class MakeShard(beam.DoFn):
    """Makes the shard with a given name.

    Args:
      task: The task. Each worker reads the source's label files itself.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._faces = Metrics.counter("landmarks", "faces")

    def setup(self) -> None:
        self._prepared = _prepared(self._task)

    def process(self, name: str) -> None:
        _, source, plan, detector = self._prepared
        shard, task = plan[name], self._task
        if shards.read_sidecar(task.out_dir, shard) is not None:
            return  # A runner may repeat a work item.
        shards.write_shard(
            task.out_dir,
            shard,
            source.faces(shard.indices),
            source.reader,
            detector,
            task.max_pixels,
            self._faces.inc,
        )
