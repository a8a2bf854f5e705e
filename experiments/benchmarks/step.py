"""Cost of networks per face: parameters, multiply-adds, time and memory."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from experiments.configs import common
from mgmtn_jax.attributes import CELEBA
from mgmtn_jax.data import pipeline
from mgmtn_jax.evaluation import prediction
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.training import optimization
from mgmtn_jax.training.step import init_state, make_train_step

VARIANTS = (
    "trunk=resnet50 name=global",
    "trunk=resnet50",
    "trunk=resnest50d name=global",
    "trunk=resnest50d",
    "trunk=resnest50d masks=unet mask_width=64",
)
"""Plain ResNet-50, ResNet-50 as MGMTN, both for ResNeSt-50, and the reported form (U-Net masks)."""

_TURN_SECONDS = 0.3  # Calls are repeated for this long, so that dispatch time does not dominate.


class CompiledNetwork(NamedTuple):
    """A compiled network on one device.

    Attributes:
      sizes: Measurements that need no clock: parameters, multiply_adds, step_bytes.
      calls: Forward pass and training step; each dispatches its program and returns its outputs.
    """

    sizes: dict[str, Any]
    calls: tuple[Callable[[], Any], Callable[[], Any]]


def measure_steps(
    variants: Sequence[str], image_size: int, batch_size: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Times all networks in turn, several times, so that a disturbance affects all alike.

    Args:
      variants: Fields of `config.model` that differ from `common.py`, as in `VARIANTS`. The others
        are compared with the first.
      image_size: Side of the face crops in pixels.
      batch_size: Faces per batch.
      rounds: Measurements of each network.

    Yields:
      One row per variant: number of parameters; multiply-adds of one face in the forward pass;
      median seconds of a batch, forward (attributes and masks) and for a training step; faces
      trained per second; bytes of the step's arguments and temporary buffers. Ratios are relative
      to the first variant; those of times are medians over rounds. Values that the XLA backend does
      not report are None.

    Raises:
      ValueError: If a variant names an unknown field or a value of the wrong type.
    """
    configs = [variant_config(variant, image_size, batch_size) for variant in variants]
    networks = []
    for variant, config in zip(variants, configs, strict=True):
        begin = time.perf_counter()
        networks.append(compile_network(config))
        logging.info("compiled %s in %.0f s", variant, time.perf_counter() - begin)
    counts = [[repetitions(call) for call in network.calls] for network in networks]
    seconds = np.empty((rounds, len(networks), 2))
    order = list(range(len(networks)))
    for turn in range(rounds):
        for i in order if turn % 2 else reversed(order):
            pairs = zip(networks[i].calls, counts[i], strict=True)
            seconds[turn, i] = [mean_seconds(call, count) for call, count in pairs]
    for i, (variant, network) in enumerate(zip(variants, networks, strict=True)):
        forward_seconds, step_seconds = np.median(seconds[:, i], axis=0)
        forward_ratio, step_ratio = np.median(seconds[:, i] / seconds[:, 0], axis=0)
        work, work_of_first = (n.sizes["multiply_adds"] for n in (network, networks[0]))
        yield {
            "figure": "step",
            "variant": variant,
            "device": jax.devices()[0].device_kind,
            "image_size": image_size,
            "batch_size": batch_size,
            **network.sizes,
            "forward_seconds": forward_seconds,
            "step_seconds": step_seconds,
            "images_per_second": batch_size / step_seconds,
            "multiply_adds_ratio": work_of_first and work / work_of_first,
            "forward_ratio": forward_ratio,
            "step_ratio": step_ratio,
        }


def variant_config(variant: str, image_size: int, batch_size: int) -> ml_collections.ConfigDict:
    """Creates the config of a variant.

    Raises:
      ValueError: If it names an unknown field of `config.model` or a value of the wrong type.
    """
    config = common.get_config()
    config.data.image_size, config.data.batch_size = image_size, batch_size
    for word in variant.split():
        field, _, value = word.partition("=")
        if field not in config.model:
            known = ", ".join(config.model)
            raise ValueError(
                f"variant {variant!r}: {field!r} is not a model field; choose from {known}"
            )
        kind = type(config.model[field])
        try:
            config.model[field] = kind(value)
        except ValueError as error:
            raise ValueError(
                f"variant {variant!r}: {value!r} is not a value of type {kind.__name__} for {field}"
            ) from error
    return config


