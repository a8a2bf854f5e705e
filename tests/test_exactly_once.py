"""Interrupted runs of the landmark stage resume and produce byte-identical data sets."""

import os
import random
import resource
import signal
import time
from pathlib import Path

import pytest

from landmarks.work_folder import WORK_FOLDER
from tests.helpers.precompute_runs import (
    DRAWN,
    contents,
    ended,
    error_line,
    precompute,
    start,
    uninterrupted,
)

AGAIN = "run the same command again to make the missing shards"


def strike_at_random(process, folder, randomness):
    """Waits until the run has finished shards of its own, and then a moment."""
    before = len(sidecars(folder))
    while process.poll() is None and len(sidecars(folder)) < before + 2:
        time.sleep(0.005)
    time.sleep(randomness.uniform(0, 0.06))
    assert process.poll() is None, process.stderr.read()


def sidecars(folder):
    return list((folder / WORK_FOLDER).glob("*.tfrecord-*.json"))


def whole_group_killed(folder, flags, randomness):
    process = start(folder, *flags)
    strike_at_random(process, folder, randomness)
    os.killpg(process.pid, signal.SIGKILL)
    ended(process, -signal.SIGKILL)


def parent_killed(folder, flags, randomness):
    process = start(folder, *flags)
    strike_at_random(process, folder, randomness)
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    ended(process, -signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "the workers survive their parent"
        time.sleep(0.01)


def worker_killed(folder, flags, randomness):
    process = start(folder, *flags)
    strike_at_random(process, folder, randomness)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    line = error_line(ended(process, 1))
    assert "a worker process was killed by SIGKILL" in line
    assert line.endswith(AGAIN)


def interrupted(folder, flags, randomness):
    process = start(folder, *flags)
    strike_at_random(process, folder, randomness)
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does at Ctrl-C.
    assert ended(process, 130).splitlines()[-1] == f"interrupted: {AGAIN}"
    assert not partial_files(folder)


def disk_full(folder, flags, randomness):
    process = start(folder, *flags)
    # Less than a shard. The kernel's error is like that of a full disk.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    line = error_line(ended(process, 1))
    assert f"{folder}/faces-" in line
    assert "File too large" in line
    assert not partial_files(folder)


def partial_files(folder):
    return [path for path in folder.rglob("*") if path.name.endswith(".partial")]


def children(pid):
    """The worker processes of a run."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(p) for p in pids if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


@pytest.mark.parametrize(
    ("num_workers", "endings"),
    [
        (1, (whole_group_killed, disk_full)),
        (2, (parent_killed, interrupted)),
        (3, (worker_killed, whole_group_killed)),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_bytes(num_workers, endings, tmp_path):
    folder, flags = tmp_path / "faces", (*DRAWN, f"--num_workers={num_workers}")
    randomness = random.Random(num_workers)
    for end in endings:
        end(folder, flags, randomness)
        assert not (folder / "dataset_info.json").exists()
    made = [folder / path.stem for path in sidecars(folder)]
    times = [path.stat().st_mtime_ns for path in made]
    assert "resuming" in precompute(folder, *flags)
    assert [path.stat().st_mtime_ns for path in made] == times  # No face is processed twice.
    assert contents(folder) == contents(uninterrupted())
