"""Trains the network, its parts and the baselines it is measured against: one table.

    python -m experiments.ablate --config=experiments/configs/lfwa_small.py --out=runs/ablation \\
        --config.data.dir=data/lfwa --seeds=1,global:3,+AML+G2FF:3

Every cell and seed is the two commands anyone could type, `experiments.train` and
`experiments.evaluate`, in a folder of its own, OUT/CELL/seed-N. Each is a process, so that the
memory of a device comes back and a crash costs one cell. OUT/ablation.md, .csv and .svg are written
again after each. The same command goes on where an interrupted one stopped. docs/experiments.md
says how to read the table.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ml_collections
from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from experiments import cli
from experiments.ablation.cells import CELLS, Run, check, claim, parse_seeds, plan
from experiments.ablation.table import LabelledSplit, read_labels, summarize, write
from mgmtn_jax.data import pipeline, schema
from mgmtn_jax.data.storage import is_local
from mgmtn_jax.runs.workdir import git_revision, run_metadata
from mgmtn_jax.training import optimization

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The full network, one of experiments/configs/*.py."
)
_OUT = flags.DEFINE_string("out", None, "Local folder for the trainings and the table.")
_CELLS = flags.DEFINE_list(
    "cells",
    list(CELLS),
    "Which to train; the first is what the others are compared with.",
)
_SEEDS = flags.DEFINE_list(
    "seeds", ["3"], "Seeds of every cell, then exceptions: --seeds=1,global:3,+AML+G2FF:3."
)
_SPLIT = flags.DEFINE_string("split", "validation", "Split that the table is about.")


def ablate(
    config: ml_collections.ConfigDict,
    config_arguments: Sequence[str],
    out_dir: epath.PathLike,
    seeds: Mapping[str, int],
    split: str,
) -> None:
    """Trains and evaluates what is not yet finished, and writes the table after each.

    Args:
      config: of the full network.
      config_arguments: the flags that give `config` to another program.
      out_dir: a local folder.
      seeds: cell -> number of seeds, from `config.train.seed` on. The first cell is the baseline.
      split: that the table is about.

    Raises:
      ValueError, OSError: before anything is trained, if a cell's config, the data or the folder
        does not fit; at the end, if a training failed, with its folder.
    """
    if not is_local(out_dir):
        raise ValueError(f"--out={out_dir} must be a local folder")
    out = Path(out_dir)
    attribute_set = schema.load_attribute_set(config.data.dir)
    labels = read_labels(config.data.dir, split)
    num_examples = pipeline.num_examples(config.data.dir, config.data.train_split)
    num_steps = optimization.num_steps(config, num_examples)
    check(config, attribute_set, seeds)

    with _locked(out):
        claim(out, run_metadata(config, attribute_set, num_examples))
        runs = plan(out, seeds, config.train.seed)
        failed = []
        for number, run in enumerate(runs, 1):
            name = f"cell {number} of {len(runs)}: {run.cell}, seed {run.seed}"
            if (run.workdir / split).exists():
                logging.info("%s is finished", name)
                continue
            logging.info(name)
            if not _train_and_evaluate(run, config_arguments, config.data.dir, split, num_steps):
                logging.error("%s failed; what it said stands above", name)
                failed.append(run)
                continue
            _write_table(out, runs, labels, split)
        # Also where nothing was left to do: another split or choice of cells is another table.
        _write_table(out, runs, labels, split)
    if failed:
        folders = ", ".join(str(run.workdir) for run in failed)
        raise ChildProcessError(
            f"{len(failed)} of {len(runs)} trainings failed: {folders}; "
            "the same command tries them again"
        )


def _train_and_evaluate(
    run: Run, config_arguments: Sequence[str], data_dir: str, split: str, num_steps: int
) -> bool:
    """Whether both commands came to their end; then RUN/SPLIT is there, and whole."""
    partial = run.workdir / f"{split}.partial"
    train = [
        "experiments.train",
        *config_arguments,
        *(f"--config.{field}={value}" for field, value in run.overrides.items()),
        f"--workdir={run.workdir}",
    ]
    evaluate = [
        "experiments.evaluate",
        f"--workdir={run.workdir}",
        f"--step={num_steps}",  # fails if someone stopped the training alone
        f"--data_dir={data_dir}",
        f"--split={split}",
        f"--out={partial}",
    ]
    if _call(train) or _call(evaluate):
        return False
    partial.rename(run.workdir / split)
    return True


def _call(arguments: Sequence[str]) -> int:
    """Runs a program of ours to its end, and returns its exit status.

    Ctrl-C in a terminal goes to a whole process group. The program has one of its own, so that all
    it gets is one SIGTERM, upon which a training saves its step. It inherits the lock: if it
    outlives us, no second ablation writes beside it.
    """
    logging.info("python -m %s", shlex.join(arguments))
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, process_group=0, close_fds=False)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def _write_table(out: Path, runs: Sequence[Run], labels: LabelledSplit, split: str) -> None:
    """Writes the table of what is finished, once the baseline is."""
    finished: dict[str, list[Path]] = {cell: [] for cell in dict.fromkeys(r.cell for r in runs)}
    for run in runs:
        if (run.workdir / split).exists():
            finished[run.cell].append(run.workdir / split)
    if not finished[runs[0].cell]:
        return
    write(
        out,
        summarize({k: v for k, v in finished.items() if v}, labels),
        title=f"Ablation on {split}, {len(labels.keys)} faces",
        provenance={
            "Command": f"`{shlex.join(['python', '-m', 'experiments.ablate', *sys.argv[1:]])}`",
            "Code": git_revision(),
            "Finished": f"{sum(map(len, finished.values()))} of {len(runs)} trainings",
        },
    )
    logging.info("table: %s", out / "ablation.md")


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keeps a second ablation out of the folder, until no process is left that has the lock."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another ablation is at work in {out}") from None
        os.set_inheritable(file.fileno(), True)
        yield


def _main() -> None:
    flag = flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops like Ctrl-C
    try:
        ablate(
            _CONFIG.value,
            [
                f"--config={config_flags.get_config_filename(flag)}",
                *(f"--config.{field}={value}" for field, value in overrides.items()),
            ],
            _OUT.value,
            parse_seeds(_CELLS.value, _SEEDS.value),
            _SPLIT.value,
        )
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "out"])
    cli.run(_main)
