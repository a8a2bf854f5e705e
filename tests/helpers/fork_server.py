"""Commands as forks of a process that has already imported the libraries.

Importing takes a command several seconds of CPU time, and the tests start a hundred commands. Each
is still a process of its own, with its own arguments, environment and JAX backend, and it ends as
any Python program ends.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import jax

ROOT = Path(__file__).parents[2]

_LIBRARIES = (
    "experiments.cli",
    "experiments.photographs.faces",
    "landmarks.sources",
    "mgmtn_jax.evaluation.predictor",
    "mgmtn_jax.report.html_report",
    "mgmtn_jax.training.program",
    "mgmtn_jax.training.validation",
    "tests.helpers.stubs",
)
"""None of them defines a flag that a command defines too."""


class Process:
    """A running command, with the methods of `subprocess.Popen` that the tests use.

    Args:
      arguments: What follows `python -m`.
      env: All environment variables.
      stdout: File for its output.
      stderr: File for its errors.
      cwd: Its working directory.
    """

    def __init__(self, arguments, env, stdout, stderr, cwd=ROOT):
        self._status, status = os.pipe()
        request = json.dumps([list(arguments), dict(env), str(cwd)]).encode()
        files = [stdout.fileno(), stderr.fileno(), status]
        socket.send_fds(_server(), [request], files)
        os.close(status)
        self.args, self.returncode = arguments, None
        self.pid = int(os.read(self._status, 20))

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self.returncode = int(os.read(self._status, 20))
            os.close(self._status)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


@functools.cache
def _server():
    """The socket of this process's server, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.helpers.fork_server", str(theirs.fileno())]
    server = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
    theirs.close()

    @atexit.register
    def stop():
        ours.close()
        server.wait()

    return ours


def serve_from_here():
    """Makes a fork of this process its server; to be called before any thread starts."""
    global _server
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with _unwarned():
        if not (pid := os.fork()):
            ours.close()
            if (request := _serve(theirs)) is not None:
                _become(*request)
            sys.exit()
    theirs.close()

    @atexit.register
    def stop():
        ours.close()
        os.waitpid(pid, 0)

    def _server():
        return ours


def _unwarned():
    """JAX warns of forks; the threads that it means start later."""
    return warnings.catch_warnings(action="ignore")


def _serve(connection):
    """Forks for each request; returns it in the child, and None when the connection ends."""
    running = {}  # pidfd -> (pid, pipe for the exit code)
    while True:
        for ready in select.select([connection, *running], [], [])[0]:
            if ready is not connection:
                pid, status = running.pop(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                os.write(status, str(code).encode())
                os.close(status)
                os.close(ready)
                continue
            message, files, _, _ = socket.recv_fds(connection, 2**20, 3)
            if not message:
                return None
            stdout, stderr, status = files
            if not (pid := os.fork()):
                for descriptor in [*running, *(pipe for _, pipe in running.values()), status]:
                    os.close(descriptor)
                connection.close()
                os.dup2(stdout, 1)
                os.dup2(stderr, 2)
                return json.loads(message)
            os.close(stdout)
            os.close(stderr)
            os.write(status, str(pid).encode())
            running[os.pidfd_open(pid)] = pid, status


def _become(arguments, env, cwd):
    """Turns this fork into `python -m ARGUMENTS`."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    # JAX reads its variables when it is imported.
    jax.config.update("jax_log_compiles", "JAX_LOG_COMPILES" in env)
    sys.argv[:] = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as in conftest
    with _unwarned():
        request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        _become(*request)
