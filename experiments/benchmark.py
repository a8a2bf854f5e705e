"""Measures how fast the parts are, on this machine and one's own data.

    python -m experiments.benchmark input --data_dir=DATA_SET [--image_size=224] [--batch_size=64]
    python -m experiments.benchmark landmarks --source=csv --data_dir=MY_FACES [--limit=1000]
    python -m experiments.benchmark predict --workdir=RUN --data_dir=PHOTOGRAPHS [--limit=1000]
    python -m experiments.benchmark collectives [--fsdp=8] [--batch_size=2] [--variants=...]
    python -m experiments.benchmark step [--image_size=224] [--batch_size=8] [--variants=...]

One JSON line for each figure. Close other programs first; the medians forgive short disturbances,
not a busy machine.

`step` compares networks on one device; it needs no data. A variant is what differs from
experiments/configs/common.py in its group `model`, and the first one counts as 1.0. What a wider
mask decoder costs a ResNet-18 in bfloat16, for example:

    python -m experiments.benchmark step --image_size=112 --batch_size=32 \\
        --variants='dtype=bfloat16 name=global,dtype=bfloat16,dtype=bfloat16 mask_width=64'

Without --variants: ResNet-50 and ResNeSt-50, plain and as MGMTN, and the reported form. Of each
you get `multiply_adds` of one face, forward, as XLA counts them (convolutions without the zeros of
their padding); seconds of a batch, forward and for a training step; `step_bytes` of that step.

`collectives` compiles the step for all devices, runs nothing, and says what they would send; the
batch is that of each device. Forced devices will do:

    XLA_FLAGS=--xla_force_host_platform_device_count=256 python -m experiments.benchmark \\
        collectives --variants=trunk=resnet50
"""

from __future__ import annotations

import json
import os
from typing import Any

from absl import app, flags

from experiments import cli
from experiments.benchmarks.collectives import collective_figure
from experiments.benchmarks.input import Setting, decode_rate, figures
from experiments.benchmarks.landmarks import landmark_figures
from experiments.benchmarks.predict import predict_figure
from experiments.benchmarks.step import VARIANTS, step_figures
from landmarks.sources import SOURCES
from mgmtn_jax.evaluation.predictor import Predictor

_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "input: a data set folder. landmarks: folder of the source. predict: images."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "predict: the training run.")
_SPLIT = flags.DEFINE_string("split", "train", "input: the split that is read.")
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 224, "input, step, collectives: side of the crops in pixels.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Faces in a batch. By default 64, in step 8; in collectives 2 for each device.",
    lower_bound=1,
)
_NUM_THREADS = flags.DEFINE_integer(
    "num_threads", os.cpu_count() or 1, "input: threads of the pipeline.", lower_bound=1
)
_NUM_BATCHES = flags.DEFINE_integer(
    "num_batches", 40, "input: batches in a measurement.", lower_bound=1
)
_SOURCE = flags.DEFINE_enum(
    "source", "drawn", list(SOURCES), "landmarks: where the faces come from."
)
_LIMIT = flags.DEFINE_integer(
    "limit",
    1000,
    "landmarks: how many faces, spread over the source. predict: of the images.",
    lower_bound=1,
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    os.cpu_count() or 1,
    "landmarks, predict: processes to compare with one.",
    lower_bound=2,
)
_VARIANTS = flags.DEFINE_list(
    "variants",
    list(VARIANTS),
    "step, collectives: networks, by commas; of each, `field=value` of config.model, by spaces.",
)
_FSDP = flags.DEFINE_integer(
    "fsdp", 1, "collectives: devices that share each large parameter.", lower_bound=1
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Measurements; the median counts.", lower_bound=1)


def _print(figure: dict[str, Any]) -> None:
    """Four digits are more than can be measured again."""
    shown = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in figure.items()
    }
    print(json.dumps(shown), flush=True)


def measure_input() -> None:
    """Batches a training step would be fed with, beside tf.data (if installed) and Pillow."""
    if _DATA_DIR.value is None:
        raise app.UsageError("the benchmark `input` needs --data_dir, a data set folder")
    setting = Setting(
        _DATA_DIR.value,
        _SPLIT.value,
        _IMAGE_SIZE.value,
        _BATCH_SIZE.value or 64,
        _NUM_THREADS.value,
    )
    _print(decode_rate(setting))
    for figure in figures(setting, _NUM_BATCHES.value, _ROUNDS.value):
        _print(figure)


def measure_landmarks() -> None:
    """The landmark stage with one and with several workers, beside a bare loop over dlib."""
    for figure in landmark_figures(
        _SOURCE.value, _DATA_DIR.value, _LIMIT.value, _NUM_WORKERS.value, _ROUNDS.value
    ):
        _print(figure)


def measure_step() -> None:
    """What networks cost, beside the first of them."""
    for figure in step_figures(
        _VARIANTS.value, _IMAGE_SIZE.value, _BATCH_SIZE.value or 8, _ROUNDS.value
    ):
        _print(figure)


def measure_predict() -> None:
    """Photographs answered, beside finding faces and asking the network apart."""
    if _WORKDIR.value is None or _DATA_DIR.value is None:
        raise app.UsageError(
            "the benchmark `predict` needs --workdir, a training run, and --data_dir"
        )
    figure = predict_figure(
        Predictor.from_workdir(_WORKDIR.value),
        [_DATA_DIR.value],
        _LIMIT.value,
        _BATCH_SIZE.value or 64,
        _NUM_WORKERS.value,
        _ROUNDS.value,
    )
    _print(figure)


def measure_collectives() -> None:
    """What devices send each other in a step."""
    for variant in _VARIANTS.value:
        figure = collective_figure(variant, _IMAGE_SIZE.value, _BATCH_SIZE.value or 2, _FSDP.value)
        _print(figure)


BENCHMARKS = {
    "collectives": measure_collectives,
    "input": measure_input,
    "landmarks": measure_landmarks,
    "predict": measure_predict,
    "step": measure_step,
}


def main(*names: str) -> None:
    if len(names) != 1 or names[0] not in BENCHMARKS:
        raise app.UsageError(f"name one benchmark: {', '.join(BENCHMARKS)}")
    BENCHMARKS[names[0]]()


if __name__ == "__main__":
    cli.run(main, arguments=True)
