"""Two processes on loopback make one run: the same losses, checkpoints and end."""

import re
import signal
import socket

import numpy as np
import pytest

from tests.helpers import small_runs
from tests.helpers.small_runs import NUM_STEPS, Run

# Adam's first steps are the gradient's sign, and rounding decides it where a gradient is zero.
SGD = "--config.optimizer.name=sgd"


@pytest.fixture(scope="module")
def env():
    return small_runs.environment()


def _start_two(workdir, env):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = (SGD, f"--coordinator_address=localhost:{port}", "--num_processes=2")
    return [Run(workdir, env, *flags, f"--process_id={i}") for i in range(2)]


def _saved_step(log):
    (step,) = re.findall(r"SIGTERM: saved step (\d+)", log)
    return int(step)


def test_number_of_processes_may_change_between_restarts(env, tmp_path):
    alone, changing = tmp_path / "alone", tmp_path / "changing"
    Run(alone, env, SGD).ended()

    two = _start_two(changing, env)
    two[0].wait_for_step(10)
    two[1].process.terminate()  # one gets the signal, both stop after the same step
    logs = [run.ended() for run in two]
    first = _saved_step(logs[0])
    assert first == _saved_step(logs[1])
    assert 10 <= first < NUM_STEPS
    assert list((changing / "checkpoints").iterdir())
    assert len(list(changing.glob("events.out.tfevents.*"))) == 1

    one = Run(changing, env, SGD)
    one.wait_for_step(first + 5)
    one.process.terminate()
    log = one.ended()
    assert f"steps {first} to {NUM_STEPS}" in log
    second = _saved_step(log)

    for log in [run.ended() for run in _start_two(changing, env)]:
        assert f"steps {second} to {NUM_STEPS}" in log
    losses = {w: [row["loss"] for row in small_runs.rows(w)] for w in (alone, changing)}
    assert len(losses[alone]) == NUM_STEPS
    np.testing.assert_allclose(losses[changing], losses[alone], rtol=1e-5)


def test_when_one_process_dies_the_other_exits(env, tmp_path):
    two = _start_two(tmp_path, env)
    two[0].wait_for_step(10)
    two[1].process.kill()
    two[1].ended(-signal.SIGKILL)
    log = two[0].ended(1, timeout=110)  # documented: within two minutes
    assert "process 0 of 2 cannot continue, or has lost another process" in log