def compile_network(config: ml_collections.ConfigDict) -> CompiledNetwork:
    """Compiles a network with random weights, its forward pass and its training step."""
    build = network_builder(config, CELEBA)
    network = functional.create(build)
    optimizer, schedule = optimization.create_optimizer(config, num_steps=10_000)
    init = functools.partial(init_state, build, optimizer)
    state = _fill(jax.eval_shape(init, jax.random.key(0)))
    batch = jax.device_put(noise(config.data.image_size, config.data.batch_size))
    dtype = jnp.dtype(config.model.dtype)

    def predict(
        params: functional.Variables, batch_stats: functional.Variables, images: jax.Array
    ) -> list[jax.Array]:
        outputs, _ = network(params, batch_stats, prediction.normalize(images, dtype))
        return [jax.nn.sigmoid(logits) for logits in outputs if logits is not None]

    lowered = jax.jit(predict).lower(state["params"], state["batch_stats"], batch["image"])
    predict_compiled = lowered.compile()
    step = make_train_step(network, optimizer, schedule, config, CELEBA)
    step_compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()

    def forward() -> Any:
        return predict_compiled(state["params"], state["batch_stats"], batch["image"])

    def train() -> Any:
        nonlocal state
        state, scalars = step_compiled(state, batch)
        return scalars

    # The program before optimization, so that the count is the same on every device.
    cost = lowered.cost_analysis()
    memory = step_compiled.memory_analysis()
    sizes = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state["params"])),
        "multiply_adds": cost and round(cost["flops"] / 2 / config.data.batch_size),
        "step_bytes": memory and memory.argument_size_in_bytes + memory.temp_size_in_bytes,
    }
    return CompiledNetwork(sizes, (forward, train))


def _fill(shapes: functional.State) -> functional.State:
    """Fills a state with random weights that keep activations in range.

    Drawn by NumPy, because compiling `init_state` takes XLA longer than compiling the step.
    """
    rng = np.random.default_rng(0)

    def parameter(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if leaf.ndim < 2:
            return np.ones(leaf.shape, leaf.dtype)
        fan_in = math.prod(leaf.shape[:-1])
        return rng.normal(0, math.sqrt(2 / fan_in), leaf.shape).astype(leaf.dtype)

    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    for name in ("params", "batch_stats"):
        state[name] = jax.tree.map(parameter, shapes[name])
    return jax.device_put(state)


def noise(image_size: int, batch_size: int) -> dict[str, np.ndarray]:
    """A batch of random pixels, points and labels in the pipeline's layout.

    The values do not affect the time of a step.
    """
    rng = np.random.default_rng(0)
    spec = pipeline.batch_spec(batch_size, image_size, len(CELEBA.names))
    values = {
        "image": rng.integers(0, 256, spec["image"].shape),
        "landmarks": rng.uniform(0, image_size, spec["landmarks"].shape),
        "landmarks_valid": np.ones(spec["landmarks_valid"].shape),
        "labels": rng.integers(0, 2, spec["labels"].shape),
    }
    return {name: values[name].astype(leaf.dtype) for name, leaf in spec.items()}


def repetitions(call: Callable[[], Any]) -> int:
    """Number of calls that take about `_TURN_SECONDS`."""
    mean_seconds(call, 1)  # The first call also loads the program.
    return max(1, round(_TURN_SECONDS / mean_seconds(call, 1)))


def mean_seconds(call: Callable[[], Any], count: int) -> float:
    """Mean seconds of a call, over `count` calls."""
    begin = time.perf_counter()
    for _ in range(count):
        result = call()
    jax.block_until_ready(result)
    return (time.perf_counter() - begin) / count
