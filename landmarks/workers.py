"""Worker processes of this machine that make shards.

They share nothing. Each has a pipe to the main process, through which it receives one shard after
another and reports its progress.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2

from landmarks import processes, shards
from landmarks.plausibility import Box
from landmarks.shards import Shard
from landmarks.sources import Reader, Source
from landmarks.task import RUN_AGAIN, StageError, Task

_SECONDS_BETWEEN_REPORTS = 0.1
_SECONDS_TO_EXIT = 5.0


class _Report(NamedTuple):
    """Progress of a worker.

    Attributes:
      faces: Number of faces done since the last report.
      waiting: True if the worker waits for a shard.
    """

    faces: int
    waiting: bool


def make_shards(
    task: Task,
    source: Source,
    missing: Sequence[Shard],
    num_workers: int,
    on_progress: Callable[[int, int], None],
    *,
    together: bool = False,
) -> None:
    """Makes shards in worker processes, all of which have ended when this returns or raises.

    Args:
      task: Settings of the run.
      source: The faces.
      missing: The shards to make.
      num_workers: Number of processes.
      on_progress: Called with the number of workers that have loaded their models and the number of
        faces done since the last call.
      together: If True, no worker starts before all have loaded their models, which benchmarks
        need.

    Raises:
      StageError: If a worker died.
      OSError: If a shard cannot be written.
    """
    # The largest first, so that no worker is left with a long shard at the end.
    waiting = collections.deque(sorted(missing, key=lambda shard: -len(shard.indices)))
    workers: dict[Any, multiprocessing.process.BaseProcess] = {}
    ready = set()
    idle: list[Any] = []
    try:
        with processes.inherited_by_workers():
            num_workers = min(num_workers, len(missing))
            for _ in range(num_workers):
                connection, process = _start(task, source)
                workers[connection] = process
        while workers:
            for connection in multiprocessing.connection.wait(list(workers)):
                report = _receive(connection, workers[connection])
                if report.waiting:
                    ready.add(connection)
                    idle.append(connection)
                while idle and (len(ready) == num_workers or not together):
                    worker = idle.pop()
                    if waiting:
                        shard = waiting.popleft()
                        _send(worker, (shard, source.faces(shard.indices)))
                    else:
                        _send(worker, None)
                        workers.pop(worker).join()
                on_progress(len(ready), report.faces)
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join(_SECONDS_TO_EXIT)
            process.kill()


def _start(task: Task, source: Source) -> tuple[Any, multiprocessing.process.BaseProcess]:
    # Spawned, not forked: a fork could inherit a lock held by another thread.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=_work, args=(there, task, source.reader, source.fallback_box), daemon=True
    )
    process.start()
    there.close()  # While it is open here, the worker's death would not close the pipe.
    return here, process


def _receive(connection: Any, process: multiprocessing.process.BaseProcess) -> _Report:
    """The next report of a worker. Raises its error, or a StageError if it died."""
    try:
        message: _Report | OSError = connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        code = process.exitcode or 0
        how = f"ended with status {code}, see its message above"
        if code < 0:
            name = signal.Signals(-code).name
            how = f"was killed by {name}; if memory ran out, try fewer --num_workers"
        raise StageError(f"a worker process {how}: {RUN_AGAIN}") from None
    if isinstance(message, OSError):
        raise message
    return message


def _send(connection: Any, message: Any) -> None:
    with contextlib.suppress(ConnectionError):  # If it died, the next _receive raises.
        connection.send(message)


def _work(connection: Any, task: Task, reader: Reader, fallback_box: Box) -> None:
    """The body of a worker process."""
    threading.Thread(target=processes.exit_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _exit_cleanly)
    cv2.setNumThreads(0)  # The processes are the parallelism.
    done, reported = 0, 0.0

    def on_face() -> None:
        nonlocal done
        done += 1
        if time.monotonic() > reported + _SECONDS_BETWEEN_REPORTS:
            report(waiting=False)

    def report(waiting: bool) -> None:
        nonlocal done, reported
        connection.send(_Report(done, waiting))
        done, reported = 0, time.monotonic()

    try:
        detector = task.load_detector(fallback_box)
        report(waiting=True)
        while (work := connection.recv()) is not None:
            shard, faces = work
            shards.write_shard(
                task.out_dir, shard, faces, reader, detector, task.max_pixels, on_face
            )
            report(waiting=True)
    except OSError as error:
        connection.send(error)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # No partial file is left.


def _exit_cleanly(signal_number: int, frame: Any) -> None:
    """Ends a worker through an exception, so that its partial files are removed."""
    sys.exit(128 + signal_number)
