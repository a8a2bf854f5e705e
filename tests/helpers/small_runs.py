"""Runs of `experiments.train` that take seconds: drawn faces, a trunk of four convolutions."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from tests.helpers import commands, precompute_runs

ROOT = Path(__file__).parents[2]
NUM_STEPS, SAVE_EVERY = 60, 12
FLAGS = (
    "--config=experiments/configs/common.py",
    "--config.data.image_size=32",
    "--config.data.batch_size=4",
    "--config.model.name=global",
    "--config.model.trunk=stub",
    f"--config.train.num_steps={NUM_STEPS}",
    "--config.train.log_every=1",
    "--config.train.evaluate_every_epochs=0",
    f"--config.checkpoint.every_steps={SAVE_EVERY}",
)


def environment(devices=1):
    """`commands.environment`, with compilations in the log."""
    return commands.environment(devices) | {"JAX_LOG_COMPILES": "1"}


class Run:
    """A training in a process of its own.

    Args:
      workdir: The run's working directory.
      env: Environment variables, see `environment`.
      flags: Further flags besides `FLAGS`.
      data_dir: Data set folder; the drawn faces by default.
    """

    def __init__(self, workdir, env, *flags, data_dir=None):
        command = [
            "tests.helpers.with_stub",
            "experiments.train",
            *FLAGS,
            f"--config.data.dir={data_dir or precompute_runs.uninterrupted()}",
            f"--workdir={workdir}",
            *flags,
        ]
        self.workdir = workdir
        self._log = Path(tempfile.mkstemp(".log")[1])  # an unread pipe would fill up
        with self._log.open("w") as log:
            self.process = commands.fork(command, env, log, log)

    def wait_for(self, condition):
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            assert self.process.poll() is None, self.ended()
            time.sleep(0.001)
        assert time.monotonic() < deadline, "timed out"

    def wait_for_step(self, step):
        """Waits until that many steps are in `metrics.jsonl`."""
        path = self.workdir / "metrics.jsonl"
        self.wait_for(lambda: path.exists() and path.read_text().count('"train"') >= step)

    def ended(self, status=0, timeout=120):
        """Waits for the end and returns the log."""
        try:
            self.process.wait(timeout)
        finally:
            self.process.kill()
            self.process.wait()
            log = self._log.read_text()
            self._log.unlink()
        assert self.process.returncode == status, f"status {self.process.returncode}\n{log[-4000:]}"
        return log


def run_module(module, *flags, env):
    """Runs a command to its end, with the stub trunk registered, and returns its log."""
    return commands.run(["tests.helpers.with_stub", module, *flags], env).stderr


def rows(workdir, split="train"):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def state_digests(workdir, step=NUM_STEPS):
    """SHA-256 of every array of a checkpoint."""
    path = workdir / "checkpoints" / str(step)
    metadata = ocp.checkpointables_metadata(path).metadata
    parts = {name: metadata[name] for name in ("model", "training")}
    abstract = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), parts)
    leaves = jax.tree_util.tree_leaves_with_path(ocp.load_checkpointables(path, abstract))
    return {
        jax.tree_util.keystr(key): hashlib.sha256(np.ascontiguousarray(leaf)).hexdigest()
        for key, leaf in leaves
    }
