"""Measures the speed of each part on this machine and on your own data.

    python -m experiments.benchmark input --data_dir=DATA_SET [--image_size=224] [--batch_size=64]
    python -m experiments.benchmark landmarks --source=csv --data_dir=MY_FACES [--limit=1000]
    python -m experiments.benchmark predict --workdir=RUN --data_dir=PHOTOGRAPHS [--limit=1000]
    python -m experiments.benchmark collectives [--fsdp=8] [--batch_size=2] [--variants=...]
    python -m experiments.benchmark step [--image_size=224] [--batch_size=8] [--variants=...]

    python -m experiments.benchmark compile --config=experiments/configs/NAME.py \\
        --topology=v5e:16x16 [--step=train|eval|init] [--full] [--config.a.b=value]
    python -m experiments.benchmark device --data_dir=DATA_SET [--out=DIR] [--against=timm]

Prints one JSON line per measurement. Close other programs first: medians tolerate short
disturbances, not a busy machine.

`step` compares networks on one device and needs no data. A variant lists the fields of
`config.model` that differ from experiments/configs/common.py; ratios are relative to the first
variant. For example, the cost of a wider mask decoder on a ResNet-18 in bfloat16:

    python -m experiments.benchmark step --image_size=112 --batch_size=32 \\
        --variants='dtype=bfloat16 name=global,dtype=bfloat16,dtype=bfloat16 mask_width=64'

By default: ResNet-50 and ResNeSt-50, plain and as MGMTN, and the reported form. Each line has
`multiply_adds` of one face in the forward pass, as XLA counts them (convolutions without the zeros
of their padding); seconds of a batch, forward and for a training step; `step_bytes` of that step.

`collectives` compiles the step for all devices without running it, and reports the bytes that they
would exchange; --batch_size is the per-device batch size. Simulated devices suffice:

    XLA_FLAGS=--xla_force_host_platform_device_count=256 python -m experiments.benchmark \\
        collectives --variants=trunk=resnet50

`compile` compiles the steps of a config for TPU slices or GPUs that are not here (v4, v5e, v5p,
v6e, h100:8) and says whether they fit: memory per chip, FLOP, bytes, collectives. It needs the
compiler, pip install 'jax[tpu]' or 'jax-cuda13-plugin nvidia-cuda-nvcc', and no accelerator. --full
takes minutes longer and adds the compiler's estimate of cycles and a roofline. A run that does not
fit is one sentence with both numbers and what to change, and exit code 1.

`device` writes device.md and device.json about the accelerator at hand, in --minutes: training
from shards (images per second, waiting for data); a killed and a resumed training against an
uninterrupted one, bit by bit; probabilities on the device against the CPU's; images per second and
memory of the trunk alone, MGMTN and the reported form at --batch_size and two, four and eight times
as many; the five most expensive operations. --against=timm compares with timm's ResNet-50 in
PyTorch (pip install torch timm). --config is celeba_resnet50.py by default.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from experiments import cli
from experiments.benchmarks import topologies
from experiments.benchmarks.collectives import measure_collectives
from experiments.benchmarks.compile import STEPS, measure_compile, table
from experiments.benchmarks.device import measure_device
from experiments.benchmarks.device_trainings import Setting as DeviceSetting
from experiments.benchmarks.input import Setting, decode_rate, measure_readers
from experiments.benchmarks.landmarks import measure_landmarks
from experiments.benchmarks.predict import measure_prediction
from experiments.benchmarks.step import VARIANTS, measure_steps
from experiments.configs import celeba_resnet50
from landmarks.sources import SOURCES
from mgmtn_jax.evaluation.predictor import Predictor

_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "input, device: dataset folder. landmarks: folder of the source. predict: folder of images.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "predict: working directory of the trained network."
)
_SPLIT = flags.DEFINE_string("split", "train", "input: split to read.")
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 224, "input, step, collectives: side of the face crops in pixels.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Faces per batch: 64 by default, 8 for step, 2 per device for collectives; device: the least "
    "of four.",
    lower_bound=1,
)
_NUM_THREADS = flags.DEFINE_integer(
    "num_threads", os.cpu_count() or 1, "input: threads of the pipeline.", lower_bound=1
)
_NUM_BATCHES = flags.DEFINE_integer(
    "num_batches", 40, "input: batches per measurement.", lower_bound=1
)
_SOURCE = flags.DEFINE_enum("source", "drawn", list(SOURCES), "landmarks: source of the faces.")
_LIMIT = flags.DEFINE_integer(
    "limit",
    1000,
    "landmarks: number of faces, spread over the source. predict: number of images.",
    lower_bound=1,
)
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers",
    os.cpu_count() or 1,
    "landmarks, predict: number of processes to compare with one.",
    lower_bound=2,
)
_VARIANTS = flags.DEFINE_list(
    "variants",
    list(VARIANTS),
    "step, collectives: comma-separated networks, each as space-separated `field=value` pairs of "
    "config.model.",
)
_FSDP = flags.DEFINE_integer(
    "fsdp", 1, "collectives: number of devices that share each large parameter.", lower_bound=1
)
_CONFIG = config_flags.DEFINE_config_file("config", None, "compile, device: the experiment.")
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "compile: CHIP:SHAPE, such as v5e:16x16, v5p:2x2x1 or h100:8."
)
_STEP = flags.DEFINE_enum("step", "train", STEPS, "compile: program to compile.")
_FULL = flags.DEFINE_bool(
    "full", False, "compile: optimize as for a run, and estimate cycles; takes minutes."
)
_OUT = flags.DEFINE_string("out", ".", "device: folder of device.md and device.json.")
_AGAINST = flags.DEFINE_enum("against", None, ["timm"], "device: compare with another library.")
_MINUTES = flags.DEFINE_float(
    "minutes", 8, "device: no measurement starts later than this.", lower_bound=0
)
_NUM_STEPS = flags.DEFINE_integer("num_steps", 200, "device: steps of a training.", lower_bound=8)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 5, "Number of measurements; the median is reported.", lower_bound=1
)


def _print(row: dict[str, Any]) -> None:
    """Prints a row as JSON, with four significant digits: more are not reproducible."""
    rounded = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in row.items()
    }
    print(json.dumps(rounded), flush=True)


def _input() -> None:
    """Benchmarks the input pipeline, beside tf.data (if installed) and Pillow."""
    if _DATA_DIR.value is None:
        raise app.UsageError("the benchmark `input` needs --data_dir, a dataset folder")
    setting = Setting(
        _DATA_DIR.value,
        _SPLIT.value,
        _IMAGE_SIZE.value,
        _BATCH_SIZE.value or 64,
        _NUM_THREADS.value,
    )
    _print(decode_rate(setting))
    for row in measure_readers(setting, _NUM_BATCHES.value, _ROUNDS.value):
        _print(row)


def _landmarks() -> None:
    """Benchmarks the landmark stage with one and several workers, beside a plain dlib loop."""
    for row in measure_landmarks(
        _SOURCE.value, _DATA_DIR.value, _LIMIT.value, _NUM_WORKERS.value, _ROUNDS.value
    ):
        _print(row)


def _step() -> None:
    """Benchmarks the forward pass and the training step of networks."""
    for row in measure_steps(
        _VARIANTS.value, _IMAGE_SIZE.value, _BATCH_SIZE.value or 8, _ROUNDS.value
    ):
        _print(row)


def _predict() -> None:
    """Benchmarks prediction on photographs, beside face finding and the network alone."""
    if _WORKDIR.value is None or _DATA_DIR.value is None:
        raise app.UsageError(
            "the benchmark `predict` needs --workdir, a trained network, and --data_dir, images"
        )
    row = measure_prediction(
        Predictor.from_workdir(_WORKDIR.value),
        [_DATA_DIR.value],
        _LIMIT.value,
        _BATCH_SIZE.value or 64,
        _NUM_WORKERS.value,
        _ROUNDS.value,
    )
    _print(row)


def _collectives() -> None:
    """Reports the bytes that devices exchange in a training step."""
    for variant in _VARIANTS.value:
        _print(measure_collectives(variant, _IMAGE_SIZE.value, _BATCH_SIZE.value or 2, _FSDP.value))


def _compile() -> None:
    """Compiles a config's step for accelerators that are not here."""
    if _CONFIG.value is None or _TOPOLOGY.value is None:
        raise app.UsageError(
            "the benchmark `compile` needs --config and --topology, such as v5e:16x16"
        )
    topology = topologies.parse(_TOPOLOGY.value)
    topologies.prepare_environment()
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    row = measure_compile(name, _CONFIG.value, topology, _STEP.value, _FULL.value)
    print(table(row), file=sys.stderr)
    _print(row)


