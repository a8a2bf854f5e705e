"""The landmark stage on Dask: a scheduler and three workers on loopback, one of which is killed."""

import contextlib
import json
import subprocess
import sys
import time

import distributed
import pytest

from landmarks.beam_pipeline import beam_options
from tests.helpers.precompute_runs import DRAWN, ROOT, contents, ended, start, uninterrupted

NUM_WORKERS = 3


@contextlib.contextmanager
def cluster(folder):
    """The address of a scheduler, and its workers by their addresses."""
    file = folder / "scheduler.json"
    common = [f"--scheduler-file={file}", "--host=127.0.0.1", "--no-dashboard"]
    worker = [*common, "--nthreads=1", "--no-nanny", f"--local-directory={folder}"]
    commands = [["distributed.cli.dask_scheduler", *common, "--port=0"]]
    commands += [["distributed.cli.dask_worker", *worker]] * NUM_WORKERS
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("w"))
        processes = []
        for command in commands:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", *command], cwd=ROOT, stdout=log, stderr=log
            )
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        deadline = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield json.loads(file.read_text())["address"], processes[1:]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_a_killed_worker_changes_no_byte(tmp_path):
    out = tmp_path / "faces"
    with cluster(tmp_path) as (address, workers), distributed.Client(address) as client:
        client.wait_for_workers(NUM_WORKERS, 60)
        client.get_task_stream()  # Starts recording.
        dask = ("--runner=DaskRunner", f"--dask_client_address={address}")
        process = start(out, *DRAWN, "--", *dask, module="landmarks.beam_pipeline")
        while len(done_by(client)) < NUM_WORKERS:  # Each worker gets work.
            assert process.poll() is None, ended(process)
            time.sleep(0.05)
        workers[0].kill()
        log = ended(process)
    assert contents(out) == contents(uninterrupted())
    assert "shards" in log


def done_by(client):
    """The workers that have made a shard."""
    tasks = client.get_task_stream()
    return {task["worker"] for task in tasks if str(task["key"]).startswith("('apply_dofn")}


def test_the_short_name_of_the_runner_is_enough():
    runner = "--runner=apache_beam.runners.dask.dask_runner.DaskRunner"
    assert beam_options(["--runner=DaskRunner", "--x"]) == [
        runner,
        "--x",
        "--dask_partition_size=1",
    ]
    own = ["--runner=DaskRunner", "--dask_npartitions=4"]
    assert beam_options(own) == [runner, "--dask_npartitions=4"]
    assert beam_options(["--runner=DirectRunner"]) == ["--runner=DirectRunner"]
