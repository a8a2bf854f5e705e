"""Shards made by processes of this machine. They share nothing: each has a pipe to this process,
through which it gets one shard after the other and tells of every face."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2

from landmarks import shards
from landmarks.detector import Box
from landmarks.shards import Shard
from landmarks.sources import Reader, Source
from landmarks.task import RUN_AGAIN, StageError, Task

# The predictor is 90 MB of trees, read all over for every face. If the heap grows by 64 MiB instead
# of 128 KiB, Linux puts them on huge pages, and predicting takes 1.9 ms instead of 2.2 to 2.9.
_GLIBC_TUNABLES = "glibc.malloc.top_pad=67108864:glibc.malloc.hugetlb=1"
_SECONDS_BETWEEN_REPORTS = 0.1
_SECONDS_TO_LEAVE = 5.0


class _Report(NamedTuple):
    """What a worker sends: the faces since the last one, and whether it waits for a shard."""

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
    """Makes shards in worker processes, none of which is left when this returns or raises.

    Args:
      task: how.
      source: the faces.
      missing: which shards.
      num_workers: how many processes.
      on_progress: called with the number of workers that have loaded their models, and the number
        of faces done since the last call.
      together: whether the first worker waits for the last to have loaded its models, as one who
        measures them wants it.

    Raises:
      StageError: if a worker died.
      OSError: if a shard cannot be written.
    """
    # The largest first: no worker is left with a long shard at the end.
    waiting = collections.deque(sorted(missing, key=lambda shard: -len(shard.indices)))
    workers: dict[Any, multiprocessing.process.BaseProcess] = {}
    begun = set()
    idle: list[Any] = []
    try:
        with inherited_by_workers():
            num_workers = min(num_workers, len(missing))
            for _ in range(num_workers):
                connection, process = _start(task, source)
                workers[connection] = process
        while workers:
            for connection in multiprocessing.connection.wait(list(workers)):
                report = _receive(connection, workers[connection])
                if report.waiting:
                    begun.add(connection)
                    idle.append(connection)
                while idle and (len(begun) == num_workers or not together):
                    worker = idle.pop()
                    if waiting:
                        shard = waiting.popleft()
                        _send(worker, (shard, source.faces(shard.indices)))
                    else:
                        _send(worker, None)
                        workers.pop(worker).join()
                on_progress(len(begun), report.faces)
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join(_SECONDS_TO_LEAVE)
            process.kill()


@contextlib.contextmanager
def inherited_by_workers() -> Iterator[None]:
    """Sets what the processes started here are to take over, and puts it back."""
    tunables = os.environ.get("GLIBC_TUNABLES")
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (tunables, _GLIBC_TUNABLES)))
    # A terminal sends Ctrl-C to all of them. This process alone heeds it and ends the others.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        del os.environ["GLIBC_TUNABLES"]
        if tunables is not None:
            os.environ["GLIBC_TUNABLES"] = tunables


def _start(task: Task, source: Source) -> tuple[Any, multiprocessing.process.BaseProcess]:
    # Spawned workers have not inherited a half-held lock or this process's threads.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=_work, args=(there, task, source.reader, source.fallback_box), daemon=True
    )
    process.start()
    there.close()  # Or its end would not be noticed.
    return here, process


def _receive(connection: Any, process: multiprocessing.process.BaseProcess) -> _Report:
    """What a worker has to say, unless it is an error or the worker is dead."""
    try:
        message: _Report | OSError = connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        code = process.exitcode or 0
        how = f"ended with status {code}, see above"
        if code < 0:
            name = signal.Signals(-code).name
            how = f"was killed by {name}; if memory ran out, try fewer --num_workers"
        raise StageError(f"a worker process {how}: {RUN_AGAIN}") from None
    if isinstance(message, OSError):
        raise message
    return message


def _send(connection: Any, message: Any) -> None:
    with contextlib.suppress(ConnectionError):  # If it is dead, the next _receive will tell.
        connection.send(message)


def _work(connection: Any, task: Task, reader: Reader, fallback_box: Box) -> None:
    """What a worker process does."""
    threading.Thread(target=exit_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _leave)
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
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Nothing is half written any more.


def _leave(signal_number: int, frame: Any) -> None:
    """Ends a worker in an orderly way: what it has half written is removed."""
    sys.exit(128 + signal_number)


def exit_with_parent() -> None:
    """Ends a worker whose parent was killed, which would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
