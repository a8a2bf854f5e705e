"""Trains the full network, reduced variants and baselines, and compares them in one table.

    python -m experiments.ablate --config=experiments/configs/lfwa_small.py --out=runs/ablation \\
        --config.data.dir=data/lfwa --seeds=1,global:3,+AML+G2FF:3

With --folds=5 every face is tested, by a network that was trained without its person.

Every cell and seed runs `experiments.train` and `experiments.evaluate` in a folder of its own,
OUT/CELL/seed-N or OUT/CELL/fold-KofN-seed-N. Each command is a separate process, so that device
memory is released and a crash costs one cell. OUT/ablation.md, .csv and .svg are rewritten after
each cell. Run the same command again to resume an interrupted ablation. docs/experiments.md
explains the table.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ml_collections
from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from experiments import cli
from experiments.ablation import processes
from experiments.ablation.cells import (
    CELLS,
    Run,
    changed_config,
    check,
    claim,
    finished,
    parse_seeds,
    plan,
)
from experiments.ablation.rendering import write
from experiments.ablation.table import LabelledSplit, read_labels, summarize
from mgmtn_jax.data import pipeline
from mgmtn_jax.data.data_sets import load_attribute_set
from mgmtn_jax.data.storage import is_local
from mgmtn_jax.runs.workdir import git_revision, run_metadata
from mgmtn_jax.training import optimization


def ablate(
    config: ml_collections.ConfigDict,
    config_arguments: Sequence[str],
    out_dir: epath.PathLike,
    seeds: Mapping[str, int],
    split: str,
    num_folds: int = 0,
) -> None:
    """Trains and evaluates all unfinished runs, and writes the table after each.

    Args:
      config: Config of the full network.
      config_arguments: Flags that pass `config` to another command.
      out_dir: Local output folder.
      seeds: Cell -> number of seeds, starting at `config.train.seed`. The first cell is the
        baseline.
      split: Split to evaluate, or to deal into folds.
      num_folds: Number of folds for cross-validation; 0 trains on the config's own split.

    Raises:
      ValueError, OSError: Before any training, if a cell's config, the data or the folder is
        invalid.
      ChildProcessError: At the end, if a run failed; the message lists the folders.
    """
    if not is_local(out_dir):
        raise ValueError(f"--out={out_dir} is not local: runs and table need a local folder")
    if num_folds == 1:
        raise ValueError("--folds=1 leaves no faces to train on: choose at least 2 folds, or 0")
    out = Path(out_dir)
    attribute_set = load_attribute_set(config.data.dir, separate=config.data.separate)
    labels = read_labels(config.data.dir, split)
    check(config, attribute_set, seeds)
    runs = plan(out, seeds, config.train.seed, split, num_folds)
    for run in runs[: num_folds or 1]:  # Refuses a split that cannot be dealt.
        pipeline.num_examples(config.data.dir, run.split)
    num_examples = pipeline.num_examples(config.data.dir, config.data.train_split)

    with _locked(out):
        claim(out, run_metadata(config, attribute_set, num_examples))
        failed = []
        for number, run in enumerate(runs, 1):
            name = f"cell {number} of {len(runs)}: {run.cell}, {run.workdir.name}"
            if run.evaluation.exists():
                logging.info("%s is finished", name)
                continue
            logging.info(name)
            if not _train_and_evaluate(run, config_arguments, config):
                logging.error("%s failed; see its log above", name)
                failed.append(run)
                continue
            _write_table(out, runs, labels)
        # Needed even if nothing was left to train: the cells or the split may be others.
        _write_table(out, runs, labels)
    if failed:
        folders = ", ".join(str(run.workdir) for run in failed)
        raise ChildProcessError(
            f"{len(failed)} of {len(runs)} runs failed: {folders}; "
            "run the same command again to retry them"
        )


def _train_and_evaluate(
    run: Run, config_arguments: Sequence[str], config: ml_collections.ConfigDict
) -> bool:
    """Runs both commands of a run; on success the folder `run.evaluation` exists and is complete.

    Returns:
      True if both commands succeeded.
    """
    partial = run.workdir / f"{run.split}.partial"
    overrides = run.overrides
    train = [
        "experiments.train",
        *config_arguments,
        *(f"--config.{field}={value}" for field, value in overrides.items()),
        f"--workdir={run.workdir}",
    ]
    evaluate = [
        "experiments.evaluate",
        f"--workdir={run.workdir}",
        f"--step={_num_steps(run, config)}",  # fails if the training stopped early
        f"--data_dir={config.data.dir}",
        f"--split={run.split}",
        f"--out={partial}",
    ]
    if processes.call(train) or processes.call(evaluate):
        return False
    partial.rename(run.evaluation)
    return True


def _num_steps(run: Run, config: ml_collections.ConfigDict) -> int:
    """The number of steps of a run, whose cell may change it."""
    changed = changed_config(config, run.overrides)
    return optimization.num_steps(
        changed, pipeline.num_examples(changed.data.dir, changed.data.train_split)
    )


def _write_table(out: Path, runs: Sequence[Run], labels: LabelledSplit) -> None:
    """Writes the table of all finished runs, if the baseline is among them."""
    evaluated, splits = finished(runs)
    if runs[0].cell not in evaluated:
        return
    table = summarize(evaluated, labels)
    write(
        out,
        table.rows,
        title=(
            f"Ablation on {' and '.join(splits)}: {table.num_faces} faces of "
            f"{table.num_persons} persons"
        ),
        provenance={
            "Command": f"`{shlex.join(['python', '-m', 'experiments.ablate', *sys.argv[1:]])}`",
            "Code": git_revision(),
            "Finished": f"{sum(run.evaluation.exists() for run in runs)} of {len(runs)} runs",
        },
    )
    logging.info("table: %s", out / "ablation.md")


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Locks the folder against a second ablation until this process and its children end."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another ablation is running in {out}: wait for it, or choose another --out"
            ) from None
        os.set_inheritable(file.fileno(), True)
        yield


def _main() -> None:
    values, flag = flags.FLAGS, flags.FLAGS["config"]
    overrides = config_flags.get_override_values(flag)
    data, num_folds = values.config.data, values.folds
    split = f"{data.train_split}+{data.validation_split}" if num_folds else "validation"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # handled like Ctrl-C
    try:
        ablate(
            values.config,
            [
                f"--config={config_flags.get_config_filename(flag)}",
                *(f"--config.{field}={value}" for field, value in overrides.items()),
            ],
            values.out,
            parse_seeds(values.cells, values.seeds or ["1" if num_folds else "3"]),
            values.split or split,
            num_folds,
        )
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command again to resume")


def _define_flags() -> None:
    """Not on import: `experiments.train` has a flag of the same name."""
    config_flags.DEFINE_config_file(
        "config", None, "Config of the full network, one of experiments/configs/*.py."
    )
    flags.DEFINE_string("out", None, "Local output folder for the runs and the table.")
    flags.DEFINE_list(
        "cells",
        list(CELLS),
        "Cells to train; the others are compared with the first. FIELD=VALUE is a cell as well, "
        "such as model.fusion=add, and FIELD=VALUE;FIELD=VALUE changes two fields.",
    )
    flags.DEFINE_list(
        "seeds",
        None,
        "Number of seeds per cell, then exceptions: --seeds=1,global:3,+AML+G2FF:3. By default 3, "
        "and with --folds 1, which is one training for each fold.",
    )
    flags.DEFINE_string(
        "split",
        None,
        "Split to evaluate, by default validation. With --folds the split that is dealt, by "
        "default the config's training and validation splits together.",
    )
    flags.DEFINE_integer(
        "folds",
        0,
        "Number of folds, at least 2: the faces of --split are dealt into folds by person, each "
        "cell is trained once for each fold on the faces of the others, and the table is over all "
        "faces. 0 trains on the config's own split.",
        lower_bound=0,
    )
    flags.mark_flags_as_required(["config", "out"])


if __name__ == "__main__":
    _define_flags()
    cli.run(_main)
