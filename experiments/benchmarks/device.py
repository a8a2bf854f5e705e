"""One report of how this project runs on the device at hand: speed, resumption, exactness, profile.

Each section is written to `device.json` and `device.md` as soon as it is measured, so that a run
that is cut short keeps what it has.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import tqdm
from absl import logging

from experiments.benchmarks import timm_resnet50
from experiments.benchmarks.device_markdown import Section, markdown
from experiments.benchmarks.device_trainings import (
    Setting,
    measure_resumption,
    measure_training,
)
from experiments.benchmarks.step import CompiledNetwork, compile_network, mean_seconds, repetitions
from mgmtn_jax.data import pipeline
from mgmtn_jax.evaluation.prediction import make_predict
from mgmtn_jax.evaluation.predictor import Predictor
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.models.layers import Landmarks
from mgmtn_jax.training.profiling import peak_flops

NETWORKS = ("trunk alone", "MGMTN", "reported form")
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest difference of a probability from the CPU's in float32, by dtype of the computation."""
_ROUNDS = 3
_PROFILED_STEPS = 10


def measure_device(setting: Setting) -> dict[str, Section]:
    """Measures every section in turn and writes both files after each.

    The trainings run first, in processes of their own, because a TPU belongs to one process.

    Returns:
      Section -> its measurements; a section that failed has only `error`, one that came too late
      only `skipped`.
    """
    setting.out_dir.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * setting.minutes
    report: dict[str, Section] = {}
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        sections: dict[str, Callable[[], Section]] = {
            "training": functools.partial(measure_training, setting, runs / "training"),
            "resumption": functools.partial(measure_resumption, setting, runs),
            "device": _device,
            "exactness": functools.partial(_exactness, setting, runs / "training"),
            "networks": functools.partial(_networks, setting, deadline),
            "profile": functools.partial(_profile, setting, runs / "trace"),
        }
        if setting.against_timm:
            sections["timm"] = functools.partial(_timm, setting)
        for name, measure in tqdm.tqdm(sections.items(), "device", disable=None):
            report[name] = _section(measure, deadline)
            if reason := report[name].get("error"):
                logging.warning("%s: %s", name, reason)
            (setting.out_dir / "device.json").write_text(json.dumps(report, indent=1) + "\n")
            (setting.out_dir / "device.md").write_text(markdown(report))
    return report


def _section(measure: Callable[[], Section], deadline: float) -> Section:
    if time.monotonic() > deadline:
        return {"skipped": "the time was over; --minutes grants more"}
    start = time.monotonic()
    try:
        row = measure()
    except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
        return {"error": " ".join(str(error).split())[:500]}
    return row | {"section_seconds": time.monotonic() - start}


def _device() -> Section:
    """Names the hardware and the software."""
    device = jax.devices()[0]
    return {
        "kind": device.device_kind,
        "platform": device.platform,
        "count": jax.device_count(),
        "jax": jax.__version__,
        "peak_flops": peak_flops(),
    }


def _exactness(setting: Setting, workdir: Path) -> Section:
    """Compares one checkpoint's probabilities on the device with those on the CPU."""
    predictor = Predictor.from_workdir(workdir)
    config, attribute_set = predictor.config, predictor.attribute_set
    batches = pipeline.evaluation_batches(
        setting.data_dir,
        split=config.data.validation_split,
        batch_size=32,
        image_size=config.data.image_size,
        num_threads=config.data.num_threads,
    )
    with contextlib.closing(batches):
        batch = next(batches)
    variables = jax.device_get(predictor.variables)

    def probabilities(dtype: str, device: jax.Device) -> np.ndarray:
        changed = config.copy_and_resolve_references()
        changed.model.dtype = dtype
        predict = make_predict(functional.create(network_builder(changed, attribute_set)), changed)

        def run(variables: dict[str, Any], batch: dict[str, jax.Array]) -> jax.Array:
            landmarks = Landmarks(batch["landmarks"], batch["landmarks_valid"])
            params, batch_stats = variables["params"], variables["batch_stats"]
            return predict(params, batch_stats, batch["image"], landmarks)[0]

        operands = jax.device_put((variables, batch), device)
        # A TPU and a GPU multiply float32 in fewer bits unless told otherwise.
        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            return jax.device_get(jax.jit(run)(*operands))

    expected = probabilities("float32", jax.devices("cpu")[0])
    differences = {
        dtype: float(np.abs(probabilities(dtype, jax.devices()[0]) - expected).max())
        for dtype in TOLERANCE
    }
    return {
        "faces": len(expected),
        "largest_difference": differences,
        "within_tolerance": all(differences[dtype] <= TOLERANCE[dtype] for dtype in TOLERANCE),
    }


