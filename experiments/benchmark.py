"""Measures how fast the parts are, on this machine and one's own data.

    python -m experiments.benchmark input --data_dir=DIR [--image_size=224] [--batch_size=64]

One JSON line for each figure. Close other programs first; the medians forgive short disturbances,
not a busy machine.
"""

from __future__ import annotations

import json
import os

from absl import app, flags

from experiments import benchmark_input, cli

_DATA_DIR = flags.DEFINE_string("data_dir", None, "A data set folder.", required=True)
_SPLIT = flags.DEFINE_string("split", "train", "The split that is read.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "Side of the crops in pixels.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Faces in a batch.", lower_bound=1)
_NUM_THREADS = flags.DEFINE_integer(
    "num_threads", os.cpu_count() or 1, "Threads of the pipeline.", lower_bound=1
)
_NUM_BATCHES = flags.DEFINE_integer("num_batches", 40, "Batches in a measurement.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements; the median counts.", lower_bound=1)


def measure_input() -> None:
    """Batches a training step would be fed with, beside tf.data (if installed) and Pillow."""
    setting = benchmark_input.Setting(
        _DATA_DIR.value, _SPLIT.value, _IMAGE_SIZE.value, _BATCH_SIZE.value, _NUM_THREADS.value
    )
    print(json.dumps(benchmark_input.decode_rate(setting)), flush=True)
    for figure in benchmark_input.figures(setting, _NUM_BATCHES.value, _ROUNDS.value):
        print(json.dumps(figure), flush=True)


BENCHMARKS = {"input": measure_input}


def main(*names: str) -> None:
    if len(names) != 1 or names[0] not in BENCHMARKS:
        raise app.UsageError(f"name one benchmark: {', '.join(BENCHMARKS)}")
    BENCHMARKS[names[0]]()


if __name__ == "__main__":
    cli.run(main, arguments=True)
