"""Kills, signals and errors: a resumed run ends like an undisturbed one."""

import random
import re
import resource
import signal
import time

import pytest

from tests.helpers import small_runs
from tests.helpers.small_runs import NUM_STEPS, SAVE_EVERY, Run


@pytest.fixture(scope="module")
def env():
    return small_runs.environment()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, env):
    """Workdir and log of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, Run(workdir, env).ended()


def test_each_step_is_compiled_once(undisturbed):
    _, log = undisturbed
    for step in ("train_step", "eval_step"):
        assert log.count(f"Finished XLA compilation of jit({step})") == 1, log


def test_run_killed_at_random_moments_ends_with_the_same_bits(undisturbed, env, tmp_path):
    rng = random.Random(0)
    # One moment in each fifth of the run; the first is just after a save has begun.
    for fifth in range(5):
        run = Run(tmp_path, env)
        if fifth == 0:
            folder = tmp_path / "checkpoints" / str(SAVE_EVERY)
            run.wait_for(folder.exists)
            assert not (folder / "SHA256SUMS").exists()
        else:
            run.wait_for_step(rng.randrange(fifth * NUM_STEPS // 5, (fifth + 1) * NUM_STEPS // 5))
            time.sleep(rng.random() / 50)
        run.process.kill()
        run.ended(-signal.SIGKILL)
    log = Run(tmp_path, env).ended()
    assert f"steps 0 to {NUM_STEPS}" not in log
    assert small_runs.state_digests(tmp_path) == small_runs.state_digests(undisturbed[0])
    losses = [[row["loss"] for row in small_runs.rows(w)] for w in (tmp_path, undisturbed[0])]
    assert losses[0] == losses[1]


def test_sigterm_saves_and_the_same_command_resumes(undisturbed, env, tmp_path):
    run = Run(tmp_path, env)
    run.wait_for_step(20)
    run.process.send_signal(signal.SIGTERM)
    log = run.ended()
    (step,) = re.findall(r"SIGTERM: saved step (\d+)", log)
    assert 20 <= int(step) < NUM_STEPS
    log = Run(tmp_path, env).ended()
    assert f"steps {step} to {NUM_STEPS}" in log
    assert small_runs.state_digests(tmp_path) == small_runs.state_digests(undisturbed[0])


def test_non_finite_loss_stops_the_run_and_is_not_saved(env, tmp_path):
    flags = ("--config.optimizer.learning_rate=1e30", "--config.optimizer.warmup_fraction=0")
    log = Run(tmp_path, env, *flags).ended(1)
    assert re.search(r"error: the loss of step \d+ is not finite: .*learning_rate", log)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_full_disk_is_one_sentence_and_the_run_can_resume(env, tmp_path):
    env = {name: value for name, value in env.items() if name != "JAX_LOG_COMPILES"}
    run = Run(tmp_path, env)
    # Long before it writes anything. Setting it in the child would fork this process with its
    # threads.
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    log = run.ended(1)
    assert re.search(r"^error: .*File too large", log, re.MULTILINE), log[-2000:]
    assert "Traceback" not in log
    assert "finished: 60 steps" in Run(tmp_path, env).ended()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [str(NUM_STEPS - SAVE_EVERY), str(NUM_STEPS)]


def test_profile_flag_traces_a_range_of_steps(env, tmp_path):
    log = Run(tmp_path, env, "--profile=3:5", "--config.train.num_steps=6").ended()
    assert "trace of steps 3 to 5" in log
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert "error: --profile=5:3 is not" in Run(tmp_path, env, "--profile=5:3").ended(1)


def test_trace_ends_with_the_run(env, tmp_path):
    """At its last step, or where SIGTERM stops it; also where a resumed run starts inside it."""
    run = Run(tmp_path, env, "--profile=3:1000")
    run.wait_for_step(10)
    run.process.send_signal(signal.SIGTERM)
    log = run.ended()
    (step,) = re.findall(r"SIGTERM: saved step (\d+)", log)
    assert f"trace of steps 3 to {step}" in log
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
    log = Run(tmp_path, env, "--profile=3:1000").ended()
    assert f"trace of steps {int(step) + 1} to {NUM_STEPS}" in log
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 2


def test_run_of_zero_steps_is_one_sentence(env, tmp_path):
    flags = ("--config.train.num_steps=0", "--config.train.num_epochs=0.01")
    log = Run(tmp_path, env, *flags).ended(1)
    assert "error: the run has no steps: train.num_epochs=0.01 of 32 training faces" in log
    assert not tmp_path.joinpath("config.json").exists()