def _device() -> None:
    """Writes a report about the accelerator at hand."""
    if _DATA_DIR.value is None:
        raise app.UsageError("the benchmark `device` needs --data_dir, a dataset folder")
    config, path, overrides = _CONFIG.value, celeba_resnet50.__file__, dict[str, Any]()
    if config is None:
        config = celeba_resnet50.get_config()
    else:
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        overrides = config_flags.get_override_values(flags.FLAGS["config"])
    fields = [f"--config.{name}={value}" for name, value in overrides.items()]
    smallest = _BATCH_SIZE.value or 64
    setting = DeviceSetting(
        _DATA_DIR.value,
        pathlib.Path(_OUT.value),
        config,
        [f"--config={path}", *fields],
        [smallest * 2**i for i in range(4)],
        _NUM_STEPS.value,
        _MINUTES.value,
        _AGAINST.value == "timm",
    )
    report = measure_device(setting)
    print((setting.out_dir / "device.md").read_text())
    failed = [name for name, section in report.items() if "error" in section]
    if failed:
        sys.exit(f"error: {', '.join(failed)} failed; device.md has the reasons")


BENCHMARKS = {
    "collectives": _collectives,
    "compile": _compile,
    "device": _device,
    "input": _input,
    "landmarks": _landmarks,
    "predict": _predict,
    "step": _step,
}


def main(*names: str) -> None:
    if len(names) != 1 or names[0] not in BENCHMARKS:
        raise app.UsageError(f"name one benchmark: {', '.join(BENCHMARKS)}")
    BENCHMARKS[names[0]]()


if __name__ == "__main__":
    cli.run(main, arguments=True)
