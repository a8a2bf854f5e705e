"""Finds the 68 landmarks of every face of a source and writes a data set folder.

    python -m landmarks.precompute --source=drawn --limit=1000 --out_dir=DIR
    python -m landmarks.precompute --source=celeba --data_dir=CELEBA --out_dir=DIR
    python -m landmarks.precompute --source=csv --data_dir=MY_FACES --out_dir=DIR

Worker processes load dlib and make whole shards. The run may be killed at any time: the same
command, run again, makes the missing shards, and the data set is byte-identical to that of an
uninterrupted run with any number of workers.

Array jobs, here 32 on machines that share a file system, and then one run to finish the data set:

    python -m landmarks.precompute ... --shard_count=32 --shard_index=$SLURM_ARRAY_TASK_ID
    python -m landmarks.precompute ...
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from absl import app, flags
from tqdm import tqdm

from landmarks import stage, workers
from landmarks.shards import Shard
from landmarks.sources import Source
from landmarks.task import Task

_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    None,
    "Number of worker processes; by default one per CPU. The data set does not depend on it. Each "
    "worker loads dlib's landmark model (90 MB): use fewer if memory runs out.",
    lower_bound=1,
)
_SHARD_INDEX = flags.DEFINE_integer(
    "shard_index",
    None,
    "Index of this array job, from 0. It makes only its part of the shards and leaves the data set "
    "unfinished. When all jobs are done, run the command once without --shard_index and "
    "--shard_count to finish the data set.",
    lower_bound=0,
)
_SHARD_COUNT = flags.DEFINE_integer(
    "shard_count",
    None,
    "Number of array jobs that share --out_dir. They need not run at the same time.",
    lower_bound=1,
)
flags.adopt_module_key_flags(stage)


@flags.multi_flags_validator(
    ["shard_index", "shard_count"],
    "--shard_index needs a --shard_count greater than it, and --shard_count needs a --shard_index",
)
def _is_one_of_the_jobs(values: dict[str, int | None]) -> bool:
    index, count = values["shard_index"], values["shard_count"]
    if index is None or count is None:
        return index is count
    return index < count


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    index, count = _SHARD_INDEX.value, _SHARD_COUNT.value
    stage.run(make_shards, None if index is None or count is None else (index, count))


def make_shards(task: Task, source: Source, missing: Sequence[Shard]) -> None:
    """Makes shards in processes of this machine, with a progress bar."""
    num_workers = _NUM_WORKERS.value or len(os.sched_getaffinity(0))
    faces = sum(len(shard.indices) for shard in missing)
    with tqdm(total=faces, unit=" faces", desc="landmarks") as bar:

        def show(workers_ready: int, faces_done: int) -> None:
            bar.update(faces_done)

        workers.make_shards(task, source, missing, num_workers, show)


if __name__ == "__main__":
    app.run(main)
