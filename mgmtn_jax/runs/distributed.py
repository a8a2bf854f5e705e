"""Several processes as one run: how they find each other, and how they stop together."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import signal
import zlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils


def join(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes of the run; to be called before anything else of JAX.

    On TPU pods, Slurm and Open MPI JAX knows them by itself. On Slurm that is one process for each
    GPU, hence a job of a single task is left alone and sees all of its GPUs.

    Args:
      coordinator_address: host:port of process 0, the same for all; None asks the cluster.
      num_processes: of the run; None asks the cluster.
      process_id: 0 to num_processes - 1; None asks the cluster.

    Raises:
      ValueError: if only some of the three are given and the cluster does not tell the rest.
      RuntimeError: if the others do not appear within five minutes.
    """
    given = (coordinator_address, num_processes, process_id) != (None, None, None)
    if not given and os.environ.get("SLURM_NTASKS") == "1":
        return
    try:
        # Whoever loses another process hears of it after the heartbeat's timeout at the latest.
        jax.distributed.initialize(
            coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=60
        )
    except ValueError as error:
        if given:
            raise ValueError(
                "--coordinator_address, --num_processes and --process_id belong together outside "
                f"of Slurm and TPU pods: {error}"
            ) from error
        return  # No cluster: this process is the whole run.
    logging.info("process %d of %d", jax.process_index(), jax.process_count())


def local_process_count() -> int:
    """The number of processes of the run that share this process's host, and thus its memory.

    A collective: every process of the run must call it.
    """
    boot_id = pathlib.Path("/proc/sys/kernel/random/boot_id")  # Containers of one host share it.
    host = boot_id.read_text() if boot_id.exists() else platform.node()
    digest = np.uint32(zlib.crc32(host.encode()))
    return int((multihost_utils.process_allgather(digest) == digest).sum())


def stop_signal() -> Callable[[int], bool]:
    """Listens for SIGTERM, the notice before a machine is taken away.

    Returns:
      A function to be called once after every step with the number of steps done: whether to stop
      here. All processes get the same answer, whichever of them got the signal.
    """
    if jax.process_count() > 1:
        return multihost_utils.reached_preemption_sync_point
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    return lambda done: bool(received)


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Around a run: if it fails, or another process is gone, this process ends at once.

    The ordinary end of a program waits minutes for the other processes, which wait for this one.
    All of them are to be started again, and go on from the last checkpoint.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        logging.debug("what was behind it:", exc_info=True)
        logging.error(
            "process %d of %d cannot go on, or has lost another: %s",
            jax.process_index(),
            jax.process_count(),
            error,
        )
        os._exit(1)