def _networks(setting: Setting, deadline: float) -> Section:
    """Times the training step of each network, alternating, until memory or time ends."""
    rows: list[dict[str, Any]] = []
    fitting = list(NETWORKS)
    for batch_size in setting.batch_sizes:
        if time.monotonic() > deadline or not fitting:
            break
        with concurrent.futures.ThreadPoolExecutor() as pool:
            create = functools.partial(_compile_if_it_fits, setting.config, batch_size)
            compiled = dict(zip(fitting, pool.map(create, fitting), strict=True))
        rows += [
            {"network": name, "batch_size": batch_size, "fits": False}
            for name, network in compiled.items()
            if network is None
        ]
        fitted = {name: network for name, network in compiled.items() if network is not None}
        fitting = list(fitted)
        times = _alternate([network.calls[1] for network in fitted.values()])
        for (name, network), step_seconds in zip(fitted.items(), times, strict=True):
            rows.append(_network_row(name, network, batch_size, step_seconds))
    return {"rows": rows}


def _compile_if_it_fits(
    config: ml_collections.ConfigDict, batch_size: int, name: str
) -> CompiledNetwork | None:
    try:
        network = compile_network(network_config(config, name, batch_size))
        jax.block_until_ready(network.calls[1]())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    return network


def network_config(
    config: ml_collections.ConfigDict, name: str, batch_size: int
) -> ml_collections.ConfigDict:
    """Returns the config of one of `NETWORKS`.

    The reported form has masks from a U-Net, and a ResNeSt-50 in place of a ResNet-50.
    """
    changed = config.copy_and_resolve_references()
    changed.data.batch_size = batch_size
    if name == "trunk alone":
        changed.model.name = "global"
    if name == "reported form":
        changed.model.masks, changed.model.mask_width = "unet", config.model.width
        if config.model.trunk == "resnet50":
            changed.model.trunk = "resnest50d"
    return changed


def _network_row(
    name: str, network: CompiledNetwork, batch_size: int, step_seconds: float
) -> dict[str, Any]:
    # Forward and backward pass take three times the forward pass, two operations each.
    flops = 6 * batch_size * (network.sizes["multiply_adds"] or 0)
    peak = peak_flops()
    return {
        "network": name,
        "batch_size": batch_size,
        "fits": True,
        "images_per_second": batch_size / step_seconds,
        "step_bytes": network.sizes["step_bytes"],
        "utilization": flops / step_seconds / peak if peak and flops else None,
    }


def _timm(setting: Setting) -> Section:
    """Times timm's ResNet-50 in PyTorch and our trunk alone, alternating."""
    batch_size = setting.batch_sizes[0]
    theirs = timm_resnet50.create(setting.config.data.image_size, batch_size)
    ours = compile_network(network_config(setting.config, NETWORKS[0], batch_size)).calls[1]
    ours_seconds, theirs_seconds = _alternate([ours, theirs])
    return {
        "batch_size": batch_size,
        "versions": timm_resnet50.versions(),
        "ours_images_per_second": batch_size / ours_seconds,
        "theirs_images_per_second": batch_size / theirs_seconds,
        "ratio": theirs_seconds / ours_seconds,
    }


def _alternate(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """Median seconds of each call, measured in turns, so that a disturbance affects all alike."""
    counts = [repetitions(call) for call in calls]
    times = [
        [mean_seconds(call, count) for call, count in zip(calls, counts, strict=True)]
        for _ in range(_ROUNDS)
    ]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _profile(setting: Setting, folder: Path) -> Section:
    """Traces steps of MGMTN and names the operations that take the most time."""
    config = network_config(setting.config, "MGMTN", setting.batch_sizes[0])
    train = compile_network(config).calls[1]
    jax.block_until_ready(train())
    with jax.profiler.trace(folder):
        for _ in range(_PROFILED_STEPS):
            result = train()
        jax.block_until_ready(result)
    (path,) = folder.rglob("*.xplane.pb")
    total = operation_seconds(jax.profiler.ProfileData.from_file(str(path)))
    whole = sum(total.values())
    if not whole:
        raise RuntimeError("the profile names no operation of the device")
    return {
        "batch_size": config.data.batch_size,
        "steps": _PROFILED_STEPS,
        "largest": [
            {"operation": name, "fraction": spent / whole} for name, spent in total.most_common(5)
        ],
    }


_NO_OPERATIONS = ("end: ", "Thread", "Wait")
"""Starts of the names of other events on the threads of the CPU's client."""


def operation_seconds(profile: jax.profiler.ProfileData) -> collections.Counter[str]:
    """Sums the seconds of each operation of XLA over all devices of a profile.

    TPUs and GPUs have planes of their own; the CPU's operations are on the threads of its client.
    A device's plane may hold none: libtpu, once loaded, adds one for its network to any profile.
    """
    device: collections.Counter[str] = collections.Counter()
    host: collections.Counter[str] = collections.Counter()
    for plane in profile.planes:
        total = device if plane.name.startswith("/device:") else host
        for line in plane.lines:
            # A GPU has a line for each stream beside the ones that group them.
            if not line.name.startswith(("XLA Ops", "Stream", "tf_XLA")):
                continue
            for event in line.events:
                if not event.name.startswith(_NO_OPERATIONS) and "::" not in event.name:
                    total[event.name] += event.duration_ns / 1e9
    return device or host
