"""The trainings of the device report, in processes of their own, and what they show."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol

import jax
import ml_collections

from experiments.benchmarks.device_markdown import Section
from mgmtn_jax.evaluation.predictor import Predictor
from mgmtn_jax.runs import manifest
from mgmtn_jax.runs.history import read_history

DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


class Process(Protocol):
    """The part of `subprocess.Popen` that is used here."""

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def kill(self) -> None: ...


class StartTraining(Protocol):
    """Starts `experiments.train` with flags and further environment variables, in a process."""

    def __call__(self, flags: Sequence[str], env: Mapping[str, str], log: IO[bytes]) -> Process: ...


def start_training(flags: Sequence[str], env: Mapping[str, str], log: IO[bytes]) -> Process:
    """See `StartTraining`."""
    command = [sys.executable, "-m", "experiments.train", *flags]
    return subprocess.Popen(command, env=os.environ | env, stdout=log, stderr=log)


class Setting(NamedTuple):
    """The network, the data and the limits of a report.

    Attributes:
      data_dir: Dataset folder to train on.
      out_dir: Folder of `device.json` and `device.md`; the runs go into a temporary folder.
      config: The resolved config; its network is the MGMTN of the report.
      train_flags: Flags of `experiments.train` that give this config; data and workdir are added.
      batch_sizes: Batch sizes of the comparison of networks, ascending.
      num_steps: Steps of a training.
      minutes: A section or batch size does not start later than this.
      against_timm: Compare with timm's ResNet-50 in PyTorch.
      start: Starts a training.
    """

    data_dir: str
    out_dir: Path
    config: ml_collections.ConfigDict
    train_flags: Sequence[str]
    batch_sizes: Sequence[int]
    num_steps: int
    minutes: float
    against_timm: bool = False
    start: StartTraining = start_training


def measure_training(setting: Setting, workdir: Path) -> Section:
    """Trains from shards, as a user does."""
    with _train(setting, workdir, {}) as process:
        _finish(process, workdir)
    rows = [row for row in read_history(workdir) if row["split"] == "train"]
    rows = rows[len(rows) // 2 :]  # The first ones wait for the first batches.
    names = ("images_per_second", "data_wait", "flops_utilization")
    return {
        "batch_size": setting.config.data.batch_size,
        "steps": setting.num_steps,
        **{n: statistics.median(row[n] for row in rows) for n in names if n in rows[0]},
    }


def measure_resumption(setting: Setting, folder: Path) -> Section:
    """Trains once without and once with a kill, with deterministic operations."""
    env = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {DETERMINISTIC}"}
    whole, killed = folder / "whole", folder / "killed"
    with _train(setting, whole, env) as process:
        _finish(process, whole)
    with _train(setting, killed, env) as process:
        while process.poll() is None and not _checkpoints(killed):
            time.sleep(0.01)
        process.kill()
        process.wait()
    if not 0 < max(_checkpoints(killed), default=0) < setting.num_steps:
        raise RuntimeError(f"the training was not killed between two checkpoints:\n{_log(killed)}")
    resumed_from = max(_checkpoints(killed))
    with _train(setting, killed, env) as process:
        _finish(process, killed)
    one, other = (
        jax.device_get(Predictor.from_workdir(workdir, setting.num_steps).variables)
        for workdir in (whole, killed)
    )
    equal = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), one, other)
    return {
        "steps": setting.num_steps,
        "resumed_from": resumed_from,
        "flag": DETERMINISTIC,
        "bit_identical": all(jax.tree.leaves(equal)),
    }


@contextlib.contextmanager
def _train(setting: Setting, workdir: Path, env: Mapping[str, str]) -> Iterator[Process]:
    """Starts a training in a process of its own; it does not outlive the block."""
    workdir.parent.mkdir(exist_ok=True)
    every = max(setting.num_steps // 4, 1)
    flags = [
        *setting.train_flags,
        f"--workdir={workdir}",
        f"--config.data.dir={setting.data_dir}",
        f"--config.train.num_steps={setting.num_steps}",
        f"--config.train.log_every={max(every // 2, 1)}",
        "--config.train.evaluate_every_epochs=0",
        f"--config.checkpoint.every_steps={every}",
    ]
    with workdir.with_suffix(".log").open("ab") as log:
        process = setting.start(flags, env, log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _finish(process: Process, workdir: Path) -> None:
    if process.wait():
        raise RuntimeError(f"the training failed:\n{_log(workdir)}")


def _log(workdir: Path) -> str:
    return workdir.with_suffix(".log").read_text(errors="replace")[-400:]


def _checkpoints(workdir: Path) -> list[int]:
    """Steps whose checkpoints are complete."""
    manifests = (workdir / "checkpoints").glob(f"*/{manifest.FILE_NAME}")
    return [int(path.parent.name) for path in manifests if path.parent.name.isdigit()]
