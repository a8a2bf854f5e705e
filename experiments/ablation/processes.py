"""The commands of an ablation's runs, as child processes."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence

from absl import logging


def call(arguments: Sequence[str]) -> int:
    """Runs `python -m ARGUMENTS`, and returns its exit status.

    The child has its own process group, so that Ctrl-C in a terminal does not reach it directly: it
    receives one SIGTERM from here, upon which a training saves a checkpoint. It inherits the lock
    file: if it outlives this process, no second ablation can write to the same folder.
    """
    logging.info("python -m %s", shlex.join(arguments))
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, process_group=0, close_fds=False)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
