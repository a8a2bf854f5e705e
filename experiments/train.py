"""Trains MGMTN, or the global baseline, on a data set folder.

    python -m experiments.train --config=experiments/configs/demo.py --workdir=runs/demo \\
        --config.data.dir=data/drawn

Any field of the config can be overridden as --config.group.field=value. The same command goes on
where an interrupted run stopped.
"""

from __future__ import annotations

import functools
import json
import math
import signal
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
import tqdm
from absl import flags, logging
from etils import epath
from jax.sharding import Mesh
from ml_collections import config_flags

from experiments import cli
from mgmtn_jax import (
    checkpointing,
    inference,
    metrics,
    partitioning,
    pretraining,
    training,
)
from mgmtn_jax.attributes import AttributeSet
from mgmtn_jax.data import pipeline, schema
from mgmtn_jax.data.augmentation import Augmentation
from mgmtn_jax.metric_writer import MetricWriter
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.progress import Speed

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment, one of experiments/configs/*.py."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints, config.json, metrics.jsonl and TensorBoard events go."
)


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: epath.PathLike) -> None:
    """Runs a training from wherever `workdir` stands to its end.

    Raises:
      ValueError: before anything compiles, if the config does not fit the devices, the data or the
        run that `workdir` holds.
      FloatingPointError: if the loss is not finite. No checkpoint of that state is written.
    """
    workdir = epath.Path(workdir)

    # --- data set
    attributes = schema.load_attribute_set(config.data.dir)
    num_examples = pipeline.num_examples(config.data.dir, config.data.train_split)
    steps_per_epoch = num_examples / config.data.batch_size
    num_steps = config.train.num_steps or round(config.train.num_epochs * steps_per_epoch)

    # --- mesh, network, optimizer
    mesh = partitioning.create_mesh(config.mesh.data, config.mesh.fsdp, config.data.batch_size)
    build = network_builder(config, attributes)
    network = functional.create(build)
    optimizer, schedule = training.create_optimizer(config, num_steps)

    # --- state: its shape and place first, so that it is created or restored where it belongs
    init = functools.partial(training.init_state, build, optimizer)
    key = jax.random.key(config.train.seed)
    abstract_state = jax.eval_shape(init, key)
    shardings = partitioning.state_shardings(mesh, abstract_state)
    abstract_state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_state,
        shardings,
    )

    # --- resume: the config is compared before the arrays are read, because its message is the
    # clearer one
    metadata = checkpointing.run_metadata(config, attributes, num_examples)
    _claim_workdir(workdir, metadata)
    checkpoints = checkpointing.Checkpoints(
        workdir, keep=config.checkpoint.keep, keep_best=config.checkpoint.keep_best
    )
    state = checkpoints.restore_latest(abstract_state)
    if state is None:
        # Dozens of random draws take XLA's CPU backend half a minute to optimize, for one run.
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        state = jax.jit(init, out_shardings=shardings, compiler_options=options)(key)
        if config.model.pretrained:
            started = pretraining.with_pretrained(config.model, attributes, state)
            state = jax.device_put(started, shardings)
    start_step = int(state["step"])
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    logging.info(
        "%s on %s x %d: %.2f M parameters, %d training faces, steps %d to %d",
        config.model.name,
        jax.devices()[0].device_kind,
        jax.device_count(),
        num_parameters / 1e6,
        num_examples,
        start_step,
        num_steps,
    )

    # --- the step; pjit is `jax.jit` with shardings today
    batch_sharding, replicated = partitioning.batch_sharding(mesh), partitioning.replicated(mesh)
    train_step = jax.jit(
        training.make_train_step(network, optimizer, schedule, config),
        in_shardings=(shardings, batch_sharding),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )
    eval_step = jax.jit(
        training.make_eval_step(network, config),
        in_shardings=(shardings["params"], shardings["batch_stats"], batch_sharding),
        out_shardings=replicated,
    )

    # --- loop
    stop = _stop_on_sigterm()
    writer = MetricWriter(workdir, start_step)
    batches = pipeline.training_batches(
        config.data.dir,
        split=config.data.train_split,
        batch_size=config.data.batch_size,
        image_size=config.data.image_size,
        seed=config.train.seed,
        start_step=start_step,
        augmentation=Augmentation(**config.augmentation),
        num_threads=config.data.num_threads,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        on_corrupt=config.data.on_corrupt,
        cache=config.data.cache,
    )
    evaluate_every = round(config.train.evaluate_every_epochs * steps_per_epoch) or num_steps
    speed = Speed(config.data.batch_size, num_steps, start_step)
    steps = range(start_step, num_steps)
    bar = tqdm.tqdm(steps, "train", num_steps, initial=start_step, disable=None)
    for step in bar:
        with speed.waiting():
            batch = next(batches)
        state, scalars = train_step(state, partitioning.shard_batch(mesh, batch))
        done = step + 1
        if done % config.train.log_every == 0 or done == num_steps:
            row = {name: float(value) for name, value in jax.device_get(scalars).items()}
            row |= speed.measure(done)
            _require_finite(done, row)
            writer.write(done, "train", row)
            bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['accuracy']:.1f}")
            logging.info(speed.describe(done, row))
        validation = None
        if done % evaluate_every == 0 or done == num_steps:
            jax.block_until_ready(state)  # what is still running is training, not evaluation
            with speed.paused():
                validation = _evaluate(config, attributes, mesh, eval_step, state)
            writer.write(done, "validation", validation)
            logging.info("validation %s", " ".join(f"{k} {v:.2f}" for k, v in validation.items()))
        best = validation is not None and checkpoints.is_best(validation["accuracy"])
        if done % config.checkpoint.every_steps == 0 or best or done == num_steps or stop():
            with speed.paused():
                _require_finite(done, jax.device_get(scalars))
                checkpoints.save(done, state, metadata, validation)
        if stop():
            logging.warning("SIGTERM: saved step %d; the same command goes on from here", done)
            break
    batches.close()
    checkpoints.close()  # waits for the last save
    writer.close()


def _evaluate(
    config: ml_collections.ConfigDict,
    attributes: AttributeSet,
    mesh: Mesh,
    eval_step: Callable,
    state: training.State,
) -> dict[str, float]:
    """Mean accuracy, balanced accuracy and mask IoU on the validation split, in percent."""
    predictions = inference.predict_split(
        functools.partial(eval_step, state.get("ema", state["params"]), state["batch_stats"]),
        pipeline.evaluation_batches(
            config.data.dir,
            split=config.data.validation_split,
            batch_size=config.data.batch_size,
            image_size=config.data.image_size,
            num_threads=config.data.num_threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            on_corrupt=config.data.on_corrupt,
        ),
        mesh,
    )
    figures = metrics.attribute_metrics(predictions.probabilities, predictions.attributes)
    row = {
        "accuracy": float(np.nanmean(figures["accuracy"])),
        "balanced_accuracy": float(np.nanmean(figures["balanced_accuracy"])),
    }
    if predictions.mask_iou:
        row["mask_iou"] = 100 * float(np.mean(list(predictions.mask_iou.values())))
    return row


def _claim_workdir(workdir: epath.Path, metadata: dict) -> None:
    """Writes `config.json`, or checks that the one there belongs to the same run."""
    path = workdir / "config.json"
    if path.exists():
        saved = json.loads(path.read_text())
        differing = checkpointing.differing_fields(saved, metadata)
        if differing:
            raise ValueError(f"{workdir} holds another run: {'; '.join(differing)}")
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(metadata, indent=1))


def _require_finite(step: int, scalars: dict) -> None:
    if not math.isfinite(scalars["loss"]):
        terms = ", ".join(f"{name} {float(value):g}" for name, value in scalars.items())
        raise FloatingPointError(f"the loss of step {step} is not finite: {terms}")


def _stop_on_sigterm() -> Callable[[], bool]:
    """Returns a function that says whether SIGTERM has come."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    return lambda: bool(received)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    cli.run(lambda: train_and_evaluate(_CONFIG.value, _WORKDIR.value))
