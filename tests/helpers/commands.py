"""Commands of this project as child processes: one environment and one way to start them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers import fork_server, xla

ROOT = Path(__file__).parents[2]


def environment(devices=1):
    """The environment variables of a command that compiles fast rather than well.

    All commands of a test session share its folder of compiled programs.

    Args:
      devices: Number of CPU devices that JAX shows.
    """
    return os.environ | {"XLA_FLAGS": xla.flags(devices)}


def start(arguments, env, **options):
    """Starts `python -m ARGUMENTS` in the repository's root; `options` are those of `Popen`."""
    return subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=env, **options)


def fork(arguments, env, stdout, stderr):
    """`start`, without the seconds that importing takes; see `fork_server`."""
    return fork_server.Process(arguments, env, stdout, stderr)


def run(arguments, env, status=0, cwd=ROOT):
    """Runs `python -m ARGUMENTS` to its end.

    Returns:
      The `CompletedProcess` with the text of stdout and stderr.

    Raises:
      AssertionError: If the exit status is not `status`.
    """
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        returncode = fork_server.Process(arguments, env, stdout, stderr, cwd).wait()
        for file in (stdout, stderr):
            file.seek(0)
        result = subprocess.CompletedProcess(arguments, returncode, stdout.read(), stderr.read())
    assert result.returncode == status, result.stderr[-3000:]
    return result
