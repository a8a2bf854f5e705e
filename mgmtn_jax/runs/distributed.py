"""Several processes as one run: how they connect, and how they stop together."""

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
    """Connects to the other processes of the run; call it before any other use of JAX.

    On TPU pods, Slurm and Open MPI, JAX detects them. Slurm means one process per GPU here; a job
    with a single task is left alone and sees all of its GPUs.

    Args:
      coordinator_address: host:port of process 0, the same for all; None asks the cluster.
      num_processes: Number of processes of the run; None asks the cluster.
      process_id: Index of this process, 0 to num_processes - 1; None asks the cluster.

    Raises:
      ValueError: if only some of the three are given and the cluster does not know the rest.
      RuntimeError: if the others do not connect within five minutes.
    """
    given = (coordinator_address, num_processes, process_id) != (None, None, None)
    if not given and os.environ.get("SLURM_NTASKS") == "1":
        return
    try:
        # A lost process is noticed after the heartbeat timeout at the latest.
        jax.distributed.initialize(
            coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=60
        )
    except ValueError as error:
        if given:
            raise ValueError(
                "outside of Slurm and TPU pods, give all of --coordinator_address, "
                f"--num_processes and --process_id: {error}"
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


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], bool]]:
    """Listens for SIGTERM, the notice before a machine is taken away, as long as the block runs.

    Yields:
      A function to call once after every step with the number of steps done. It returns True if the
      run has to stop here, and the same on all processes, whichever of them got the signal.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield lambda done: bool(received)
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def exit_together() -> Iterator[None]:
    """Ends this process at once if the run inside fails or loses another process.

    A normal exit would wait minutes for the other processes, which wait for this one. Start all of
    them again; they resume from the last checkpoint.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        logging.debug("traceback of the error:", exc_info=True)
        logging.error(
            "process %d of %d cannot continue, or has lost another process: %s",
            jax.process_index(),
            jax.process_count(),
            error,
        )
        os._exit(1)
