"""Trains MGMTN, or the global baseline, on a data set folder.

    python -m experiments.train --config=experiments/configs/demo.py --workdir=runs/demo \\
        --config.data.dir=data/drawn

Any field of the config can be overridden as --config.group.field=value. The same command goes on
where an interrupted run stopped. On a TPU pod or under Slurm the same command on every host is one
run; elsewhere --coordinator_address, --num_processes and --process_id make it one. docs/training.md
has the rest.
"""

from __future__ import annotations

import functools
import time

import jax
import ml_collections
import tqdm
from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from experiments import cli
from mgmtn_jax.data import pipeline, schema
from mgmtn_jax.data.augmentation import Augmentation
from mgmtn_jax.evaluation import prediction
from mgmtn_jax.models import functional
from mgmtn_jax.models.build import network_builder
from mgmtn_jax.runs import distributed, partitioning
from mgmtn_jax.runs.checkpoints import Checkpoints
from mgmtn_jax.runs.history import MetricWriter
from mgmtn_jax.runs.workdir import claim_workdir, run_metadata
from mgmtn_jax.training import optimization, profiling, progress
from mgmtn_jax.training.initialization import with_pretrained
from mgmtn_jax.training.step import init_state, make_train_step
from mgmtn_jax.training.validation import validate

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment, one of experiments/configs/*.py."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints, config.json, metrics.jsonl and TensorBoard events go."
)
_PROFILE = flags.DEFINE_string(
    "profile", None, "A:B writes a profiler's trace of steps A to B into the workdir."
)
_COORDINATOR = flags.DEFINE_string("coordinator_address", None, "host:port of process 0.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes the run has.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")


def train_and_evaluate(
    config: ml_collections.ConfigDict, workdir: epath.PathLike, profile: str | None = None
) -> None:
    """Runs a training from wherever `workdir` stands to its end.

    Args:
      config: see experiments/configs/common.py.
      workdir: see the flag.
      profile: steps to trace, see `profiling.Trace`.

    Raises:
      ValueError: before anything compiles, if the config does not fit the devices, the data or the
        run that `workdir` holds.
      FloatingPointError: if the loss is not finite. No checkpoint of that state is written.
    """
    workdir = epath.Path(workdir)
    trace = profiling.Trace(profile, workdir / "profile")

    # --- data set
    attribute_set = schema.load_attribute_set(config.data.dir)
    num_examples = pipeline.num_examples(config.data.dir, config.data.train_split)
    steps_per_epoch = num_examples / config.data.batch_size
    num_steps = optimization.num_steps(config, num_examples)

    batch_spec = pipeline.batch_spec(
        config.data.batch_size, config.data.image_size, len(attribute_set.names)
    )

    # --- mesh, network, optimizer
    mesh = partitioning.create_mesh(config.mesh.data, config.mesh.fsdp, config.data.batch_size)
    build = network_builder(config, attribute_set)
    network = functional.create(build, partitioning.parameters_at_use(mesh))
    optimizer, schedule = optimization.create_optimizer(config, num_steps)

    # --- state: its shape and place first, so that it is created or restored where it belongs
    init = functools.partial(init_state, build, optimizer, averaged=config.train.ema > 0)
    key = jax.random.key(config.train.seed)
    abstract_state = jax.eval_shape(init, key)
    shardings = partitioning.state_shardings(mesh, abstract_state)
    abstract_state = partitioning.with_shardings(abstract_state, shardings)

    # --- resume: the config is compared before the arrays are read, because its message is the
    # clearer one
    metadata = run_metadata(config, attribute_set, num_examples)
    claim_workdir(workdir, metadata)
    checkpoints = Checkpoints(
        workdir, keep=config.checkpoint.keep, keep_best=config.checkpoint.keep_best
    )
    state = checkpoints.restore_latest(abstract_state)
    if state is None:
        # Dozens of random draws take XLA's CPU backend half a minute to optimize, for one run.
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        state = jax.jit(init, out_shardings=shardings, compiler_options=options)(key)
        if config.model.pretrained:
            started = with_pretrained(config.model, attribute_set, state)
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
    if start_step >= num_steps:
        checkpoints.close()
        return

    # --- the step; pjit is `jax.jit` with shardings today. It is compiled once and for all here:
    # what comes out refuses batches of another shape instead of compiling again.
    start = time.perf_counter()
    batch_sharding, replicated = partitioning.batch_sharding(mesh), partitioning.replicated(mesh)
    train_step = (
        jax.jit(
            make_train_step(network, optimizer, schedule, config, attribute_set),
            in_shardings=(shardings, batch_sharding),
            out_shardings=(shardings, replicated),
            donate_argnums=0,
        )
        .lower(abstract_state, partitioning.with_shardings(batch_spec, batch_sharding))
        .compile()
    )
    step_flops, peak_flops = profiling.step_flops(train_step), profiling.peak_flops()
    logging.info(
        "the step was compiled in %.1f s: %.2f GFLOP on each device",
        time.perf_counter() - start,
        step_flops / 1e9,
    )
    eval_step = jax.jit(
        prediction.make_eval_step(network, config),
        in_shardings=(shardings["params"], shardings["batch_stats"], batch_sharding),
        out_shardings=replicated,
    )

    # --- loop; nothing reaches the devices or leaves them but by `device_put` and `device_get`
    stop_signal = distributed.stop_signal()
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
        local_process_count=distributed.local_process_count(),
        on_corrupt=config.data.on_corrupt,
        cache=config.data.cache,
    )
    evaluate_every = round(config.train.evaluate_every_epochs * steps_per_epoch) or num_steps
    peak_steps = peak_flops / step_flops if peak_flops and step_flops else None
    speed = progress.Speed(config.data.batch_size, num_steps, start_step, peak_steps)
    validated: dict[str, float] = {}
    bar = tqdm.tqdm(
        range(start_step, num_steps),
        "train",
        num_steps,
        initial=start_step,
        disable=None if jax.process_index() == 0 else True,
    )
    with jax.transfer_guard("disallow"):
        for step in bar:
            done = step + 1
            trace.before(done)
            with speed.waiting():
                batch = next(batches)
            state, scalars = train_step(state, partitioning.shard_batch(mesh, batch))
            trace.after(done, state)
            stopping, last = stop_signal(done), done == num_steps

            if done % config.train.log_every == 0 or last:
                row = {name: float(value) for name, value in jax.device_get(scalars).items()}
                row |= speed.measure(done)
                progress.require_finite(done, row)
                writer.write(done, "train", row)
                bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['accuracy']:.1f}")
                logging.info(speed.describe(done, row))

            is_best = False
            if evaluating := done % evaluate_every == 0 or last:
                jax.block_until_ready(state)  # what is still running is training, not evaluation
                with speed.paused():
                    validated = validate(config, mesh, eval_step, state)
                is_best = checkpoints.is_best(validated["accuracy"])
                writer.write(done, "validation", validated)
                logging.info("validation: %s", progress.terms(validated))

            if done % config.checkpoint.every_steps == 0 or is_best or stopping or last:
                with speed.paused():
                    progress.require_finite(done, jax.device_get(scalars))
                    checkpoints.save(done, state, metadata, validated if evaluating else None)
            if stopping:
                logging.warning("SIGTERM: saved step %d; the same command goes on from here", done)
                break

    # --- end
    batches.close()
    checkpoints.close()  # waits for the last save
    writer.close()
    logging.info(
        "%s in %s, %s: %s; %s; %s",
        config.model.name,
        workdir,
        "stopped" if stopping else "finished",
        speed.summary(),
        progress.terms(validated) or "not evaluated",
        profiling.describe_memory(),
    )


def _main() -> None:
    distributed.join(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    with distributed.ending_together():
        train_and_evaluate(_CONFIG.value, _WORKDIR.value, _PROFILE.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    cli.run(_main)
