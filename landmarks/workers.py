"""Shards made by processes of this machine. They share nothing: each has a pipe to this process,
through which it gets one shard after the other and tells of every face."""

from __future__ import annotations

import collections
import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2

from landmarks import shards
from landmarks.detector import Box
from landmarks.shards import Shard
from landmarks.sources import Reader, Source
from landmarks.stage import RUN_AGAIN, StageError, Task

_IDLE = "idle"
"""What a worker sends when it has loaded the models, and after each shard."""
_SECONDS_TO_LEAVE = 5.0


def make_shards(
    task: Task,
    source: Source,
    missing: Sequence[Shard],
    num_workers: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Makes shards in worker processes, none of which is left when this returns or raises.

    Args:
      task: how.
      source: the faces.
      missing: which shards.
      num_workers: how many processes.
      on_progress: called with the number of workers that have loaded their models, and the number
        of faces done since the last call.

    Raises:
      StageError: if a worker died.
      OSError: if a shard cannot be written.
    """
    # The largest first: no worker is left with a long shard at the end.
    waiting = collections.deque(sorted(missing, key=lambda shard: -len(shard.indices)))
    workers: dict[Any, multiprocessing.process.BaseProcess] = {}
    begun = set()
    try:
        with _interrupts_ignored():
            for _ in range(min(num_workers, len(missing))):
                connection, process = _start(task, source)
                workers[connection] = process
        while workers:
            for connection in multiprocessing.connection.wait(list(workers)):
                message = _receive(connection, workers[connection])
                if message == _IDLE:
                    begun.add(connection)
                    if waiting:
                        shard = waiting.popleft()
                        _send(connection, (shard, source.faces(shard.indices)))
                    else:
                        _send(connection, None)
                        workers.pop(connection).join()
                on_progress(len(begun), 0 if message == _IDLE else message)
    finally:
        for process in workers.values():
            process.terminate()
        for process in workers.values():
            process.join(_SECONDS_TO_LEAVE)
            process.kill()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started here ignore Ctrl-C, which a terminal sends to all: this one ends them."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


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


def _receive(connection: Any, process: multiprocessing.process.BaseProcess) -> Any:
    """What a worker has to say, unless it is an error or the worker is dead."""
    try:
        message = connection.recv()
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
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _leave)
    cv2.setNumThreads(0)  # The processes are the parallelism.
    on_face = functools.partial(connection.send, 1)
    try:
        detector = task.load_detector(fallback_box)
        connection.send(_IDLE)
        while (work := connection.recv()) is not None:
            shard, faces = work
            shards.write_shard(
                task.out_dir, shard, faces, reader, detector, task.max_pixels, on_face
            )
            connection.send(_IDLE)
    except OSError as error:
        connection.send(error)


def _leave(signal_number: int, frame: Any) -> None:
    """Ends a worker in an orderly way: what it has half written is removed."""
    sys.exit(128 + signal_number)


def _exit_with_parent() -> None:
    """Ends a worker whose parent was killed, which would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
