"""Runs of `python -m landmarks.precompute` for the tests of the landmark stage."""

import functools
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from landmarks.task import Task
from mgmtn_jax.data import schema
from tests.helpers import commands

ROOT = Path(__file__).parents[2]
LIMIT, NUM_SHARDS = 40, 20
DRAWN = ("--source=drawn", f"--limit={LIMIT}", f"--num_shards={NUM_SHARDS}", "--seed=5")


def drawn_task(out_dir, limit, num_shards):
    """The same faces, as a task for the stage's functions."""
    return Task(
        source="drawn",
        data_dir=None,
        out_dir=str(out_dir),
        limit=limit,
        seed=5,
        num_shards=num_shards,
        detector="hog",
        upsample=0,
        max_pixels=10**6,
    )


def start(out_dir, *flags, module="landmarks.precompute"):
    command = [sys.executable, "-m", module, f"--out_dir={out_dir}", *flags]
    # A child ignores Ctrl-C if its parent does, as the shell makes programs do in the background.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        signal.signal(signal.SIGINT, handler)


def ended(process, status=0):
    """Waits for a run to end and returns its log."""
    _, log = process.communicate(timeout=300)
    assert process.returncode == status, f"status {process.returncode}\n{log}"
    assert status == 0 or "Traceback" not in log, log
    return log


def precompute(out_dir, *flags, status=0):
    command = ["landmarks.precompute", f"--out_dir={out_dir}", *flags]
    log = commands.run(command, os.environ, status).stderr
    assert status == 0 or "Traceback" not in log, log
    return log


@functools.cache
def uninterrupted():
    """The data set of the drawn faces from an uninterrupted run of two workers. Read only."""
    _keep.append(tempfile.TemporaryDirectory())
    folder = Path(_keep[-1].name) / "faces"
    log = precompute(folder, *DRAWN, "--num_workers=2")
    assert "faces/s" in log
    return folder


_keep = []


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".index")
    }


def records(folder, split):
    source = schema.open_split(folder, split)
    return [schema.parse(source[i]) for i in range(len(source))]


def error_line(log):
    return next(line for line in log.splitlines() if line.startswith("error: "))
