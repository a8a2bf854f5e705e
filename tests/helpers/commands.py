"""Commands of this project as child processes: one environment and one way to start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(devices=1):
    """The environment variables of a command that compiles fast rather than well.

    All commands of a test session share one folder of compiled programs.

    Args:
      devices: Number of CPU devices that JAX shows.
    """
    return os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": os.environ["TEST_COMPILATION_CACHE"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(arguments, env, **options):
    """Starts `python -m ARGUMENTS` in the repository's root; `options` are those of `Popen`."""
    return subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=env, **options)


def run(arguments, env, status=0):
    """Runs `python -m ARGUMENTS` in the repository's root to its end.

    Returns:
      The `CompletedProcess` with the text of stdout and stderr.

    Raises:
      AssertionError: If the exit status is not `status`.
    """
    command = [sys.executable, "-m", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == status, result.stderr[-3000:]
    return result
