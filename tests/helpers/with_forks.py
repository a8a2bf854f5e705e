"""Runs a command, and the commands that it starts, as forks with the stub trunk available.

    python -m tests.helpers.with_forks MODULE --flags

Only commands of the form `python -m MODULE` are forked; see `fork_server`.
"""

import os
import runpy
import subprocess
import sys

from tests.helpers import fork_server

WITH_STUB = "tests.helpers.with_stub"


def _start(command, **options):
    if command[:2] != [sys.executable, "-m"]:
        return _popen(command, **options)
    return fork_server.Process([WITH_STUB, *command[2:]], os.environ, sys.stdout, sys.stderr)


if __name__ == "__main__":
    fork_server.serve_from_here()
    _popen, subprocess.Popen = subprocess.Popen, _start
    sys.argv[0] = WITH_STUB
    runpy.run_module(WITH_STUB, run_name="__main__", alter_sys=True)
